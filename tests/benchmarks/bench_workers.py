"""How much sooner two Ray actors are done than one.

Run as ``python -m tests.benchmarks.bench_workers``. Each round executes one plan with one actor and
with two, into stores of their own, in turns; the ratio is taken within a round, so that other work
on the machine meets both sides of it. Starting Ray and the actors' imports are left out: the clock
runs from the first finished unit to the last, per unit after it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from cnnaudit.audit import prepare
from cnnaudit.cluster import execute
from cnnaudit.config import load_specs
from cnnaudit.execute import Finished

AUDIT = (
    *(
        "model=[perception]",
        "image_set=[robot_lighting]",
        "check=[]",
        "contrast=[]",
        "executor=ray",
        "device=cpu",
    ),
    *("perturbation=[haze]", "perturbation.haze.severities=[1]", "technique=[saliency]"),
)


def units_per_second(actors: int, folder: Path) -> tuple[float, int]:
    """Return how fast a plan is executed once all actors are at work, and its number of units."""
    audit = load_specs([*AUDIT, f"executor.actors={actors}", f"output_dir={folder / str(actors)}"])
    ready = prepare(audit)
    ended: list[float] = []

    def done(_finished: Finished) -> None:
        ended.append(time.perf_counter())

    execute(ready.audit, ready.plan.units, ready.store, done)
    first = actors - 1  # by then each has loaded its model, or about so
    return (len(ended) - 1 - first) / (ended[-1] - ended[first]), len(ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    ratios = []
    for number in range(rounds):
        with TemporaryDirectory() as folder:
            order = (1, 2) if number % 2 == 0 else (2, 1)
            speeds = {actors: units_per_second(actors, Path(folder)) for actors in order}
        ratios.append(speeds[2][0] / speeds[1][0])
        print(
            f"round {number + 1}: {speeds[1][1]} units; 1 actor {speeds[1][0]:.2f} units/s, "
            f"2 actors {speeds[2][0]:.2f} units/s: × {ratios[-1]:.2f}",
            flush=True,
        )
    load = os.getloadavg()[0]
    print(f"median × {statistics.median(ratios):.2f} ({os.cpu_count()} cores, load {load:.1f})")


if __name__ == "__main__":
    main()
