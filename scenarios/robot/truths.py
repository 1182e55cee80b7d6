"""Write the truth of a scene as the file that an image set names."""

from __future__ import annotations

import csv
from pathlib import Path

from scenarios.robot.geometry import SENSOR_NAMES, Truth


def write_truth(truth: Truth, output: Path) -> None:
    """Store (65, 5) booleans as 0 and 1, a line per distance under the sensors' names."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SENSOR_NAMES)
        writer.writerows(truth.astype(int).tolist())
