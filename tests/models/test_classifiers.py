"""torchvision's classifiers: each that ships sees pictures as published, and takes its weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from cnnaudit.config import load_specs
from cnnaudit.models import build_model, inspect_model, resolve_model
from cnnaudit.models.labels import class_index
from cnnaudit.models.layers import resolve_layer
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError

CONF = Path(__file__).parents[2] / "conf/model"
ARCHS = sorted(path.stem for path in CONF.glob("*.yaml") if "weights: DEFAULT" in path.read_text())


def spec_of(arch: str, *overrides: str) -> ModelSpec:
    """Return the shipped config's spec of an architecture, untrained unless `overrides` differ."""
    chosen = ["experiment=none", f"model=[{arch}]", f"model.{arch}.weights=none"]
    return load_specs([*chosen, *(f"model.{arch}.{text}" for text in overrides)]).models[0]


def small(spec: ModelSpec) -> ModelSpec:
    return replace(spec, preprocessing=replace(spec.preprocessing, resize=72, crop=(64, 64)))


# --- every architecture ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [(300, 400), (400, 300), (257, 233), (100, 77)])
def test_preprocessing_is_that_of_the_published_weights(arch: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    own = prepare_image(picture, spec_of(arch).preprocessing)
    published = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    torch.testing.assert_close(own, published(picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "roles", "pool"),
    [
        ("alexnet", ("features.0", "features.10", "features.11"), "features.2"),
        ("vgg16", ("features.0", "features.28", "features.29"), "features.4"),
        ("resnet18", ("conv1", "layer4.1.conv2", "layer4"), "maxpool"),
        (
            "densenet121",
            ("features.conv0", "features.denseblock4.denselayer16.conv2", "features"),
            "features.pool0",
        ),
        ("mobilenet_v3_large", ("features.0.0", "features.16.0", "features"), None),
        ("googlenet", ("conv1.conv", "inception5b.branch4.1.conv", "inception5b"), "maxpool1"),
    ],
)
def test_roles_are_found_by_tracing(
    arch: str, roles: tuple[str, str, str], pool: str | None
) -> None:
    spec = small(spec_of(arch))
    names = ("first_conv", "last_conv", "last_features")
    facts = inspect_model(spec, 1)
    pools = {"first_pool": pool} if pool else {}
    assert facts.roles == {**dict(zip(names, roles, strict=True)), **pools}
    assert tuple(resolve_layer(facts.layers, facts.roles, name, "here") for name in names) == roles
    if arch == "resnet18":
        mapped = inspect_model(replace(spec, roles={"last_features": "layer3"}), 1)
        assert mapped.roles == {**facts.roles, "last_features": "layer3"}


def test_an_architecture_that_does_not_exist() -> None:
    with pytest.raises(AuditError, match=r"model.resnet18.arch: 'resnet19'.*Did you mean 'resne"):
        build_model(spec_of("resnet18", "arch=resnet19"), 1)


# --- weights --------------------------------------------------------------------------------------


def state(arch: str = "resnet18", **options: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return torchvision.models.get_model(arch, weights=None, **options).state_dict()


def loads(spec: ModelSpec, expected: dict[str, torch.Tensor]) -> bool:
    found = build_model(spec, 1).state_dict()
    return all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "model._orig_mod."])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model", "model_state_dict"])
def test_weights_as_people_have_them(tmp_path: Path, prefix: str, wrapper: str) -> None:
    original = state()
    named = {prefix + name: value for name, value in original.items()}
    path = tmp_path / "w.pt"
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, path)
    assert loads(spec_of("resnet18", f"weights={path}"), original)


def test_a_prefix_that_not_every_name_has_stays(tmp_path: Path) -> None:
    named = {f"module.{name}": value for name, value in state().items()}
    path = tmp_path / "w.safetensors"
    save_file({**named, "loss.weight": torch.ones(2)}, path)
    with pytest.raises(AuditError, match=r"does not fit 'resnet18': conv1.weight is missing"):
        build_model(spec_of("resnet18", f"weights={path}"), 1)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "googlenet"])
def test_files_that_are_older_than_the_architecture(tmp_path: Path, arch: str) -> None:
    options = {"init_weights": True, "aux_logits": True} if arch == "googlenet" else {}
    original = state(arch, **options)
    old = {name: x for name, x in original.items() if not name.endswith("num_batches_tracked")}
    if arch == "densenet121":
        for part in ("norm", "conv"):
            for number in "12":
                new, former = f".{part}{number}.", f".{part}.{number}."
                old = {n.replace(new, former) if "layer" in n else n: x for n, x in old.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    assert loads(spec_of(arch, f"weights={tmp_path / 'w.pth'}"), original)


def test_labels_say_how_many_classes_there_are(tmp_path: Path) -> None:
    torch.save(state(num_classes=2), tmp_path / "w.pt")
    (tmp_path / "labels.txt").write_text("tank\nno tank\n")
    labels = f"labels={tmp_path / 'labels.txt'}"
    spec = small(spec_of("resnet18", f"weights={tmp_path / 'w.pt'}", labels))
    assert spec.labels == ("tank", "no tank")
    assert inspect_model(spec, 1).outputs == 2


def test_an_untrained_network_has_the_labels_of_published_weights_without_a_download() -> None:
    spec = spec_of("resnet18", "labels=IMAGENET1K_V1")
    assert spec.labels == ()
    named = resolve_model(spec)
    assert named.weights is None
    assert (len(named.labels), named.labels[453]) == (1000, "bookcase")
    assert resolve_model(named) == named
    with pytest.raises(AuditError, match=r"resnet18.labels: 'IMAGENET1K' .*Did you mean 'IMAGENE"):
        resolve_model(spec_of("resnet18", "labels=IMAGENET1K"))


# --- published weights ----------------------------------------------------------------------------


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Let a small file stand for the published one; where it is fetched from needs no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)

    def make(content: object = None, digest: str = "") -> Path:
        made = tmp_path / "made.pth"
        torch.save(state() if content is None else content, made)
        digest = digest or hashlib.sha256(made.read_bytes()).hexdigest()[:8]
        source = made.rename(tmp_path / f"resnet18-{digest}.pth")
        weights = torchvision.models.ResNet18_Weights.DEFAULT
        monkeypatch.setattr(weights.value, "url", source.as_uri())
        return source

    return make


def cached(source: Path) -> Path:
    return source.parent / "home/hub/checkpoints" / source.name


@pytest.mark.parametrize("in_cache", [True, False])
def test_published_weights_are_fetched_or_found_in_the_cache(publish, in_cache: bool) -> None:
    source = publish()
    if in_cache:
        cached(source).parent.mkdir(parents=True)
        source.rename(cached(source))
    spec = resolve_model(spec_of("resnet18", "weights=DEFAULT"))
    assert spec.weights == cached(source)
    assert loads(spec, state())
    assert spec.labels[281] == "tabby"
    assert class_index(spec, "bookcase", 1000, "here") == 453
    assert resolve_model(spec) == spec


@pytest.mark.parametrize("in_cache", [True, False])
def test_a_file_with_another_digest_than_its_name_says(publish, in_cache: bool) -> None:
    source = publish(digest="0123456789abcdef"[:8])
    if in_cache:
        cached(source).parent.mkdir(parents=True)
        source.rename(cached(source))
    with pytest.raises(AuditError, match=r"model.resnet18.weights: ") as error:
        build_model(spec_of("resnet18", "weights=IMAGENET1K_V1"), 1)
    assert str(cached(source).name) in str(error.value)
    assert ("not the file that was published" if in_cache else "invalid hash") in str(error.value)
    assert cached(source).exists() == in_cache


def test_a_failed_download_says_which_file_belongs_where(publish) -> None:
    source = publish()
    source.unlink()
    with pytest.raises(AuditError, match="cannot be fetched") as error:
        resolve_model(spec_of("resnet18", "weights=DEFAULT"))
    file = cached(source)
    assert f"put the file {file.name} into {file.parent}" in str(error.value)


def test_published_weights_that_do_not_exist() -> None:
    with pytest.raises(AuditError, match=r"'IMAGENET1K_V2' is no .*Did you mean 'IMAGENET1K_V1'"):
        resolve_model(spec_of("resnet18", "weights=IMAGENET1K_V2"))


def test_every_published_file_has_its_digest_in_its_name() -> None:
    from cnnaudit.models.classifiers import _DIGEST

    every = partial(torchvision.models.list_models, module=torchvision.models)
    for arch in every():
        for weights in torchvision.models.get_model_weights(arch):
            assert _DIGEST.search(weights.url.rpartition("/")[2]), weights.url
