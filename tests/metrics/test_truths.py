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


@pytest.mark.parametrize("truth", ["3.5", "-2", "1", "12.5 -40", "1 0 1 1"])
def test_numbers_with_spaces_are_the_truth_of_as_many_outputs(truth: str) -> None:
    values = [float(part) for part in truth.split()]
    n = len(values)
    regression = replace(SPEC, task="regression", labels=())
    assert check_truth(regression, n, truth, "here")
    np.testing.assert_array_equal(truth_array(regression, truth, n), values)
    for other in (n + 1, "tabby", "nan", " ".join(["inf"] * n)):
        given, outputs = (truth, other) if isinstance(other, int) else (other, n)
        assert not check_truth(regression, outputs, given, "here")
        assert truth_array(regression, given, outputs) is None


def test_cells_in_a_text_are_yes_or_no() -> None:
    cells = replace(SPEC, task="structured_regression", labels=())
    assert check_truth(cells, 3, "1 0 1", "here")
    np.testing.assert_array_equal(truth_array(cells, "1 0 1", 3), [1, 0, 1])
    with pytest.raises(AuditError, match=r"the truth 1 0.5 1 has the value 0.5, .*yes or no"):
        check_truth(cells, 3, "1 0.5 1", "here")
