"""Why a cell would be computed again: the part of its key that changed is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cnnaudit.audit import Invocation, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.reasons import _told, reasons
from cnnaudit.types import ROWS_FILE

ASKED = ["metric=[mass_in_mask]", "contrast=[]", "check=[]", "technique=[saliency,grad_cam]"]
Why = Callable[..., dict[str, str]]


@pytest.fixture
def why(overrides: list[str]) -> Why:
    """Say why each technique would be computed after a finished run."""
    run_audit(load_specs([*overrides, *ASKED]), Invocation("test", [], ""))

    def why(*more: str) -> dict[str, str]:
        """Return the reason of each technique; of several, how many cells have each."""
        given = {text.partition("=")[0] for text in more}
        kept = [text for text in ASKED if text.partition("=")[0] not in given]
        ready = prepare(load_specs([*overrides, *kept, *more]))
        told = [text.partition(", ")[2] for text in reasons(ready.plan.units, ready.store)]
        found = dict(text.split(": ", 1) for text in told)
        assert len(found) == len(told)
        return found

    return why


def test_what_is_in_the_store_needs_no_reason(why: Why) -> None:
    assert why() == {}


def test_the_field_that_changed_is_named(why: Why) -> None:
    assert why("technique.grad_cam.layer=encoder.4") == {
        "grad_cam": 'parameters.layer is "encoder.4", was "encoder.7"'
    }
    assert why("metric=[mass_in_mask,auroc]") == dict.fromkeys(
        ("saliency", "grad_cam"), "metrics.auroc is new"
    )
    changed = why("model.perception.preprocessing.channels=bgr")
    assert set(changed.values()) == {'model.preprocessing.channels is "bgr", was "rgb"'}
    assert set(changed) == {"behaviour", "saliency", "grad_cam"}


def test_of_two_stored_cells_the_one_that_differs_in_less_is_told(
    why: Why, overrides: list[str]
) -> None:
    other = "technique.grad_cam.layer=encoder.4"
    run_audit(load_specs([*overrides, *ASKED, other]), Invocation("test", [], ""))
    for same in ([], [other]):
        assert why("metric=[mass_in_mask,auroc]", *same)["grad_cam"] == "metrics.auroc is new"


def test_what_is_no_longer_asked_is_gone(why: Why) -> None:
    told = why("metric=[auroc]")["saliency"]
    assert {*told.split("; ")} == {"metrics.auroc is new", "metrics.mass_in_mask is gone"}


def test_a_new_technique_is_like_nothing(why: Why) -> None:
    found = why("technique=[saliency,grad_cam,layer_cam]")
    assert found == {"layer_cam": "nothing like it is in the store"}


def test_a_picture_that_changed_is_named(why: Why, image_set: Path) -> None:
    Image.new("RGB", (160, 128)).save(image_set / "images/scene_01-left-none.png")
    assert set(why().values()) == {"1 picture changed (image), such as scene_01-left-none"}


def test_what_of_a_picture_changed_is_named(why: Why, image_set: Path) -> None:
    with Image.open(image_set / "masks/scene_01.png") as mask:
        turned = mask.transpose(Image.Transpose.ROTATE_180)
    turned.save(image_set / "masks/scene_01.png")
    (told,) = set(why().values())
    assert re.fullmatch(r"\d+ pictures changed \(mask\), such as scene_01-.*", told)


def test_the_order_of_a_manifest_is_no_reason(why: Why, image_set: Path) -> None:
    path = image_set / "manifest.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines[::-1]]) + "\n")
    assert why() == {}


def test_of_a_list_what_is_another_one_is_told() -> None:
    same = "e" * 64
    assert _told("source", [same, "a"], [same, "b"]) == 'source is ["b"], was ["a"]'
    assert _told("levels", ["a", "b"], ["b", "a"]) == 'levels is ["b", "a"], was ["a", "b"]'
    assert _told("levels", ["a", "b"], ["a"]) == 'levels is ["a"], was ["a", "b"]'


def test_each_chunk_is_held_against_the_one_most_like_it(
    overrides: list[str], image_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many chunks the one with a changed picture, and the one whose partner's mask changed."""
    monkeypatch.setattr("cnnaudit.plan.CHUNK", 3)
    asked = [*overrides, *ASKED, "technique=[saliency]"]
    run_audit(load_specs(asked), Invocation("test", [], ""))

    def told(*more: str) -> list[str]:
        ready = prepare(load_specs([*asked, *more]))
        return reasons(ready.plan.units, ready.store)

    chunks = len(prepare(load_specs([*asked, "seed=1"])).plan.units)
    assert chunks > 4
    assert told("seed=1") == [
        f"perception on robot_lighting, {name}: seed is 1, was 0 ({chunks} cells)"
        for name in ("behaviour", "saliency")
    ]
    Image.new("RGB", (160, 128)).save(image_set / "images/scene_01-left-none.png")
    changed = "1 picture changed (image), such as scene_01-left-none"
    assert [text.partition(": ")[2] for text in told()] == [changed, changed]
    with Image.open(image_set / "masks/scene_02.png") as mask:
        moved = mask.transpose(Image.Transpose.ROTATE_180)
    moved.save(image_set / "masks/scene_02.png")
    assert any("the masks that heatmaps are swapped onto changed" in text for text in told())


def test_a_damaged_cell_is_not_taken_for_a_changed_one(why: Why, tmp_path: Path) -> None:
    for path in (tmp_path / "out/store").glob(f"??/*/{ROWS_FILE}"):
        path.write_bytes(b"nothing of the kind")
    damaged = "it was damaged and set aside"
    assert why() == dict.fromkeys(("behaviour", "saliency", "grad_cam"), damaged)
    shutil.rmtree(tmp_path / "out/store")
    assert set(why().values()) == {"nothing like it is in the store"}


def test_three_differences_are_named_and_the_others_counted(why: Why) -> None:
    asked = "metric=[mass_in_mask,auroc,pointing_game,box_iou]"
    told = why(asked)["saliency"]
    assert (told.count("is new"), "more" in told) == (3, False)
    assert why(asked, "seed=1")["saliency"].endswith("; and 1 more")
