"""Illustrating: exemplars that nobody chose, and pictures that can be read back."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnnaudit import kernels
from cnnaudit.audit import Invocation, Prepared, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.executors import make_here
from cnnaudit.illustrations import Illustrated, ShownItems, exemplars
from cnnaudit.image_sets.perturbed import read_picture
from cnnaudit.kernels import ShownKernels
from cnnaudit.models.preprocessing import prepare_image
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.registry import technique
from cnnaudit.types import DIED, Item, LayerChoice, Needs, Signals


@pytest.fixture
def ready(overrides: list[str]) -> Prepared:
    return prepare(load_specs(overrides))


def _illustrate(ready: Prepared) -> list[Illustrated]:
    (spec,), (image_set,) = ready.audit.models, ready.image_sets
    requests = ready.requests[spec.name]
    shown = ShownItems(ready.audit, spec, image_set, requests, exemplars(image_set))
    make_here(ready.audit, [*shown.errands(ready.store)], ready.store)
    return shown.stored(ready.store)


def test_exemplars_are_whole_units_and_do_not_depend_on_the_order(ready: Prepared) -> None:
    (image_set,) = ready.image_sets
    chosen = exemplars(image_set)
    units = {image_set.unit_of(item) for item in image_set.items if item.id in chosen}
    assert len(units) == 1
    assert len(chosen) == 8
    backwards = replace(image_set, items=image_set.items[::-1])
    assert set(exemplars(backwards)) == set(chosen)
    everything = replace(image_set, spec=replace(image_set.spec, exemplars=99))
    assert len(exemplars(everything)) == len(image_set.items)


def test_what_kills_its_process_is_named_and_made_again(ready: Prepared) -> None:
    """Of a technique that comes to pictures that are there, and where nothing is there yet."""
    (spec,), (image_set,), store = ready.audit.models, ready.image_sets, ready.store
    first, *others = ready.requests[spec.name]
    alone, whole = (
        ShownItems(ready.audit, spec, image_set, asked, exemplars(image_set))
        for asked in ([first], [first, *others])
    )
    reason = f"{DIED}; attempts: 3"

    def give_up(shown: ShownItems) -> None:
        for errand in shown.errands(store):
            errand.fail(store, reason)
        (gap,) = shown.gaps(store)
        assert (gap["reason"], gap["items"], gap["status"]) == (reason, 8, "failed")

    give_up(alone)
    assert alone.stored(store) == []
    make_here(ready.audit, [*alone.errands(store)], store)
    assert [*alone.gaps(store)] == []
    give_up(whole)
    for one in whole.stored(store):
        statuses = [status for _, _, status, _ in one.heatmaps]
        assert statuses == ["ok", *["failed"] * len(others)]
    make_here(ready.audit, [*whole.errands(store)], store)
    assert [*whole.gaps(store)] == [*whole.errands(store)] == []
    assert len(whole.stored(store)) == 8


def test_pictures_and_maps_are_in_the_store(ready: Prepared) -> None:
    shown = _illustrate(ready)
    assert len(shown) == 8
    (spec,) = ready.audit.models
    for one in shown:
        about = json.loads(ready.store.read(one.picture, "picture.json"))
        assert [r["name"] for r in about["regions"]] == list(one.item.regions)
        assert np.shape(about["prediction"]["values"]) == (65, 5)
        assert np.shape(about["prediction"]["truth"]) == (65, 5)
        received = Image.open(io.BytesIO(ready.store.read(one.picture, "input.png")))
        expected = prepare_image(Image.open(one.item.image.path), spec.preprocessing)
        pixels = (expected.numpy().transpose(1, 2, 0) * 0.25 + 0.5) * 255
        np.testing.assert_allclose(np.asarray(received), pixels, atol=0.51)
        for request, key, status, _ in one.heatmaps:
            assert status == "ok", request
            assert key is not None
            heatmap = np.asarray(Image.open(io.BytesIO(ready.store.read(key, "heatmap.png"))))
            about = json.loads(ready.store.read(key, "heatmap.json"))
            assert heatmap.shape == (64, 80)
            assert heatmap.max() == (0 if about["dead"] else 255)
            assert 0 < about["brightest"] <= 1


def test_a_region_that_is_drawn_is_shown_as_its_mask_file_is(
    overrides: list[str], image_set: Path
) -> None:
    def masks() -> dict[str, bytes]:
        ready = prepare(load_specs(overrides))
        shown = [one for one in _illustrate(ready) if one.item.regions]
        return {one.item.id: ready.store.read(one.picture, "region-0.png") for one in shown}

    of_files = masks()
    manifest = image_set / "manifest.csv"
    for mask in (image_set / "masks").iterdir():
        with Image.open(mask) as image:
            box = " ".join(map(str, image.getbbox() or ()))
        drawn = manifest.read_text().replace(f"masks/{mask.name}", f"box:{box}")
        manifest.write_text(drawn)
    assert masks() == of_files
    assert len(of_files) == 4


def test_what_the_store_has_is_not_computed_again(
    ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _illustrate(ready)
    monkeypatch.setattr("cnnaudit.illustrate.compute_heatmaps", None)
    assert _illustrate(ready) == first


def test_an_item_that_cannot_be_read_has_no_picture(ready: Prepared) -> None:
    (image_set,) = ready.image_sets
    name = next(iter(exemplars(image_set)))
    broken = next(item.image.path for item in image_set.items if item.id == name)
    broken.write_bytes(broken.read_bytes()[:-500])
    assert name not in {one.item.id for one in _illustrate(ready)}


def test_an_item_that_changes_while_it_is_illustrated_has_no_picture(
    ready: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image_set,) = ready.image_sets
    name = next(iter(exemplars(image_set)))

    def too_late(item: Item) -> Image.Image:
        if item.id == name:
            Image.new("RGB", (160, 128)).save(item.image.path)
        return read_picture(item)

    monkeypatch.setattr("cnnaudit.illustrate.read_picture", too_late)
    shown = {one.item.id for one in _illustrate(ready)}
    assert shown == {*exemplars(image_set)} - {name}


def test_filters_that_cannot_be_made_fail_alone(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepare(load_specs([*overrides, "technique=[kernels]"]))
    (spec,) = ready.audit.models
    requests = ready.requests[spec.name]
    shown, store = ShownKernels(ready.audit, spec, requests), ready.store

    def refuse(*_: object) -> None:
        raise SystemExit("not today")

    with monkeypatch.context() as patched:
        patched.setattr(kernels, "_filters", refuse)
        make_here(ready.audit, [*shown.errands(store)], store)
    (gap,) = shown.gaps(store)
    assert (gap["status"], gap["reason"]) == ("failed", "SystemExit: not today")
    make_here(ready.audit, [*shown.errands(store)], store)
    assert [*shown.gaps(store)] == [*shown.errands(store)] == []


@pytest.fixture
def failing() -> Iterator[None]:
    """Techniques of which there is nothing to be seen."""

    def raises(_signals: Signals) -> Tensor:
        raise ValueError("never")

    def blinks(signals: Signals, *, layer: LayerChoice) -> Tensor:
        call = signals.call_of(layer)
        assert call is not None
        return signals.activations[call] * torch.nan

    technique(needs=Needs(input_gradient=True), title="Raises", citation="")(raises)
    technique(needs=Needs(layer=True), gives="channels", title="Blinks", citation="")(blinks)
    yield
    del TECHNIQUES["raises"], TECHNIQUES["blinks"]


@pytest.mark.usefixtures("failing")
def test_what_fails_only_where_it_is_shown_leaves_the_audit_incomplete(
    overrides: list[str],
) -> None:
    """Where no metric asks for it, no row says that a heatmap failed."""
    asked = ["+technique.raises.uses=raises", "+technique.blinks={uses: blinks, layer: first_conv}"]
    audit = load_specs(["experiment=none", *overrides, "technique=[saliency]", "metric=[]", *asked])
    for _ in range(2):  # it is tried again
        outcome = run_audit(audit, Invocation("test", [], ""))
        assert not outcome.complete
        failures = json.loads((outcome.run_dir / "summary.json").read_text())["failures"]
        assert {one["reason"]: one["missing"] for one in failures} == {
            "ValueError: never": {"raises": ["heatmap"]},
            "the channels are not finite": {"blinks": ["heatmap"]},
        }
