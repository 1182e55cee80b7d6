"""Networks that return more than a tensor, and what a classification's outputs are."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.measure import Measuring
from cnnaudit.models import build_model, inspect_model
from cnnaudit.outputs import WrongEntry, entry_of
from cnnaudit.specs import ModelSpec, Preprocessing, TargetSpec, TechniqueSpec
from cnnaudit.types import AuditError, Batch, File, HeatmapRequest, Heatmaps, Item, MetricRow

SCORES, FEATURES = torch.randn(2, 5), torch.randn(2, 8, 3, 4)


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


Named = namedtuple("Named", ["logits", "features"])


class ModelOutput(OrderedDict):  # as transformers' does, it is a dict with attributes
    pass


def pick(output: object, entry: str) -> Tensor:
    return entry_of(output, entry=entry, name="the model", key="output_entry")


@pytest.mark.parametrize(
    ("output", "entry"),
    [
        ((SCORES, FEATURES), "0"),
        ([FEATURES, SCORES], "1"),
        ({"logits": SCORES, "features": FEATURES}, "logits"),
        ({0: FEATURES, 1: SCORES}, "1"),
        (ModelOutput(logits=SCORES, features=FEATURES), "logits"),
        (ModelOutput(logits=SCORES, features=FEATURES), "0"),
        (Answer(SCORES, FEATURES), "logits"),
        (Answer(SCORES, FEATURES), "0"),
        (Named(SCORES, FEATURES), "logits"),
        (Named(SCORES, FEATURES), "0"),
        ({"heads": [FEATURES, Answer(SCORES, FEATURES)], "loss": None}, "heads.1.logits"),
        (SCORES, ""),
    ],
)
def test_an_entry_is_found(output: object, entry: str) -> None:
    assert pick(output, entry) is SCORES


@pytest.mark.parametrize(
    ("output", "entry", "message"),
    [
        ((SCORES, FEATURES), "", r"a tuple with the entries 0 \(2, 5\), 1 \(2, 8, 3, 4\); name"),
        ({"a": SCORES}, "b", r"a dict with the entries a \(2, 5\); 'b' names no tensor"),
        ({"a": [SCORES, None]}, "a", r"with the entries a.0 \(2, 5\); 'a' names no tensor"),
        ({"a": [SCORES, None]}, "a.1", r"'a.1' names no tensor"),
        ((SCORES,), "1", r"'1' names no tensor"),
        ((SCORES,), "-1", r"'-1' names no tensor"),
        (SCORES, "a", r"a Tensor, which holds no tensor under a name; 'a' names"),
        ("text", "", r"a str, which holds no tensor under a name; name the one"),
        (None, "a.b", r"a NoneType"),
        ([SCORES] * 30, "x", r"19 \(2, 5\) and 10 more; 'x' names"),
    ],
)
def test_a_wrong_entry_lists_what_there_is(output: object, entry: str, message: str) -> None:
    with pytest.raises(WrongEntry, match=message) as error:
        pick(output, entry)
    assert str(error.value).startswith("output_entry: the model returns a ")


# --- in a model -----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, kind: str = "tuple", end: str = "") -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)
        self.kind, self.end = kind, end

    def forward(self, images: Tensor) -> object:
        features = self.relu(self.conv(images))
        logits = self.head(features.mean(dim=(2, 3)))
        if self.end == "softmax":
            logits = logits.softmax(dim=1)
        if self.end == "standardised":  # each picture by its own spread, which a grey one lacks
            spread = images.std(dim=(1, 2, 3)).unsqueeze(1)
            logits = (logits * spread / spread).sigmoid()
        if self.end == "below zero":
            logits = logits - 9
        if self.end == "one score":
            logits = logits[:, :1]
        if self.kind == "tensor":
            return logits
        if self.kind == "dict":
            return {"logits": logits, "features": features}
        return features, logits


SPEC = ModelSpec(
    name="mine",
    builder="factory",
    weights=None,
    preprocessing=Preprocessing((8, 9), "bilinear", "rgb", (0.5,) * 3, (0.25,) * 3),
    score_from=None,
    roles={},
    task="classification",
    outputs=(),
    target="predicted",
    factory=f"{__name__}:Net",
    gives="logits",
)


@pytest.mark.parametrize(("kind", "entry"), [("tuple", "1"), ("dict", "logits")])
def test_heatmaps_of_an_entry_are_those_of_the_plain_network(kind: str, entry: str) -> None:
    plain = build_model(replace(SPEC, arguments={"kind": "tensor"}), 3)
    spec = replace(SPEC, arguments={"kind": kind}, output_entry=entry)
    assert inspect_model(spec, 3).outputs == 5
    images, names = torch.randn(2, 3, 8, 9), ("saliency", "grad_cam", "guided_saliency")
    requests = [_request(name) for name in names]
    expected, plain_maps = compute_heatmaps(plain, None, images, requests)
    outputs, maps = compute_heatmaps(build_model(spec, 3), None, images, requests)
    assert torch.equal(outputs, expected)
    for one, other in zip(maps, plain_maps, strict=True):
        assert isinstance(one, Heatmaps)
        assert isinstance(other, Heatmaps)
        assert torch.equal(one.maps, other.maps)


def _request(name: str) -> HeatmapRequest:
    layer = "relu" if name == "grad_cam" else ""
    parameters = {"grad_cam": {"layer": layer}, "saliency": {"reduce": "max"}}.get(name, {})
    target = TargetSpec("predicted", "predicted", {})
    return HeatmapRequest(TechniqueSpec(name, name, parameters), target, layer)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", r"model.mine.output_entry: the model returns a tuple with the entries 0 \(1, 4, 6, 7"),
        ("2", r"model.mine.output_entry: .*1 \(1, 5\); '2' names no tensor"),
    ],
)
def test_before_any_work_a_wrong_entry_is_said_with_its_key(entry: str, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        inspect_model(replace(SPEC, output_entry=entry), 1)


# --- logits or probabilities ----------------------------------------------------------------------


def test_probabilities_taken_for_logits_and_logits_for_probabilities() -> None:
    softmax = replace(SPEC, arguments={"kind": "tensor", "end": "softmax"})
    with pytest.raises(AuditError, match=r"model.mine.gives: 'logits', but .* their sum is 1"):
        inspect_model(softmax, 1)
    with pytest.raises(AuditError, match=r"model.mine.gives: 'logits'"):
        inspect_model(replace(softmax, score_from="head"), 1)
    assert inspect_model(replace(softmax, gives="probabilities", score_from="head"), 1).outputs == 5
    arguments = {"kind": "tensor", "end": "below zero"}
    plain = replace(SPEC, arguments=arguments, gives="probabilities")
    with pytest.raises(AuditError, match=r"gives: 'probabilities', but .* look like logits"):
        inspect_model(plain, 1)


@pytest.mark.parametrize("task", ["classification", "structured_regression"])
def test_a_network_that_has_no_answer_to_a_grey_picture_is_not_refused(task: str) -> None:
    arguments = {"kind": "tensor", "end": "standardised"}
    spec = replace(SPEC, arguments=arguments, gives="probabilities", task=task)
    assert inspect_model(spec, 1).outputs == 5


def test_one_yes_or_no_score_is_no_classification() -> None:
    """Softmax makes any number of it 1, and there is no other class that could be right."""
    one = replace(SPEC, arguments={"kind": "tensor", "end": "one score"})
    with pytest.raises(AuditError, match=r"model.mine.task: .* has 1 output, .*structured_regress"):
        inspect_model(one, 1)
    assert inspect_model(replace(one, task="structured_regression"), 1).outputs == 1


@pytest.mark.parametrize("gives", ["probabilities", "logits"])
def test_the_probability_of_the_truth_is_not_softened_twice(gives: str) -> None:
    item = Item("a", File("a.png", b""), {}, "0", {})
    batch = Batch((item,), torch.zeros(1, 3, 8, 9), {}, {}, {"a": "0"}, {})
    outputs = torch.tensor([[0.7, 0.2, 0.0]])
    rows = Measuring(batch, ()).behaviour_rows(replace(SPEC, gives=gives), outputs)()
    powers = torch.tensor([0.7, 0.2, 0.0]).exp()
    expected = 0.7 if gives == "probabilities" else float(powers[0] / powers.sum())
    assert {row.metric: row.value for row in rows} == {
        "correct": 1,
        "truth_probability": pytest.approx(expected),
    }


def test_a_networks_cells_are_probabilities_or_said_to_be_logits() -> None:
    cells = replace(SPEC, task="structured_regression", gives="probabilities")
    logits = replace(cells, arguments={"kind": "tensor", "end": "below zero"})
    with pytest.raises(AuditError, match=r"model.mine.gives: 'probabilities', but .* like logits"):
        inspect_model(logits, 1)
    assert inspect_model(replace(logits, gives="logits"), 1).outputs == 5
    # A grey picture may not tell: then it is told of the picture that does.
    values = torch.tensor([[0.2, 0.9], [-1.5, 3.0]])
    rows = _behaviour(cells, values)
    assert {(row.item, row.status) for row in rows} == {("a", "ok"), ("b", "failed")}
    assert {row.reason for row in rows if row.item == "b"} == {
        "the prediction is no probability: it lies between -1.5 and 3"
    }
    known = {(row.item, row.metric): row.value for row in _behaviour(cells, values.sigmoid())}
    said = {
        (row.item, row.metric): row.value
        for row in _behaviour(replace(cells, gives="logits"), values)
    }
    assert said == pytest.approx(known)
    assert known["b", "true_cell_probability"] == pytest.approx(float(torch.sigmoid(values[1, 1])))


def test_a_regression_is_measured_in_its_own_unit() -> None:
    rows = _behaviour(replace(SPEC, task="regression", gives=""), torch.tensor([[48.5, -3.0]] * 2))
    expected = pytest.approx((48.5 + 4) / 2)  # the truth is 0 and 1
    assert [(row.metric, row.value) for row in rows] == [("mean_absolute_error", expected)] * 2


def _behaviour(spec: ModelSpec, outputs: torch.Tensor) -> list[MetricRow]:
    """Rows of pictures "a" and "b", of which the second of two cells is true."""
    items = tuple(Item(name, File("a.png", b""), {}, None, {}) for name in "ab")
    truths = {name: np.array([0.0, 1.0]) for name in "ab"}
    batch = Batch(items, torch.zeros(2, 3, 8, 9), {}, {}, truths, {})
    return Measuring(batch, ()).behaviour_rows(spec, outputs)()
