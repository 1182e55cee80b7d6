"""The pool: every place under both weathers, with and without its tank, rendered once.

A shard holds ``images`` (N, 2, 2, 64, 64, 3) uint8, RGB in sRGB: place × weather × presence, in the
order of ``WEATHERS`` and ``PRESENCES``. How weather and tank go together is a choice among these
pictures, made in ``sampling``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenarios import shards
from scenarios.blender import Job
from scenarios.tank.description import PRESENCES, WEATHERS
from scenarios.tank.draws import draw_place
from scenarios.tank.jobs import SCENE_SCRIPT, job, view

SHARD_SIZE = 50  # places
SIZE = 64  # pixels, as the networks see it
SAMPLES = 32
VIEWS = tuple(product(WEATHERS, PRESENCES))


@dataclass(frozen=True)
class PlaceSet:
    """Which places: everything that they depend on."""

    seed: int
    count: int


@dataclass(frozen=True)
class Pool:
    """Places in memory, as the shards hold them."""

    images: NDArray[np.uint8]


def render_pool(
    wanted: PlaceSet, folder: Path, *, workers: int, on_picture: Callable[[int], None]
) -> None:
    """Render the shards that the folder lacks; ``on_picture`` gets the number just finished."""
    series = shards.Series(
        record=asdict(wanted),
        size=SHARD_SIZE,
        script=SCENE_SCRIPT,
        jobs=partial(_jobs, wanted),
        entry=_entry,
    )
    shards.render(series, folder, workers=workers, on_frame=on_picture)


def load_pool(folder: Path) -> tuple[PlaceSet, Pool]:
    """Read all shards of a folder, with the record of what they are."""
    record, arrays = shards.load(folder, SHARD_SIZE)
    return PlaceSet(record["seed"], record["count"]), Pool(**arrays)


def _jobs(wanted: PlaceSet, index: int, scratch: Path) -> list[Job]:
    place = draw_place(wanted.seed, index)
    return [
        job(view(place, *chosen), "picture", _output(index, number, scratch), SIZE, SAMPLES)
        for number, chosen in enumerate(VIEWS)
    ]


def _entry(index: int, scratch: Path) -> shards.Arrays:
    pictures = [
        np.asarray(Image.open(_output(index, number, scratch)).convert("RGB"))
        for number in range(len(VIEWS))
    ]
    shape = (len(WEATHERS), len(PRESENCES), *pictures[0].shape)
    return {"images": np.stack(pictures).reshape(shape)}


def _output(index: int, number: int, scratch: Path) -> Path:
    return scratch / f"{index:06d}-{number}.png"
