"""Training and held-out frames: rendered in shards of NumPy arrays, and read back.

A shard ``frames-<first>.npz`` holds ``images`` (N, 128, 160, 3) uint8, RGB in sRGB; ``truth``
(N, 325) bool, index = distance · 5 + sensor; ``obstacles`` (N,) uint8, how many stand in the scene.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenarios import blender
from scenarios.robot.draws import draw_scene
from scenarios.robot.geometry import sensor_truth

SCENE_SCRIPT = Path(__file__).with_name("scene.py")
SHARD_SIZE = 100
# Twice the network's input; 4 samples for each pixel are 16 for each pixel of the network's.
QUALITY = {"width": 160, "height": 128, "samples": 4, "clamp": 4.0, "denoise": False}
RECORD = "frames.json"


class FramesError(Exception):
    """Frames are missing or are others than asked for; the message is meant for the user."""


@dataclass(frozen=True)
class FrameSet:
    """Which frames: everything that they depend on."""

    seed: int
    count: int
    ground_coloured: float = 0.0


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
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, wanted)
    starts = range(0, wanted.count, SHARD_SIZE)
    missing = [start for start in starts if not _shard(folder, start).exists()]
    on_frame(wanted.count - sum(len(_indices(wanted, start)) for start in missing))
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as name:
        scratch = Path(name)
        blender.run_batches(
            SCENE_SCRIPT,
            [[_job(wanted, index, scratch) for index in _indices(wanted, s)] for s in missing],
            workers=workers,
            on_job=lambda: on_frame(1),
            on_batch=lambda batch: _pack(wanted, missing[batch], scratch, folder),
        )


def load_frames(folder: Path) -> tuple[FrameSet, Frames]:
    """Read all shards of a folder, with the record of what they are."""
    record = folder / RECORD
    if not record.is_file():
        raise FramesError(f"There are no frames in {folder}. Render them first.")
    content = json.loads(record.read_text())
    wanted = FrameSet(content["seed"], content["count"], content["ground_coloured"])
    paths = [_shard(folder, start) for start in range(0, wanted.count, SHARD_SIZE)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FramesError(
            f"{len(missing)} of {len(paths)} shards are missing in {folder} (the first is "
            f"{missing[0]}). Run the same render command again: it continues."
        )
    shards = [_read_shard(path) for path in paths]
    parts = {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}
    return wanted, Frames(**parts)


def _claim(folder: Path, wanted: FrameSet) -> None:
    """Write down what the folder holds; refuse one that holds other frames."""
    record = folder / RECORD
    content = json.dumps({**asdict(wanted), "made_by": _recipe_digest(wanted)}, indent=2) + "\n"
    if not record.exists():
        record.write_text(content)
    elif record.read_text() != content:
        raise FramesError(
            f"{folder} holds other frames than these (see {record.name} there, or the scene code "
            "has changed since). Remove it, or choose another folder with --out."
        )


def _recipe_digest(wanted: FrameSet) -> str:
    """Return a digest of what decides a frame beside its seed: draws, scene script, quality."""
    example = json.dumps(_job(wanted, 0, Path("frames")), sort_keys=True).encode()
    return hashlib.sha256(example + SCENE_SCRIPT.read_bytes()).hexdigest()[:16]


def _shard(folder: Path, start: int) -> Path:
    return folder / f"frames-{start:06d}.npz"


def _read_shard(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as arrays:
        return dict(arrays)


def _indices(wanted: FrameSet, start: int) -> range:
    return range(start, min(start + SHARD_SIZE, wanted.count))


def _job(wanted: FrameSet, index: int, scratch: Path) -> dict[str, Any]:
    scene = draw_scene(wanted.seed, index, wanted.ground_coloured)
    output = str(scratch / f"{index:06d}.png")
    return {"scene": asdict(scene), "picture": "frame", "output": output, **QUALITY}


def _pack(wanted: FrameSet, start: int, scratch: Path, folder: Path) -> None:
    """Gather a shard's frames into one file, which takes its name only when it is whole."""
    indices = _indices(wanted, start)
    scenes = [draw_scene(wanted.seed, i, wanted.ground_coloured) for i in indices]
    paths = [scratch / f"{i:06d}.png" for i in indices]
    partial = scratch / f"{start:06d}.npz"
    np.savez_compressed(
        partial,
        images=np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]),
        truth=np.stack([sensor_truth(scene.obstacles).ravel() for scene in scenes]),
        obstacles=np.array([len(scene.obstacles) for scene in scenes], dtype=np.uint8),
    )
    partial.replace(_shard(folder, start))
    for path in paths:
        path.unlink()
