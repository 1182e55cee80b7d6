"""Render the robot's images: ``python -m scenarios.robot.render --split train --seed 1``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from scenarios import commands
from scenarios.robot import lighting, ordinary
from scenarios.robot.frames import FrameSet, render_frames

FRAMES_ROOT = Path("outputs/frames")
# (count, seed): other seeds, other scenes, so that the held-out frames are not in the training set.
FRAME_SPLITS = {"train": (8000, 1), "test": (400, 2)}
SETS = {"lighting": lighting, "ordinary": ordinary}


def main(arguments: Sequence[str] | None = None) -> int:
    """Render one split; return the exit code."""
    options = _parse(arguments)
    return commands.run(lambda progress: _render(options, progress))


def _render(options: argparse.Namespace, progress: Progress) -> None:
    if options.split in SETS:
        _render_set(options, progress)
    else:
        _render_frames(options, progress)


def _render_set(options: argparse.Namespace, progress: Progress) -> None:
    image_set = SETS[options.split]
    advance = commands.bar(progress, options.split, image_set.JOBS)
    folder = options.out or image_set.FOLDER
    image_set.render_set(folder, workers=options.workers, on_job=lambda: advance(1))


def _render_frames(options: argparse.Namespace, progress: Progress) -> None:
    count, seed = FRAME_SPLITS[options.split]
    wanted = FrameSet(
        seed if options.seed is None else options.seed,
        count if options.count is None else options.count,
        options.ground_coloured,
        options.red,
    )
    folder = options.out or FRAMES_ROOT / options.split
    advance = commands.bar(progress, options.split, wanted.count)
    render_frames(wanted, folder, workers=options.workers, on_frame=advance)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scenarios.robot.render", description=__doc__)
    parser.add_argument("--split", choices=(*FRAME_SPLITS, *SETS), required=True)
    parser.add_argument("--count", type=int, help="frames of train or test")
    parser.add_argument("--seed", type=int, help="of train or test")
    parser.add_argument("--ground-coloured", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--red", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--out", type=Path, help="folder (default: the split's own)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
