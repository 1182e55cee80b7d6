from __future__ import annotations

from typing import Any

import pytest
import torch

from cnnaudit.specs import ModelSpec, OutputAxis, Preprocessing, TargetSpec
from cnnaudit.targets import TARGETS, resolve_target, weigh
from cnnaudit.types import AuditError

SCORES = torch.tensor([[1.0, 5.0, -2.0, 0.0], [-3.0, -4.0, -1.0, -2.0]])
TRUTHS = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])


def model(*axes: OutputAxis, labels: tuple[str, ...] = ()) -> ModelSpec:
    return ModelSpec(
        name="small",
        builder="",
        weights=None,
        preprocessing=Preprocessing((9, 7), "box", "rgb", (0, 0, 0), (1, 1, 1)),
        score_from=None,
        roles={},
        task="classification",
        outputs=axes,
        target="predicted",
        labels=labels,
    )


def resolved(uses: str, of: Any, spec: ModelSpec, n: int, sign: str = "positive"):
    return list(resolve_target(TargetSpec("mine", uses, {"of": of}, sign), spec, n))


def weights_of(target: TargetSpec) -> list[list[float]]:
    return weigh(target, SCORES, TRUTHS).tolist()


def plain(uses: str, sign: str = "positive") -> TargetSpec:
    return TargetSpec("mine", uses, {}, sign)


def test_all_outputs() -> None:
    assert weights_of(plain("all_outputs")) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_predicted_is_each_images_own_highest_score() -> None:
    assert weights_of(plain("predicted")) == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_predicted_takes_one_of_tied_scores() -> None:
    tied = weigh(plain("predicted"), torch.zeros(3, 4), torch.zeros(3, 4))
    assert tied.sum(dim=1).tolist() == [1, 1, 1]


def test_truth_is_the_true_class_or_every_true_cell() -> None:
    assert weights_of(plain("truth")) == TRUTHS.tolist()


def test_negative_is_what_speaks_against_it() -> None:
    assert weights_of(plain("predicted", "negative")) == [[0, -1, 0, 0], [0, 0, -1, 0]]


def test_one_yes_or_no_score_is_explained_as_it_is_whatever_its_answer() -> None:
    scores = torch.tensor([[-5.0], [2.0]])
    assert weigh(plain("predicted"), scores, None).tolist() == [[1], [1]]
    assert weigh(plain("predicted", "negative"), scores, None).tolist() == [[-1], [-1]]


@pytest.mark.parametrize("index", [0, 3])
def test_a_class_by_its_index(index: int) -> None:
    (target,) = resolved("class", index, model(), 4)
    assert target.name == "mine"
    weights = weigh(target, SCORES, TRUTHS)
    assert weights.sum(dim=1).tolist() == [1, 1]
    assert weights[:, index].tolist() == [1, 1]


def test_a_class_by_its_label_in_any_case() -> None:
    spec = model(labels=("tabby", "Persian cat", "crane", "crane"))
    (target,) = resolved("class", "persian cat", spec, 4)
    assert target.parameters == {"indices": [1]}


def test_several_classes_are_targets_of_their_own() -> None:
    spec = model(labels=("tabby", "Persian cat", "crane", "crane"))
    targets = resolved("class", [3, "tabby"], spec, 4, "negative")
    assert [target.name for target in targets] == ["mine 3", "mine tabby"]
    assert [target.parameters for target in targets] == [{"indices": [3]}, {"indices": [0]}]
    assert {target.sign for target in targets} == {"negative"}


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (4, r"target.mine.of: '4' is no class of the model 'small'.* from 0 to 3"),
        (-1, "'-1' is no class"),
        ("crane", "stands for several classes of 'small'; give the index: 2, 3"),
        ("cat", r"Did you mean 'Persian cat' \(1\)\?"),
        ("taby", "Did you mean 'tabby'"),
        ([], "names no class"),
    ],
)
def test_a_class_that_is_not_there_or_ambiguous(of: Any, message: str) -> None:
    spec = model(labels=("tabby", "Persian cat", "crane", "crane"))
    with pytest.raises(AuditError, match=message):
        resolved("class", of, spec, 4)


AXES = OutputAxis("distance", tuple(map(str, range(65)))), OutputAxis("sensor", ("left", "right"))


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ({"distance": "0:2", "sensor": "left"}, [0, 2]),
        ({"distance": "63:", "sensor": ["right", "left"]}, [127, 126, 129, 128]),
        ({"sensor": "right"}, list(range(1, 130, 2))),
        ({"distance": 7}, [14, 15]),
        ({"distance": [7, "9"], "sensor": "left"}, [14, 18]),
        ({"distance": "-1:"}, [128, 129]),
        ({}, list(range(130))),
    ],
)
def test_a_slice_of_a_structured_output(of: dict[str, Any], expected: list[int]) -> None:
    (target,) = resolved("outputs", of, model(*AXES), 130)
    assert target.parameters == {"indices": expected}


def test_a_slice_of_a_plain_output() -> None:
    (target,) = resolved("outputs", {"output": "1:3"}, model(), 4)
    assert weights_of(target) == [[0, 1, 1, 0], [0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"distanc": 3}, r"of.distanc: 'distanc' is no allowed axis. Did you mean 'distance'"),
        ({"sensor": "middle"}, r"of.sensor: 'middle' is no allowed label.* left, right"),
        ({"distance": "9:9"}, "'9:9' is empty, there are 65 places"),
        ({"distance": "a:b"}, "'a:b' is no slice, start:stop"),
        ({"distance": "1:2:3:4"}, "is no slice"),
    ],
)
def test_a_slice_that_is_not_there(of: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        resolved("outputs", of, model(*AXES), 130)


def test_a_weight_vector() -> None:
    (target,) = resolved("weights", [0.5, 0, 0, -2], model(), 4)
    assert weights_of(target) == [[0.5, 0, 0, -2], [0.5, 0, 0, -2]]
    with pytest.raises(AuditError, match="2 weights, the model 'small' has 4 outputs"):
        resolved("weights", [1, 2], model(), 4)


def test_what_is_not_resolved_is_checked_against_the_scores() -> None:
    with pytest.raises(AuditError, match="output 4 is out of range, the model has 4 outputs"):
        weights_of(TargetSpec("mine", "class", {"indices": [4]}))


OF = {"class": 1, "outputs": {}, "weights": [1, 2, 3, 4]}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_weights_have_the_type_of_the_scores(name: str) -> None:
    declared = TargetSpec("mine", name, {"of": OF[name]} if name in OF else {})
    (target,) = resolve_target(declared, model(), 4)
    weights = weigh(target, SCORES.double(), TRUTHS.double())
    assert weights.dtype == torch.float64
    assert weights.shape == SCORES.shape
