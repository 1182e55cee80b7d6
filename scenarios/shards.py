"""Many small pictures: rendered in shards of NumPy arrays, resumed, and read back.

A shard ``frames-<first>.npz`` holds arrays with an entry for each of its scenes; ``frames.json``
says what the folder holds and what made it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenarios import blender
from scenarios.blender import Job

RECORD = "frames.json"
STAGING = Path(__file__).with_name("staging.py")

Arrays = dict[str, NDArray[Any]]


class FramesError(Exception):
    """Frames are missing or are others than asked for; the message is meant for the user."""


@dataclass(frozen=True)
class Series:
    """Scenes 0 … count − 1 and how each becomes an entry of the arrays."""

    record: Mapping[str, Any]  # all that the scenes depend on beside the code; has their `count`
    size: int  # scenes in a shard
    script: Path
    jobs: Callable[[int, Path], list[Job]]  # of a scene, with their outputs in a scratch folder
    entry: Callable[[int, Path], Arrays]  # of a scene, from what the jobs have left there

    @property
    def count(self) -> int:
        return int(self.record["count"])

    def indices(self, start: int) -> range:
        """Return the scenes of the shard that begins with this one."""
        return range(start, min(start + self.size, self.count))


@dataclass(frozen=True)
class _Batches(Sequence[list[Job]]):
    """The jobs of some shards, made as they are asked for: all at once would fill the memory."""

    series: Series
    starts: Sequence[int]
    scratch: Path

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: Any) -> Any:
        return _jobs(self.series, self.starts[number], self.scratch)


def render(series: Series, folder: Path, *, workers: int, on_frame: Callable[[int], None]) -> None:
    """Render the shards that the folder still lacks; ``on_frame`` gets the jobs just finished."""
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, series)
    starts = range(0, series.count, series.size)
    missing = [start for start in starts if not _shard(folder, start).exists()]
    done = [start for start in starts if start not in missing]
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as name:
        scratch = Path(name)
        on_frame(sum(map(len, _Batches(series, done, scratch))))
        blender.run_batches(
            series.script,
            _Batches(series, missing, scratch),
            workers=workers,
            on_job=lambda: on_frame(1),
            on_batch=lambda batch: _pack(series, missing[batch], scratch, folder),
        )


def load(folder: Path, size: int) -> tuple[dict[str, Any], Arrays]:
    """Read all shards of a folder, with the record of what they are."""
    record = folder / RECORD
    if not record.is_file():
        raise FramesError(f"There are no frames in {folder}. Render them first.")
    content = json.loads(record.read_text())
    paths = [_shard(folder, start) for start in range(0, content["count"], size)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FramesError(
            f"{len(missing)} of {len(paths)} shards are missing in {folder} (the first is "
            f"{missing[0]}). Run the same render command again: it continues."
        )
    shards = [_read_shard(path) for path in paths]
    return content, {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def _claim(folder: Path, series: Series) -> None:
    """Write down what the folder holds; refuse one that holds other frames."""
    record = folder / RECORD
    content = json.dumps({**series.record, "made_by": _digest(series)}, indent=2) + "\n"
    if not record.exists():
        record.write_text(content)
    elif record.read_text() != content:
        raise FramesError(
            f"{folder} holds other frames than these (see {record.name} there, or the scene code "
            "has changed since). Remove it, or choose another folder with --out."
        )


def _digest(series: Series) -> str:
    """Return a digest of what decides a frame beside its seed: draws, scene script, quality."""
    example = json.dumps(series.jobs(0, Path("frames")), sort_keys=True).encode()
    scripts = series.script.read_bytes() + STAGING.read_bytes()
    return hashlib.sha256(example + scripts).hexdigest()[:16]


def _jobs(series: Series, start: int, scratch: Path) -> list[Job]:
    return [job for index in series.indices(start) for job in series.jobs(index, scratch)]


def _shard(folder: Path, start: int) -> Path:
    return folder / f"frames-{start:06d}.npz"


def _read_shard(path: Path) -> Arrays:
    with np.load(path) as arrays:
        return dict(arrays)


def _pack(series: Series, start: int, scratch: Path, folder: Path) -> None:
    """Gather a shard's frames into one file, which takes its name only when it is whole."""
    entries = [series.entry(index, scratch) for index in series.indices(start)]
    partial = scratch / f"{start:06d}.npz"
    arrays: Any = {key: np.stack([entry[key] for entry in entries]) for key in entries[0]}
    np.savez_compressed(partial, **arrays)
    partial.replace(_shard(folder, start))
    for job in _jobs(series, start, scratch):
        Path(job["output"]).unlink()
