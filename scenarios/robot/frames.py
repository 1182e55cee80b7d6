"""Training and held-out frames: rendered in shards of NumPy arrays, and read back.

A shard ``frames-<first>.npz`` holds ``images`` (N, 128, 160, 3) uint8, RGB in sRGB; ``truth``
(N, 325) bool, index = distance · 5 + sensor; ``obstacles`` (N,) uint8, how many stand in the scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenarios import shards
from scenarios.robot.description import Scene
from scenarios.robot.draws import draw_scene
from scenarios.robot.geometry import sensor_truth

SCENE_SCRIPT = Path(__file__).with_name("scene.py")
SHARD_SIZE = 100
# Twice the network's input; 4 samples for each pixel are 16 for each pixel of the network's.
QUALITY = {"width": 160, "height": 128, "samples": 4, "clamp": 4.0, "denoise": False}


@dataclass(frozen=True)
class FrameSet:
    """Which frames: everything that they depend on."""

    seed: int
    count: int
    ground_coloured: float = 0.0
    red: float = 0.0


@dataclass(frozen=True)
class Frames:
    """Frames in memory, as the shards hold them."""

    images: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    obstacles: NDArray[np.uint8]


def render_frames(
    wanted: FrameSet, folder: Path, *, workers: int, on_frame: Callable[[int], None]
) -> None:
    """Render the shards that the folder still lacks; ``on_frame`` gets the number just finished."""
    series = shards.Series(
        record=asdict(wanted),
        size=SHARD_SIZE,
        script=SCENE_SCRIPT,
        jobs=partial(_jobs, wanted),
        entry=partial(_entry, wanted),
    )
    shards.render(series, folder, workers=workers, on_frame=on_frame)


def load_frames(folder: Path) -> tuple[FrameSet, Frames]:
    """Read all shards of a folder, with the record of what they are."""
    record, arrays = shards.load(folder, SHARD_SIZE)
    wanted = FrameSet(**{field.name: record[field.name] for field in fields(FrameSet)})
    return wanted, Frames(**arrays)


def _jobs(wanted: FrameSet, index: int, scratch: Path) -> list[dict[str, Any]]:
    scene = _draw(wanted, index)
    output = str(_picture(index, scratch))
    return [{"scene": asdict(scene), "picture": "frame", "output": output, **QUALITY}]


def _entry(wanted: FrameSet, index: int, scratch: Path) -> shards.Arrays:
    obstacles = _draw(wanted, index).obstacles
    return {
        "images": np.asarray(Image.open(_picture(index, scratch)).convert("RGB")),
        "truth": sensor_truth(obstacles).ravel(),
        "obstacles": np.array(len(obstacles), dtype=np.uint8),
    }


def _draw(wanted: FrameSet, index: int) -> Scene:
    return draw_scene(wanted.seed, index, wanted.ground_coloured, wanted.red)


def _picture(index: int, scratch: Path) -> Path:
    return scratch / f"{index:06d}.png"
