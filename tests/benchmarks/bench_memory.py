"""Whether memory grows with the number of images: the peak of an audit of 500 and of many more.

Run as ``python -m tests.benchmarks.bench_memory --images 50000``. The peak is that of the largest
process, as ``/usr/bin/time -v`` tells it ("Maximum resident set size").
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
FEW, SIDE, DIFFERENT = 500, 64, 250  # images; pixels of a side; files among the images
AUDIT = (
    *("image_set=[manifest]", "image_set.manifest.exemplars=1", "model.perception.weights=null"),
    *("technique=[saliency,grad_cam]", "metric=[mass_in_mask]", "device=cpu"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "overrides", nargs="*", help="more of the audit, such as 'technique=[rise]'"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peaks = {
            count: _peak(Path(folder) / str(count), count, asked.workers, asked.overrides)
            for count in (FEW, asked.images)
        }
    print(f"{asked.images} images take {peaks[asked.images] / peaks[FEW]:.2f} × what {FEW} take")


def _peak(folder: Path, images: int, workers: int, overrides: list[str]) -> float:
    """Return the peak of an audit of so many images in MiB, and print it."""
    _write_image_set(folder / "set", images)
    command = [
        *("/usr/bin/time", "-v", sys.executable, str(ROOT / "run.py"), *AUDIT),
        *(f"image_set.manifest.root={folder / 'set'}", f"executor.workers={workers}"),
        *(f"output_dir={folder / 'out'}", *overrides),
    ]
    started = time.monotonic()
    ran = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", ran.stderr)
    assert found is not None
    peak = int(found[1]) / 1024
    print(f"{images:>6} images: {peak:6.0f} MiB, {time.monotonic() - started:5.0f} s", flush=True)
    return peak


def _write_image_set(root: Path, images: int) -> None:
    """Write an image set of many names and fewer files: links cost no time and no space."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:44, 20:44] = 255
    Image.fromarray(mask).save(root / "masks/square.png")
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "image", "mask", "colour"))
        for number in range(images):
            name = f"images/{number:06}.png"
            if number < DIFFERENT:
                pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name)
            else:
                os.link(root / f"images/{number % DIFFERENT:06}.png", root / name)
            writer.writerow((f"{number:06}", name, "masks/square.png", f"colour {number % 2}"))


if __name__ == "__main__":
    main()
