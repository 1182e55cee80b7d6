"""The committed crossed set: every combination, honest regions, and pairs that are pairs."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scenarios import blender
from scenarios.tank import crossed
from scenarios.tank.crossed import COUNT, FOLDER, SEED, VIEWS
from scenarios.tank.draws import draw_place
from scenarios.tank.jobs import SCENE_SCRIPT
from scenarios.tank.render import SPLITS

REGIONS = ("mask", "mask:sky", "mask:shadow")
ROWS = list(csv.DictReader((FOLDER / "manifest.csv").read_text().splitlines()))
BY_ID = {row["id"]: row for row in ROWS}


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def picture(index: int, weather: str, presence: str) -> NDArray[np.int64]:
    name = crossed.image_id(draw_place(SEED, index), weather, presence)
    return pixels(FOLDER / BY_ID[name]["image"])


def region(index: int, weather: str, presence: str, column: str) -> NDArray[np.bool_]:
    named = BY_ID[crossed.image_id(draw_place(SEED, index), weather, presence)][column]
    if not named:
        return np.zeros((crossed.SIZE, crossed.SIZE), dtype=np.bool_)
    return np.asarray(Image.open(FOLDER / named)) > 0


def test_every_combination_is_there_once() -> None:
    assert tuple(ROWS[0]) == crossed.COLUMNS
    scenes = [f"scene_{index:02}" for index in range(COUNT)]
    found = [(row["scene"], row["weather"], row["presence"]) for row in ROWS]
    assert sorted(found) == sorted((scene, *view) for scene, view in product(scenes, VIEWS))
    assert len(BY_ID) == len(ROWS) == COUNT * 4


def test_its_places_are_in_no_other_split() -> None:
    seeds = [seed for _, seed in SPLITS.values()]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 100  # those from there on are kept for places that nobody has seen


def test_truth_says_whether_there_is_a_tank() -> None:
    assert all((row["truth"] == "tank") == (row["presence"] == "tank") for row in ROWS)


def test_every_file_is_there_and_as_it_should_be() -> None:
    for row in ROWS:
        assert pixels(FOLDER / row["image"]).shape == (crossed.SIZE, crossed.SIZE, 3)
        for column in REGIONS:
            if row[column]:
                mask = np.asarray(Image.open(FOLDER / row[column]))
                assert mask.shape == (crossed.SIZE, crossed.SIZE)
                assert set(np.unique(mask)) == {0, 255}


def test_no_file_is_left_over() -> None:
    named = {"manifest.csv", *(row[column] for row in ROWS for column in ("image", *REGIONS))}
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert found == named - {""}


def test_regions_are_declared_where_there_is_something() -> None:
    for row in ROWS:
        assert row["mask:sky"]
        assert bool(row["mask"]) == (row["presence"] == "tank")
        if row["mask:shadow"]:
            assert (row["weather"], row["presence"]) == ("sunny", "tank")
    shadows = [row for row in ROWS if row["mask:shadow"]]
    assert len(shadows) >= COUNT - 2  # a tank may hide all of its own


def test_the_set_is_small() -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 4 * 2**20


@pytest.mark.parametrize("index", range(0, COUNT, 4))
def test_the_sky_is_blue_in_the_sun_and_grey_under_cloud(index: int) -> None:
    for presence in ("tank", "none"):
        for weather, is_blue in (("sunny", True), ("overcast", False)):
            sky = region(index, weather, presence, "mask:sky")
            red, _, blue = picture(index, weather, presence)[sky].mean(axis=0)
            assert (blue - red > 25) == is_blue


@pytest.mark.parametrize("index", range(0, COUNT, 4))
def test_a_tank_changes_its_own_place_and_its_shadow(index: int) -> None:
    for weather in ("sunny", "overcast"):
        change = picture(index, weather, "tank") - picture(index, weather, "none")
        touched = region(index, weather, "tank", "mask")
        sky = region(index, weather, "tank", "mask:sky")
        assert np.abs(change[touched]).mean() > 5
        # An edge may run through a pixel whose middle is sky.
        assert (np.abs(change[sky]).max(axis=1) > 0).mean() < 0.05
        shadow = region(index, weather, "tank", "mask:shadow")
        if shadow.any():
            assert change[shadow].mean() < -8
        # Less sky shines on what stands near it; far above it nothing changes at all.
        assert not np.abs(change[: crossed.SIZE // 8][~touched[: crossed.SIZE // 8]]).max()


def test_blender_renders_the_committed_picture(tmp_path: Path) -> None:
    if blender.find_interpreter() is None:
        pytest.skip(
            f"no Blender here: set {blender.VARIABLE}, or let any render make its environment"
        )
    chosen = ("sunny", "tank")
    job = crossed.picture_job(draw_place(SEED, 3), *chosen, tmp_path)
    blender.run_batches(SCENE_SCRIPT, [[job]], workers=1, on_job=lambda: None)
    difference = np.abs(pixels(Path(job["output"])) - picture(3, *chosen))
    # Another processor may round otherwise; a changed scene changes far more than this.
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.99) <= 3
