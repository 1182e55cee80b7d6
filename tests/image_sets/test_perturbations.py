"""Perturbations: what they do to a picture, the items that they make, and an audit of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cnnaudit
from cnnaudit.audit import Invocation, Prepared, prepare, run_audit
from cnnaudit.config import load_specs
from cnnaudit.image_sets.batches import Reader, batches
from cnnaudit.image_sets.perturbations import (
    PERTURBATIONS,
    SEVERITIES,
    SIDE,
    _clouds,
    _motion_blur,
    perturb_image,
    perturb_mask,
)
from cnnaudit.image_sets.perturbed import perturbed
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.plan import swap_partners
from cnnaudit.preview import write_preview
from cnnaudit.specs import PerturbationSpec
from cnnaudit.types import AuditError, ImageSet

Plans = Callable[..., Prepared]
NOISE = PerturbationSpec("noise", "gaussian_noise", (1, 5))
TURNED = PerturbationSpec("turned", "rotation", (3,))


@pytest.fixture
def prepared(overrides: list[str]) -> Plans:
    few = ["technique=[saliency]", "contrast=[]", "check=[]"]
    return lambda *more: prepare(load_specs([*overrides, *few, *more]))


@pytest.fixture
def clean(prepared: Plans) -> ImageSet:
    (image_set,) = prepared().image_sets
    return image_set


def _picture(size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> Image.Image:
    """Coloured shapes with edges and texture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 180, (8, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.NEAREST)


def _distance(image: Image.Image, other: Image.Image) -> float:
    first, second = (np.asarray(one, np.float64) for one in (image, other))
    return float(np.abs(first - second).mean())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_severity_grows_from_the_picture_as_it_is(name: str) -> None:
    pictures = [_picture(seed=seed) for seed in range(6)]
    far = [
        np.mean([_distance(p, perturb_image(p, name, s, n)) for n, p in enumerate(pictures)])
        for s in (0, *SEVERITIES)
    ]
    assert far[0] == 0
    assert all(np.diff(far) > 0), far


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("size", [(40, 30), (500, 400), (1, 1)])
def test_any_picture_stays_a_picture_of_its_size(name: str, size: tuple[int, int]) -> None:
    image = _picture(size)
    for severity in SEVERITIES:
        found = perturb_image(image, name, severity, 1)
        assert (found.size, found.mode) == (size, "RGB")


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_seed_draws_the_same_picture_again(name: str) -> None:
    once, again = (perturb_image(_picture(), name, 3, 7) for _ in range(2))
    assert once == again
    drawn = {perturb_image(_picture(), name, 3, seed).tobytes() for seed in range(8)}
    random = name in ("gaussian_noise", "shot_noise", "motion_blur", "haze", "rotation")
    assert (len(drawn) > 1) == random


def test_against_values_by_hand() -> None:
    flat = Image.new("RGB", (64, 64), (100, 50, 25))
    colours = {
        name: perturb_image(flat, name, severity, 0).getpixel((5, 5))
        for name, severity in (
            *(("channel_order", 5), ("hue", 5), ("contrast", 5)),
            *(("defocus_blur", 5), ("motion_blur", 5), ("rotation", 5), ("brightness", 5)),
        )
    }
    same = (100, 50, 25)
    assert colours["channel_order"] == (25, 50, 100)
    assert colours["hue"] == (25, 75, 100)  # the opposite on the wheel
    assert {colours[n] for n in ("contrast", "defocus_blur", "motion_blur", "rotation")} == {same}
    assert colours["brightness"] == pytest.approx(
        [c * (100 / 255 + 0.5) * 2.55 for c in same], abs=1
    )


@pytest.mark.parametrize("side", [SIDE, 3 * SIDE])
def test_the_grain_of_noise_is_that_of_imagenet_c(side: int) -> None:
    """A larger picture, resized, has as much noise left as one of that size."""
    noisy = perturb_image(Image.new("RGB", (side, side), (128, 128, 128)), "gaussian_noise", 1, 0)
    seen = np.asarray(noisy.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64) / 255
    assert seen.std() == pytest.approx(0.08, rel=0.03)


def test_a_mask_turns_with_its_picture() -> None:
    mask = np.zeros((120, 160), np.uint8)
    mask[30:60, 20:70] = 255
    image = Image.fromarray(np.dstack([mask] * 3))
    for seed in range(6):
        turned = np.asarray(perturb_mask(Image.fromarray(mask), "rotation", 4, seed))
        shown = np.asarray(perturb_image(image, "rotation", 4, seed))[..., 0]
        assert set(np.unique(turned)) == {0, 255}
        assert not np.array_equal(turned, mask)
        certain = (shown == 0) | (shown == 255)  # not between pixels
        assert np.array_equal(turned[certain], shown[certain])
        others = {n for n in PERTURBATIONS if n != "rotation"}
        assert all(perturb_mask(Image.fromarray(mask), n, 4, seed).tobytes() == mask.tobytes()
                   for n in others)  # fmt: skip


def test_items_are_there_as_they_are_and_perturbed(clean: ImageSet) -> None:
    found = perturbed(clean, (NOISE, TURNED), seed=0)
    assert found.spec.name == "robot_lighting_perturbed"
    assert len(found.items) == 4 * len(clean.items)
    assert found.levels("perturbation") == ("none", "noise", "turned")
    assert found.levels("severity") == ("0", "1", "3", "5")
    item = next(one for one in found.items if one.id == f"{clean.items[0].id}@noise-5")
    assert item.origin == clean.items[0].id
    assert found.unit_of(item) == "scene_00"
    assert item.factors == {
        **clean.items[0].factors,
        "perturbation": "noise",
        "severity": "5",
    }
    partners = swap_partners(found)
    assert {partners[one.id].factors["severity"] for one in found.items[-4:]} == {"5"}


def test_without_a_unit_each_picture_is_one(prepared: Plans) -> None:
    (image_set,) = prepared("image_set.robot_lighting.unit=null").image_sets
    found = perturbed(image_set, (NOISE,), seed=0)
    units = {found.unit_of(item) for item in found.items}
    assert units == {item.id for item in image_set.items}


def test_a_picture_is_the_same_in_any_batch_order_and_process(clean: ImageSet) -> None:
    cv2.blur(np.zeros((500, 500, 3), np.uint8), (5, 5))  # its threads do not survive a fork
    items = perturbed(clean, (NOISE, TURNED), seed=0).items[24:60]
    preprocessing = load_specs().models[0].preprocessing
    prepare = (
        partial(prepare_image, preprocessing=preprocessing),
        partial(prepare_mask, preprocessing=preprocessing),
    )
    (whole,) = batches(items, *prepare, 64)
    found = dict(zip(whole.ids, whole.images, strict=True))
    masks = dict(zip(whole.ids, whole.masks["mask"].pixels, strict=True))
    (elsewhere,) = Reader(*prepare, 5, workers=2).read([(items[::-1], [None] * len(items))])
    for batch in elsewhere:
        for one, image in zip(batch.ids, batch.images, strict=True):
            assert torch.equal(image, found[one])
        for one, mask in zip(batch.ids, batch.masks["mask"].pixels, strict=True):
            assert torch.equal(mask, masks[one])


def test_the_clean_cells_are_those_without_perturbations(prepared: Plans) -> None:
    def keys(*overrides: str) -> set[str]:
        return {cell.key for cell in prepared(*overrides).plan.cells}

    none, one = keys(), keys("perturbation=[haze]")
    assert none < one
    assert one < keys("perturbation=[haze,hue]")
    assert keys("perturbation=[haze]", "perturbation.haze.severities=[2]") < one
    assert len(one - none) == 5 * len(none)
    other = keys("perturbation=[haze]", "seed=1")
    assert not one & other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["perturbation=[hue]", "perturbation.hue.severities=[1,6]"],
            r"perturbation.hue.severities: \[1, 6\] is not a list of some of 1, 2, 3, 4, 5",
        ),
        (["perturbation=[hue]", "perturbation.hue.severities=[]"], r"hue.severities: \[\] is not"),
        (["perturbation=[hue]", "perturbation.hue.severities=[2,2]"], r"each once"),
        (["perturbation=[hue]", "perturbation.hue.severities=[true]"], r"\[True\] is not"),
        (["perturbation=[hue]", "perturbation.hue.uses=huge"], r"hue.uses: .*Did you mean 'hue'"),
        (["+perturbation.none={uses:hue,severities:[1]}"], r"perturbation.none: 'none' is the lev"),
        (["preview=sheet.jpg"], r"preview: 'sheet.jpg' is not the name of a PNG file"),
    ],
)
def test_mistakes_are_said_with_their_key(overrides: list[str], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        load_specs(overrides)


def test_names_of_the_image_set_may_not_clash(clean: ImageSet) -> None:
    with pytest.raises(AuditError, match=r"robot_lighting: its factor 'severity' .*rename"):
        perturbed(replace(clean, factors=("scene", "severity")), (NOISE,), seed=0)
    with pytest.raises(AuditError, match=r"robot_lighting: 'a@noise-1': .*cannot hold '@'"):
        perturbed(replace(clean, items=(replace(clean.items[0], id="a@noise-1"),)), (NOISE,), 0)


def test_a_preview_shows_every_perturbation(clean: ImageSet, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    write_preview([clean, perturbed(clean, (NOISE, TURNED), seed=0)], sheet)
    with Image.open(sheet) as image:
        assert image.size[0] > image.size[1] > 300  # three pictures in one line, two in the other
    with pytest.raises(AuditError, match=r"preview: there is no perturbed picture .*perturbation="):
        write_preview([clean], sheet)
    with pytest.raises(AuditError, match=r"preview: there is no folder"):
        write_preview([perturbed(clean, (NOISE,), seed=0)], tmp_path / "none/sheet.png")


def test_an_audit_compares_noise_with_none(overrides: list[str]) -> None:
    audit = load_specs(
        [
            *overrides,
            *("technique=[saliency]", "check=[]", "contrast=[colour,perturbed]"),
            *("agreement=[levels]", "agreement.levels.contrast=perturbed"),
            *("perturbation=[gaussian_noise]", "perturbation.gaussian_noise.severities=[1,5]"),
        ]
    )
    outcome = run_audit(audit, Invocation("cnnaudit run", (), ""))
    assert outcome.complete
    run = cnnaudit.load_run(outcome.run_dir)
    found = run.contrasts[run.contrasts.contrast == "perturbed"]
    behaviour = found[found.metric == "true_cell_probability"].iloc[0]
    assert behaviour.units == 3
    rows = run.rows[run.rows.metric == "true_cell_probability"]
    rows = rows[(rows.image_set == "robot_lighting_perturbed") & (rows.status == "ok")]
    means = rows.groupby(["perturbation", "unit"]).value.mean()
    assert behaviour.difference == pytest.approx(
        (means["gaussian_noise"] - means["none"]).mean(), abs=1e-6
    )
    agreement = pd.read_csv(outcome.run_dir / "results/agreement.csv")
    assert agreement.total.tolist() == [2 * 24]  # each severity with the picture as it is
    # what is said about the set itself does not pool over noise
    assert set(run.rows[run.rows.image_set == "robot_lighting"].perturbation) == {""}
    assert "robot_lighting_perturbed" in outcome.report.read_text(encoding="utf-8")


def test_no_image_set_is_called_as_another_under_perturbations(tmp_path: Path) -> None:
    (tmp_path / "image_set").mkdir()
    for name in ("mine", "mine_perturbed"):
        text = f"{name}: {{uses: folder, root: '{tmp_path}', exemplars: 1}}\n"
        (tmp_path / f"image_set/{name}.yaml").write_text(text)
    chosen = ["experiment=none", "image_set=[mine,mine_perturbed]"]
    load_specs(chosen, tmp_path)
    with pytest.raises(AuditError, match=r"image_set.mine_perturbed: another image set is called"):
        load_specs([*chosen, "perturbation=[haze]"], tmp_path)


def test_motion_blur_is_as_long_as_declared() -> None:
    pixels = np.zeros((224, 224, 3), np.float32)
    pixels[112, 112] = 1
    blurred = _motion_blur(pixels, (20, 15), np.random.default_rng(0)).sum(axis=2)
    ys, xs = np.nonzero(blurred > 1e-3)
    assert np.hypot(ys - 112, xs - 112).max() == pytest.approx(10, abs=1.5)


def test_haze_brightens_what_is_dark() -> None:
    picture = Image.new("RGB", (64, 64), (20, 20, 20))
    picture.paste((200, 200, 200), (0, 0, 32, 64))
    hazy = np.asarray(perturb_image(picture, "haze", 5, 0))[..., 0]
    assert hazy[:, 32:].mean() > 50
    assert hazy.max() <= 200
    clouds = _clouds((64, 64), np.random.default_rng(0))
    assert (clouds.min(), clouds.max()) == (0, 1)


@pytest.mark.parametrize(
    ("name", "severity", "least"), [("gaussian_noise", 1, 100), ("brightness", 5, 255)]
)
def test_what_is_brighter_than_white_is_white(name: str, severity: int, least: int) -> None:
    white = Image.new("RGB", (224, 224), (255, 255, 255))
    assert np.asarray(perturb_image(white, name, severity, 0)).min() >= least


def test_a_rotation_is_about_the_centre() -> None:
    dot = Image.new("RGB", (65, 33))
    dot.putpixel((32, 16), (255, 255, 255))
    assert perturb_image(dot, "rotation", 5, 0).getpixel((32, 16)) == (255, 255, 255)
