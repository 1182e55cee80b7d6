"""Render the wood: ``python -m scenarios.tank.render --split train``.

The pool of training and test pictures, or the image set in which weather and tank are crossed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from scenarios import commands
from scenarios.tank import crossed
from scenarios.tank.pool import VIEWS, PlaceSet, render_pool

POOL_ROOT = Path("outputs/tank")
# (count, seed) of places: other seeds, other places. Seeds from 100 on are kept for places that
# nobody has seen until the bounds of every check stand.
SPLITS = {"train": (800, 1), "test": (300, 2), "crossed": (crossed.COUNT, crossed.SEED)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Render one split; return the exit code."""
    options = _parse(arguments)
    return commands.run(lambda progress: _render(options, progress))


def _render(options: argparse.Namespace, progress: Progress) -> None:
    count, seed = SPLITS[options.split]
    count = count if options.count is None else options.count
    seed = seed if options.seed is None else options.seed
    if options.split == "crossed":
        advance = commands.bar(progress, options.split, count * crossed.JOBS_PER_PLACE)
        folder, workers = options.out or crossed.FOLDER, options.workers
        crossed.render_set(
            folder, seed=seed, count=count, workers=workers, on_job=lambda: advance(1)
        )
        return
    advance = commands.bar(progress, options.split, count * len(VIEWS))
    folder = options.out or POOL_ROOT / options.split
    render_pool(PlaceSet(seed, count), folder, workers=options.workers, on_picture=advance)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scenarios.tank.render", description=__doc__)
    parser.add_argument("--split", choices=tuple(SPLITS), required=True)
    parser.add_argument("--count", type=int, help="places")
    parser.add_argument("--seed", type=int, help="of the places")
    parser.add_argument("--out", type=Path, help="folder (default: the split's own)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
