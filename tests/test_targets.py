from __future__ import annotations

import pytest
import torch

from cnnaudit.targets import TARGETS, all_outputs, class_index, predicted
from cnnaudit.types import AuditError

SCORES = torch.tensor([[1.0, 5.0, -2.0, 0.0], [-3.0, -4.0, -1.0, -2.0]])


def test_all_outputs() -> None:
    assert all_outputs(SCORES).tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_predicted_is_each_images_own_highest_score() -> None:
    assert predicted(SCORES).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_predicted_takes_one_of_tied_scores() -> None:
    assert predicted(torch.zeros(3, 4)).sum(dim=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("index", [0, 3])
def test_class_index(index: int) -> None:
    weights = class_index(SCORES, index=index)
    assert weights.sum(dim=1).tolist() == [1, 1]
    assert weights[:, index].tolist() == [1, 1]


@pytest.mark.parametrize("index", [-1, 4])
def test_class_index_out_of_range(index: int) -> None:
    with pytest.raises(AuditError, match=rf"{index} is out of range, the model has 4 outputs"):
        class_index(SCORES, index=index)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_weights_have_the_type_of_the_scores(name: str) -> None:
    scores = SCORES.double()
    weights = TARGETS[name](scores, **({"index": 1} if name == "class" else {}))
    assert weights.dtype == torch.float64
    assert weights.shape == scores.shape
