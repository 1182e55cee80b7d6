"""timm's networks: built by name, with a user's weights, and with published ones from a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cnnaudit.config import load_specs
from cnnaudit.models import build_model, inspect_model, resolve_model
from cnnaudit.models.layers import trace
from cnnaudit.plan import run_fields
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError

ARCH = "resnet10t"


def overrides_of(*more: str) -> list[str]:
    keys = (f"arch={ARCH}", "weights=none", "preprocessing.resize=64", "preprocessing.crop=[48,48]")
    return ["experiment=none", "model=[timm]", *(f"model.timm.{text}" for text in (*keys, *more))]


def spec_of(*more: str) -> ModelSpec:
    return load_specs(overrides_of(*more)).models[0]


def state(**options: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return timm.create_model(ARCH, **options).state_dict()


def loads(spec: ModelSpec, expected: dict[str, torch.Tensor]) -> bool:
    found = build_model(spec, 1).state_dict()
    return all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep both caches in a folder of the test's own, and the hub away from the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home/hub/checkpoints"


def test_an_untrained_network_has_layers_and_roles() -> None:
    facts = inspect_model(spec_of(), 1)
    assert facts.outputs == 1000
    assert facts.roles["first_conv"] == "conv1.0"
    assert facts.roles["last_features"].startswith("layer4")
    assert inspect_model(spec_of("labels=[tank,none]"), 1).outputs == 2


@pytest.mark.parametrize(
    ("arch", "options", "expected", "channels"),
    [
        ("convnext_atto", {}, "stages", 320),
        ("edgenext_xx_small", {}, "stages", 168),
        ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True}, "patch_embed.proj", 192),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 2, "depths": (1, 1)},
            "patch_embed.proj",
            96,
        ),
    ],
)
def test_features_of_networks_that_move_their_channels(
    arch: str, options: dict, expected: str, channels: int
) -> None:
    model = timm.create_model(arch, num_classes=2, **options)
    traced = trace(model, torch.randn(1, 3, 64, 64), None)
    assert traced.roles["last_features"] == expected
    (layer,) = (layer for layer in traced.layers if layer.path == expected)
    assert layer.shape is not None
    assert layer.shape[0] == channels


def test_weights_of_a_users_own(tmp_path: Path) -> None:
    trained = state(num_classes=2)
    save_file({f"model.{name}": x for name, x in trained.items()}, tmp_path / "w.safetensors")
    spec = spec_of(f"weights={tmp_path / 'w.safetensors'}", "labels=[tank,none]")
    assert loads(spec, trained)
    with pytest.raises(AuditError, match=r"model.timm.weights: .* does not fit 'resnet10t': fc"):
        build_model(replace(spec, labels=()), 1)


@pytest.mark.parametrize("name", ["pretrained", "c3_in1k"])
def test_published_weights_from_a_file_that_was_put_there(home: Path, name: str) -> None:
    home.mkdir(parents=True)
    save_file(state(), home / f"{ARCH}.c3_in1k.safetensors")
    spec = resolve_model(spec_of(f"weights={name}"))
    assert spec.weights == home / f"{ARCH}.c3_in1k.safetensors"
    assert (spec.labels[281], spec.labels[453]) == ("tabby", "bookcase")
    assert loads(spec, state())
    assert resolve_model(spec) == spec


def test_published_weights_from_the_hubs_own_cache(home: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--timm--resnet10t.c3_in1k"
    snapshot = repository / "snapshots/0123456789"
    (repository / "refs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs/main").write_text(snapshot.name)
    save_file(state(), snapshot / "model.safetensors")
    spec = resolve_model(spec_of("weights=pretrained"))
    assert spec.weights == snapshot / "model.safetensors"
    assert loads(spec, state())


def test_a_failed_download_says_which_file_belongs_where(home: Path) -> None:
    with pytest.raises(AuditError, match=r"model.timm.weights: .* cannot be fetched") as error:
        resolve_model(spec_of("weights=pretrained"))
    message = str(error.value)
    assert "model.safetensors of https://huggingface.co/timm/resnet10t.c3_in1k" in message
    assert f"put it into {home} as {ARCH}.c3_in1k.safetensors" in message


@pytest.mark.parametrize("content", [b"", b"no weights", "other"])
def test_a_published_file_that_does_not_fit(home: Path, content: bytes | str) -> None:
    home.mkdir(parents=True)
    file = home / f"{ARCH}.c3_in1k.safetensors"
    if isinstance(content, str):
        save_file(state(num_classes=2), file)
    else:
        file.write_bytes(content)
    with pytest.raises(AuditError, match=r"model.timm.weights: timm cannot load .*resnet10t"):
        build_model(spec_of("weights=pretrained"), 1)


def test_a_normalisation_that_the_weights_were_not_trained_with(home: Path) -> None:
    home.mkdir(parents=True)
    save_file(state(), home / f"{ARCH}.c3_in1k.safetensors")
    spec = spec_of("weights=pretrained", "preprocessing.mean=[0.5,0.5,0.5]")
    with pytest.raises(AuditError, match=r"preprocessing.mean: .*trained with \[0.485, 0.456, 0.4"):
        build_model(spec, 1)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(AuditError, match=r"timm.arch: 'resnet10tt' .*Did you mean 'resnet10t"):
        inspect_model(spec_of("arch=resnet10tt"), 1)
    with pytest.raises(AuditError, match=r"model.timm.weights: 'c3_in1' .*Did you mean 'c3_in1k'"):
        resolve_model(spec_of("weights=c3_in1"))


def test_labels_of_weights_that_are_not_fetched() -> None:
    spec = resolve_model(spec_of("labels=c3_in1k"))
    assert spec.weights is None
    assert spec.labels[281] == "tabby"


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(AuditError, match=r"model.timm.builder: .*pip install 'cnnaudit\[timm\]'"):
        inspect_model(spec_of(), 1)


def test_the_version_of_timm_is_in_the_key() -> None:
    audit = load_specs(overrides_of())
    assert run_fields(audit, audit.models[0])["model"]["library"] == timm.__version__
