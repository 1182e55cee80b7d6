"""Truths: a label's text or an index, cells that are yes or no, or numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnaudit.image_sets.files import file_inside
from cnnaudit.metrics.truths import check_truth, truth_array
from cnnaudit.specs import ModelSpec, Preprocessing
from cnnaudit.types import AuditError

SPEC = ModelSpec(
    name="net",
    builder="torchvision",
    weights=None,
    preprocessing=Preprocessing((8, 8), "box", "rgb", (0, 0, 0), (1, 1, 1)),
    score_from=None,
    roles={},
    task="classification",
    outputs=(),
    target="predicted",
    labels=("tabby", "crane", "1", "crane"),
)


@pytest.mark.parametrize(("truth", "index"), [("tabby", 0), ("3", 3), ("0", 0), ("1", 2)])
def test_a_truth_is_a_label_or_an_index(truth: str, index: int) -> None:
    check_truth(SPEC, 4, truth, "here")
    found = truth_array(SPEC, truth, 4)
    np.testing.assert_array_equal(found, np.eye(4)[index])


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("taby", "here: 'taby' is no class of the model 'net'. Did you mean 'tabby'?"),
        ("4", "an index from 0 to 3 or one of tabby, crane, 1, crane"),
        ("-1", "'-1' is no class"),
        ("crane", "stands for several classes of 'net'; give the index: 1, 3"),
    ],
)
def test_a_truth_that_is_no_class(truth: str, message: str) -> None:
    with pytest.raises(AuditError) as error:
        check_truth(SPEC, 4, truth, "here")
    assert message in str(error.value)


def test_many_labels_are_counted_not_listed() -> None:
    many = replace(SPEC, labels=tuple(f"class {n}" for n in range(1000)))
    with pytest.raises(AuditError, match=r"or one of its 1000 labels$"):
        check_truth(many, 1000, "zebra", "here")
    with pytest.raises(AuditError, match=r"an index from 0 to 999$"):
        check_truth(replace(SPEC, labels=()), 1000, "zebra", "here")


def test_a_truth_of_another_task_is_none(tmp_path: Path) -> None:
    check_truth(SPEC, 4, tmp_path / "cells.csv", "here")  # not read
    assert truth_array(SPEC, torch.zeros(4), 4) is None
    assert truth_array(SPEC, None, 4) is None
    regression = replace(SPEC, task="structured_regression", labels=())
    check_truth(regression, 4, "tabby", "here")
    assert truth_array(regression, "tabby", 4) is None
    np.testing.assert_array_equal(truth_array(regression, torch.ones(4), 4), np.ones(4))


def test_cells_are_yes_or_no_and_only_a_regressions_truth_is_any_number(tmp_path: Path) -> None:
    cells = replace(SPEC, task="structured_regression", labels=())
    (tmp_path / "cells.csv").write_text("x,y\n0,1\n1,0\n")
    check_truth(cells, 4, file_inside(tmp_path, "cells.csv", "here"), "here")
    (tmp_path / "pixels.csv").write_text("x,y\n48.3,1\n1,0\n")
    pixels = file_inside(tmp_path, "pixels.csv", "here")
    with pytest.raises(AuditError, match=r"has the value 48.3, .*model.net.task=regression"):
        check_truth(cells, 4, pixels, "here")
    check_truth(replace(cells, task="regression"), 4, pixels, "here")


@pytest.mark.parametrize("truth", ["3.5", "-2"])
def test_a_number_is_the_truth_of_a_regression_with_one_output(truth: str) -> None:
    one = replace(SPEC, task="regression", labels=())
    np.testing.assert_array_equal(truth_array(one, truth, 1), [float(truth)])
    assert truth_array(one, truth, 2) is None
    assert truth_array(one, "tabby", 1) is None
    assert truth_array(one, "nan", 1) is None
