"""The crossed image set: the same places under both weathers, with and without their tank.

The four pictures of a place differ in its light and sky, in its tank, and in nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenarios import blender
from scenarios.blender import Job
from scenarios.image_set import Row, read_light, write_manifest, write_mask, write_picture
from scenarios.tank.description import PRESENCES, WEATHERS, Place
from scenarios.tank.draws import draw_place
from scenarios.tank.jobs import SCENE_SCRIPT, job, view

FOLDER = Path(__file__).with_name("crossed")
COLUMNS = (
    *("id", "image", "mask", "mask:sky", "mask:shadow", "truth"),
    *("scene", "weather", "presence"),
)
COUNT, SEED = 24, 3
SIZE = 128  # twice the networks' input
SAMPLES = 32
SHADOWED = 0.75  # a point is in the tank's shadow if this share of its sun, at most, is left
LIT = 0.05  # and it had more of the sun than this before
VIEWS = tuple(product(WEATHERS, PRESENCES))
TRUTHS = {"tank": "tank", "none": "wood"}
JOBS_PER_PLACE = len(VIEWS) + 2 * len(PRESENCES) + 1


def render_set(
    folder: Path, *, seed: int, count: int, workers: int, on_job: Callable[[], None]
) -> None:
    """Render the places of a seed as an image set into a folder, the manifest last."""
    places = [draw_place(seed, index) for index in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        blender.run_batches(
            SCENE_SCRIPT,
            [place_jobs(place, Path(scratch)) for place in places],
            workers=workers,
            on_job=on_job,
            on_batch=lambda index: _store_place(places[index], Path(scratch), folder),
        )
    rows = [manifest_row(place, *chosen, folder) for place in places for chosen in VIEWS]
    write_manifest(COLUMNS, rows, folder)


def place_jobs(place: Place, scratch: Path) -> list[Job]:
    """Return the jobs of one place: its four pictures, and what its regions are made from."""
    pictures = [picture_job(place, *chosen, scratch) for chosen in VIEWS]
    suns = [_region_job(place, presence, "sunlight", scratch) for presence in PRESENCES]
    skies = [_region_job(place, presence, "sky", scratch) for presence in PRESENCES]
    return [*pictures, *suns, *skies, _region_job(place, "tank", "tank", scratch)]


def picture_job(place: Place, weather: str, presence: str, scratch: Path) -> Job:
    """Return the job that renders one picture of the set."""
    output = scratch / f"{image_id(place, weather, presence)}.png"
    return job(view(place, weather, presence), "picture", output, SIZE, SAMPLES)


def name_of(place: Place) -> str:
    """Return a place's name, such as ``scene_03``."""
    return f"scene_{place.seed:02}"


def image_id(place: Place, weather: str, presence: str) -> str:
    """Return the id of a picture, such as ``scene_03-sunny-tank``."""
    return f"{name_of(place)}-{weather}-{presence}"


def manifest_row(place: Place, weather: str, presence: str, folder: Path) -> Row:
    """Return the manifest's line for a picture; a region with no pixel is not declared."""
    name = image_id(place, weather, presence)
    regions = {"mask:sky": _sky(place, presence)}
    if presence == "tank":
        regions["mask"] = _tank(place)
        if weather == "sunny":
            regions["mask:shadow"] = _shadow(place)
    return {
        "id": name,
        "image": f"images/{name}.webp",
        **{key: path for key, path in regions.items() if (folder / path).exists()},
        "truth": TRUTHS[presence],
        "scene": name_of(place),
        "weather": weather,
        "presence": presence,
    }


def _tank(place: Place) -> str:
    return f"masks/{name_of(place)}.png"


def _sky(place: Place, presence: str) -> str:
    return f"skies/{name_of(place)}_{presence}.png"


def _shadow(place: Place) -> str:
    return f"shadows/{name_of(place)}.png"


def _region_job(place: Place, presence: str, picture: str, scratch: Path) -> Job:
    output = _region_output(place, presence, picture, scratch)
    # A mask has no half-tones: one sample, at the pixel's middle.
    samples = 16 if picture == "sunlight" else 1
    return job(view(place, "sunny", presence), picture, output, SIZE, samples)


def _region_output(place: Place, presence: str, picture: str, scratch: Path) -> Path:
    return scratch / f"{name_of(place)}-{presence}-{picture}.png"


def _store_place(place: Place, scratch: Path, folder: Path) -> None:
    for weather, presence in VIEWS:
        name = image_id(place, weather, presence)
        write_picture(scratch / f"{name}.png", folder / "images" / f"{name}.webp")
    _store_regions(place, scratch, folder)


def _store_regions(place: Place, scratch: Path, folder: Path) -> None:
    """Store where the tank is, where the sky is, and where the tank alone keeps the sun away."""
    light = {
        (presence, picture): read_light(_region_output(place, presence, picture, scratch))
        for presence in PRESENCES
        for picture in ("sunlight", "sky")
    }
    tank = read_light(_region_output(place, "tank", "tank", scratch)) > 0.5
    sky = {presence: light[presence, "sky"] > 0.5 for presence in PRESENCES}
    with_it, without = light["tank", "sunlight"], light["none", "sunlight"]
    shadow = (without > LIT) & (with_it < SHADOWED * without) & ~_grown(tank) & ~sky["none"]
    regions = {_tank(place): tank, _shadow(place): shadow}
    regions |= {_sky(place, presence): sky[presence] for presence in PRESENCES}
    for path, region in regions.items():
        if region.any():
            write_mask(region, folder / path)


def _grown(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a region with the pixels around it, which its edge may run through."""
    height, width = region.shape
    padded = np.pad(region, 1)
    shifts = product(range(3), repeat=2)
    grown: NDArray[np.bool_] = np.any(
        [padded[y : y + height, x : x + width] for y, x in shifts], axis=0
    )
    return grown
