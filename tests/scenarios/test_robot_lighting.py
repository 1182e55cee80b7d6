"""The committed image sets: complete, true to their scenes, and what Blender still renders."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scenarios import blender
from scenarios.robot import lighting, ordinary
from scenarios.robot.geometry import SENSOR_NAMES, sensor_truth
from scenarios.robot.lighting import LIGHTS, SCENES, VARIANTS, Variant, draw_place

FOLDER = lighting.FOLDER
# In 8-bit levels. The denoiser looks around, so a pixel beside the box may feel its colour.
NOISE = 3
AROUND = 4  # pixels


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def region(path: Path) -> NDArray[np.bool_]:
    return np.asarray(Image.open(path)) > 0


def truth(path: Path) -> NDArray[np.bool_]:
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(SENSOR_NAMES)
    return np.array([[int(cell) for cell in line.split(",")] for line in lines[1:]], dtype=bool)


def test_every_combination_is_there_once() -> None:
    rows = manifest(FOLDER)
    assert tuple(rows[0]) == lighting.COLUMNS
    found = [(r["scene"], r["light"], r["presence"], r["colour"]) for r in rows]
    scenes = [f"scene_{index:02}" for index in range(SCENES)]
    wanted = [(s, light, v.presence, v.colour) for s, light, v in product(scenes, LIGHTS, VARIANTS)]
    assert sorted(found) == sorted(wanted)
    assert len({row["id"] for row in rows}) == len(rows) == 24 * 4 * 4


@pytest.mark.parametrize(("folder", "size"), [(FOLDER, (256, 320)), (ordinary.FOLDER, (512, 640))])
def test_every_file_is_there_and_as_it_should_be(folder: Path, size: tuple[int, int]) -> None:
    for row in manifest(folder):
        assert pixels(folder / row["image"]).shape == (*size, 3)
        for column in ("mask", "mask:shadow"):
            if row.get(column):
                mask = np.asarray(Image.open(folder / row[column]))
                assert mask.shape == size  # no third axis: grey
                assert set(np.unique(mask)) == {0, 255}
        assert truth(folder / row["truth"]).shape == (65, 5)


def test_no_file_is_left_over() -> None:
    named = {"manifest.csv"} | {
        row[column]
        for row in manifest(FOLDER)
        for column in ("image", "mask", "mask:shadow", "truth")
        if row[column]
    }
    named |= {f"reflections/scene_{index:02}.png" for index in range(SCENES)}
    found = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file()}
    assert found == named


def test_regions_are_declared_where_there_is_something() -> None:
    for row in manifest(FOLDER):
        assert bool(row["mask"]) == (row["presence"] == "obstacle")
        if row["presence"] == "none":
            assert not row["mask:shadow"]
        if row["presence"] == "shadow":
            assert row["mask:shadow"]


def test_truth_is_that_of_the_scenes_box() -> None:
    for row in manifest(FOLDER):
        place = draw_place(int(row["scene"].removeprefix("scene_")))
        standing = [place.box] if row["presence"] == "obstacle" else []
        assert np.array_equal(truth(FOLDER / row["truth"]), sensor_truth(standing))
        assert truth(FOLDER / row["truth"]).sum() >= 20 * len(standing)


def test_ordinary_truth_is_that_of_its_obstacles() -> None:
    for row in manifest(ordinary.FOLDER):
        expected = sensor_truth(ordinary.SCENES[row["scene"]]().obstacles)
        assert np.array_equal(truth(ordinary.FOLDER / row["truth"]), expected)
        assert expected.any()


def test_the_set_is_small() -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 20 * 2**20


@pytest.mark.parametrize("index", range(SCENES))
def test_a_pair_differs_on_obstacle_and_reflection_only(index: int) -> None:
    place = draw_place(index)
    for light in LIGHTS:
        equal, different = (picture(index, light, variant) for variant in VARIANTS[:2])
        difference = np.abs(equal - different).max(axis=2)
        touched = region(FOLDER / "masks" / f"{place.name}.png")
        assert difference[touched].mean() > 10
        touched |= region(FOLDER / "reflections" / f"{place.name}.png")
        assert difference[~grown(touched, AROUND)].max() <= NOISE


@pytest.mark.parametrize("index", range(0, SCENES, 6))
def test_a_shadow_alone_darkens_its_region_and_brightens_nothing(index: int) -> None:
    nothing, shadow_only = VARIANTS[2:]
    for light in LIGHTS:
        path = FOLDER / lighting.shadow_path(draw_place(index), light, shadow_only)
        shadow = region(path)
        change = (picture(index, light, shadow_only) - picture(index, light, nothing)).mean(axis=2)
        assert change[shadow].mean() < -5
        assert np.quantile(change, 0.999) <= NOISE


def picture(index: int, light: str, variant: Variant) -> NDArray[np.int64]:
    name = lighting.image_id(draw_place(index), light, variant)
    return pixels(FOLDER / "images" / f"{name}.webp")


def grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Dilate a mask by a square of this many pixels to each side."""
    height, width = mask.shape
    padded = np.pad(mask, by)
    shifts = product(range(2 * by + 1), repeat=2)
    return np.any([padded[y : y + height, x : x + width] for y, x in shifts], axis=0)


def test_blender_renders_the_committed_picture(tmp_path: Path) -> None:
    if blender.find_interpreter() is None:
        pytest.skip(
            f"no Blender here: set {blender.VARIABLE}, or let any render make its environment"
        )
    place, variant = draw_place(3), VARIANTS[1]
    job = lighting.picture_job(place, "left", variant, tmp_path)
    blender.run_batches(lighting.SCENE_SCRIPT, [[job]], workers=1, on_job=lambda: None)
    difference = np.abs(pixels(Path(job["output"])) - picture(3, "left", variant))
    # Another processor may round otherwise; a changed scene changes far more than this.
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.99) <= NOISE
