"""Building a model, loading weights that fit and only those, and what is known of it beforehand."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from cnnaudit.models import build_model, choose_device, inspect_model
from cnnaudit.models.layers import names_of, resolve_layer, trace
from cnnaudit.models.perception import DISTANCES, SENSORS, SimpleCNN
from cnnaudit.specs import ModelSpec, OutputAxis, Preprocessing
from cnnaudit.types import AuditError

SPEC = ModelSpec(
    name="perception",
    builder="perception",
    weights=None,
    preprocessing=Preprocessing((64, 80), "box", "rgb", (0.5,) * 3, (0.25,) * 3),
    score_from="decoder.3",
    roles={"last_features": "encoder.7", "first_conv": "encoder.0"},
    task="structured_regression",
    outputs=(
        OutputAxis("distance", tuple(map(str, range(DISTANCES)))),
        OutputAxis("sensor", SENSORS),
    ),
    target="all_outputs",
)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def state(seed: int = 11) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return SimpleCNN().state_dict()


# --- untrained ------------------------------------------------------------------------------------


def test_an_untrained_model_is_that_of_its_seed_and_touches_no_other_randomness() -> None:
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    first, again, other = (build_model(SPEC, seed) for seed in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert same(first, again)
    assert not same(first, other)
    assert not any(module.training for module in first.modules())


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_are_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path)
    model = build_model(replace(SPEC, weights=path), seed=4)
    assert all(torch.equal(value, state()[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def build_with(tmp_path: Path, weights: object, suffix: str = ".pt") -> str:
    """Return the message that these weights are refused with."""
    path = tmp_path / f"weights{suffix}"
    if isinstance(weights, bytes):
        path.write_bytes(weights)
    elif suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    with pytest.raises(AuditError) as error:
        build_model(replace(SPEC, weights=path), seed=4)
    message = str(error.value)
    assert message.startswith("model.perception.weights: ")
    assert str(path) in message
    return message


def test_weights_that_do_not_fit_name_the_keys(tmp_path: Path) -> None:
    weights = state()
    del weights["encoder.0.bias"]
    weights["decoder.3.bias"] = torch.zeros(7)
    weights["head.weight"] = torch.zeros(2)
    message = build_with(tmp_path, weights, ".safetensors")
    assert "encoder.0.bias is missing" in message
    assert "decoder.3.bias has the shape (7,), (325,) is expected" in message
    assert "head.weight is not part of the model" in message


def test_many_misfits_are_counted(tmp_path: Path) -> None:
    weights = {f"net.{name}": value for name, value in state().items()}
    message = build_with(tmp_path, weights)
    # In turn, so that the names to compare are both there.
    assert "encoder.0.weight is missing; net.encoder.0.weight is not part of the model;" in message
    assert "and 15 more" in message  # 10 missing, 10 not part of the model, 5 shown


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.safetensors"
    with pytest.raises(AuditError, match=f"model.perception.weights: there is no file {path}"):
        build_model(replace(SPEC, weights=path), seed=4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x00" * 100])
def test_a_file_that_is_no_weights(tmp_path: Path, suffix: str, content: bytes) -> None:
    build_with(tmp_path, content, suffix)


def test_truncated_weights(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".pt"):
        whole = tmp_path / f"whole{suffix}"
        save_file(state(), whole) if suffix == ".safetensors" else torch.save(state(), whole)
        build_with(tmp_path, whole.read_bytes()[:-1000], suffix)


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {"state_dict": [torch.zeros(2)]}, {"epoch": 3, "best": 1}]
)
def test_a_file_of_something_else_than_a_state_dict(tmp_path: Path, content: object) -> None:
    message = build_with(tmp_path, content)
    assert "holds no state dict" in message
    assert isinstance(content, list) or message.endswith(f", but {', '.join(content)}")


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, save) -> None:
    path, trace = tmp_path / "weights.pt", tmp_path / "it_ran"
    save({"encoder.0.weight": Malicious(trace)}, path)
    with pytest.raises(AuditError, match="could run code") as error:
        build_model(replace(SPEC, weights=path), seed=4)
    assert str(path) in str(error.value)
    assert not trace.exists()
    torch.load(path, weights_only=False) if save is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists()  # the file does what it should be refused for


# --- facts ----------------------------------------------------------------------------------------


def test_facts_of_the_perception_network() -> None:
    facts = inspect_model(SPEC, seed=1)
    assert facts.parameters == 249_539
    assert facts.input == (3, 64, 80)
    assert facts.outputs == 325
    assert [layer.path for layer in facts.layers] == [
        *(f"encoder.{i}" for i in range(9)),
        "encoder",
        *(f"decoder.{i}" for i in range(5)),
        "decoder",
    ]
    shapes = {layer.path: (layer.kind, layer.shape) for layer in facts.layers}
    assert shapes["encoder.0"] == ("Conv2d", (10, 64, 80))
    assert shapes["encoder.7"] == ("ReLU", (8, 16, 20))
    assert shapes["decoder.3"] == ("Linear", (325,))


def test_output_index_is_distance_times_five_plus_sensor() -> None:
    """The declared axes unfold the flat output in this order."""
    assert [len(axis.labels) for axis in SPEC.outputs] == [65, 5]
    assert SENSORS == ("left", "centre_left", "centre", "centre_right", "right")


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        ("last_features", "encoder.7"),
        ("first_conv", "encoder.0"),
        ("encoder.2", "encoder.2"),
        ("encoder", "encoder"),
        (0, "encoder.0"),
        (9, "encoder"),
    ],
)
def test_a_layer_is_a_role_a_path_or_an_index(layer: str | int, path: str) -> None:
    facts = inspect_model(SPEC, 1)
    assert resolve_layer(facts.layers, facts.roles, layer, "layer") == path


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        ("encoder.77", "'encoder.77' does not exist"),
        ("last_feature", "'last_feature' does not exist"),
        ("decoder.3", "'decoder.3' has no spatial output"),
        (10, "10 has no spatial output"),
    ],
)
def test_a_layer_that_is_none_lists_those_that_are(layer: str, problem: str) -> None:
    facts = inspect_model(SPEC, 1)
    with pytest.raises(AuditError) as error:
        resolve_layer(facts.layers, facts.roles, layer, "technique.grad_cam.layer")
    message = str(error.value)
    assert message.startswith("technique.grad_cam.layer: ")
    assert problem in message
    assert "last_features (encoder.7)" in message
    allowed = message.partition("the modules ")[2].partition(", and ")[0].split(", ")
    assert allowed == [*(f"encoder.{i}" for i in range(9)), "encoder"]


def test_an_index_that_is_out_of_range() -> None:
    facts = inspect_model(SPEC, 1)
    with pytest.raises(AuditError, match="layer: 99 is out of range, the model calls 16 modules"):
        resolve_layer(facts.layers, facts.roles, 99, "layer")


def test_a_module_called_twice_is_there_twice() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu)
    traced = trace(model, torch.zeros(1, 3, 8, 9), None)
    assert names_of(traced.layers) == ("0", "1@0", "2", "1")
    assert [resolve_layer(traced.layers, {}, index, "layer") for index in (1, 3)] == ["1@0", "1"]


class Calls(nn.Sequential):
    """A network that passes each module's output on through a function of its own."""

    def __init__(self, parts: dict[str, nn.Module], between: dict[str, Callable]) -> None:
        super().__init__(OrderedDict(parts))
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, part in self.named_children():
            x = part(self.between.get(name, lambda x: x)(x))
        return x


class LastAxis(nn.Module):
    """A block of channels-last outputs (B, h, w, K), as a Swin stage."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(6, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x) + 1


def conv() -> nn.Module:
    return nn.Conv2d(3, 6, 4, stride=4)


def to_tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).mT[:, None]


def to_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (24, 160)])
@pytest.mark.parametrize(
    ("parts", "between", "expected"),
    [
        # channels last, as a leaf and as a container, and what comes first again
        ({"conv": conv(), "norm": nn.LayerNorm(6)}, {"norm": to_last}, "conv"),
        ({"conv": conv(), "stage": LastAxis()}, {"stage": to_last}, "conv"),
        (
            {"conv": conv(), "stage": LastAxis(), "back": nn.Identity(), "act": nn.ReLU()},
            {"stage": to_last, "back": lambda x: x.permute(0, 3, 1, 2)},
            "act",
        ),
        # attention: of all places to all, and tokens of one head, as many as it has channels
        (
            {"conv": conv(), "attend": nn.Softmax(dim=-1)},
            {"attend": lambda x: to_tokens(x) @ to_tokens(x).mT},
            "conv",
        ),
        ({"conv": conv(), "norm": nn.RMSNorm(6)}, {"norm": to_tokens}, "conv"),
        # a norm of channels in their place
        ({"conv": conv(), "norm": LayerNorm2d(6)}, {}, "norm"),
        # what hands on a block's output behind it or at its end, and a pool that ends a block
        ({"conv": conv(), "block": nn.Sequential(nn.ReLU()), "id": nn.Identity()}, {}, "block"),
        ({"block": nn.Sequential(conv(), nn.Identity())}, {}, "block"),
        (
            {"block": nn.Sequential(conv(), nn.AvgPool2d(1)), "id": nn.Identity()},
            {},
            "block.0",
        ),
    ],
)
def test_features_are_channels_on_the_images_grid(
    parts: dict[str, nn.Module],
    between: dict[str, Callable],
    expected: str,
    size: tuple[int, int],
) -> None:
    roles = trace(Calls(parts, between), torch.randn(1, 3, *size), None).roles
    assert roles["last_features"] == expected


def test_a_grid_of_strides_of_its_own_is_one_as_well() -> None:
    """As in networks that read text or sound."""
    tall = nn.Sequential(nn.Conv2d(3, 6, 3, stride=(8, 1)), nn.BatchNorm2d(6), nn.ReLU())
    assert trace(tall, torch.randn(1, 3, 32, 96), None).roles["last_features"] == "2"


def test_a_role_that_no_layer_has() -> None:
    channels_last = Calls({"stage": LastAxis()}, {"stage": lambda x: to_last(x).repeat(1, 1, 1, 2)})
    traced = trace(channels_last, torch.randn(1, 3, 32, 48), None)
    with pytest.raises(AuditError, match="'last_features' is a role that no layer has in the") as e:
        resolve_layer(traced.layers, traced.roles, "last_features", "layer")
    assert "the modules stage.part, stage, and their index" in str(e.value)


def test_score_from_that_is_no_module() -> None:
    with pytest.raises(AuditError, match=r"score_from: 'decoder.9' is no module") as error:
        inspect_model(replace(SPEC, score_from="decoder.9"), 1)
    assert "decoder.3" in str(error.value)


def test_output_axes_that_do_not_multiply_up() -> None:
    axes = (OutputAxis("distance", tuple("abcd")), OutputAxis("sensor", SENSORS))
    with pytest.raises(
        AuditError,
        match=r"outputs: distance \(4\) × sensor \(5\) makes 20 outputs, the model has 325",
    ):
        inspect_model(replace(SPEC, outputs=axes), 1)
    assert inspect_model(replace(SPEC, outputs=()), 1).outputs == 325  # nothing declared


@pytest.mark.parametrize("size", [(64, 64), (4, 4)])
def test_an_input_that_the_model_does_not_accept(size: tuple[int, int]) -> None:
    preprocessing = replace(SPEC.preprocessing, resize=size)
    with pytest.raises(AuditError, match=r"preprocessing: the model does not accept an input"):
        inspect_model(replace(SPEC, preprocessing=preprocessing), 1)


# --- devices --------------------------------------------------------------------------------------


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == auto


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cup"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(AuditError, match=f"device: '{device}' is not available"):
        choose_device(device)
