"""Plant faults, audit, and publish what was found: ``python -m scenarios.proof [KEY=VALUE …]``.

Resumable: what an earlier run has rendered, trained and audited stays. The keys are those of
``proof.yaml``, such as ``arms.mark.seeds=3`` or ``report=elsewhere``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.progress import Progress

from scenarios import commands
from scenarios.image_set import MANIFEST
from scenarios.proof.audits import examine_all, write_image_sets
from scenarios.proof.plan import Proof, ProofError, claim, load_proof, networks_of
from scenarios.proof.publish import publish
from scenarios.proof.robot import examine_robot, frame_sets
from scenarios.robot.frames import render_frames
from scenarios.tank import crossed
from scenarios.tank.pool import VIEWS, PlaceSet, render_pool
from scenarios.tank.render import SPLITS


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left to do; return the exit code."""
    options = _parse(arguments)
    try:
        proof = load_proof(options.overrides)
        claim(proof)
    except ProofError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return commands.run(lambda progress: _prove(proof, options.workers, progress))


def _prove(proof: Proof, workers: int, progress: Progress) -> None:
    _render(proof, workers, progress)
    write_image_sets(proof)
    networks = networks_of(proof)
    advance = commands.bar(progress, "networks", len(networks))
    records = examine_all(proof, networks, workers=workers, done=lambda: advance(1))
    advance = commands.bar(progress, "the robot's", len(proof.robot))
    publish(proof, records, examine_robot(proof, done=lambda: advance(1)))


def _render(proof: Proof, workers: int, progress: Progress) -> None:
    for split in ("train", "test"):
        count, seed = SPLITS[split]
        advance = commands.bar(progress, f"pool: {split}", count * len(VIEWS))
        folder = proof.pool / split
        render_pool(PlaceSet(seed, count), folder, workers=workers, on_picture=advance)
    places = proof.output / "places"
    if not (places / MANIFEST).exists():
        advance = commands.bar(progress, "places", proof.places * crossed.JOBS_PER_PLACE)
        crossed.render_set(
            places,
            seed=proof.seed,
            count=proof.places,
            workers=workers,
            on_job=lambda: advance(1),
        )
    for name, wanted in frame_sets(proof).items():
        advance = commands.bar(progress, f"frames: {name}", wanted.count)
        render_frames(wanted, proof.frames / name, workers=workers, on_frame=advance)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scenarios.proof", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in proof.yaml")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
