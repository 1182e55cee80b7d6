"""What all overlap metrics of a heatmap cost on one core.

Run as ``python -m tests.benchmarks.bench_metrics``. Prints CPU time per heatmap, which other work
on the machine touches less than the clock, and its ratio to one np.sort of the same keys.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from cnnaudit.config import load_specs
from cnnaudit.metrics.ranking import sort_keys
from tests.metrics.at_once import measure_overlap

TARGET_SIZE, TARGET_MS = 224, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    metrics = load_specs(["metric=[all_overlap]"]).metrics
    masks = _masks(asked.batch, asked.size)
    print(f"{_cpu()}; torch {torch.__version__}, NumPy {np.__version__}; one thread")
    print(f"{asked.batch} heatmaps of {asked.size}×{asked.size}; CPU ms per heatmap, best of")
    print(f"{asked.repeats}; × one np.sort of the same keys")
    for name, heatmaps in _heatmaps(asked.batch, asked.size).items():
        keys = sort_keys(heatmaps, torch.stack(masks)).flatten(1).numpy()
        unit = _cost(partial(np.sort, keys, axis=1), asked.repeats) / asked.batch

        print(f"\n{name}: np.sort {unit:.2f} ms")
        panels = {metric.name: (metric,) for metric in metrics} | {"all together": metrics}
        for title, panel in panels.items():
            work = partial(measure_overlap, heatmaps, masks, panel)
            cost = _cost(work, asked.repeats) / asked.batch
            print(f"  {title:<20} {cost:6.2f} ms {cost / unit:6.2f} ×")
        if asked.size == TARGET_SIZE:
            verdict = "kept" if cost <= TARGET_MS else "MISSED"
            print(f"  the target is {TARGET_MS:.0f} ms: {verdict}")


def _heatmaps(batch: int, size: int) -> dict[str, torch.Tensor]:
    """Return what heatmaps look like: a CAM, upsampled and half of it zero, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, 1, size // 32, size // 32, generator=generator).relu()
    smooth = torch.nn.functional.interpolate(
        coarse, size=(size, size), mode="bilinear", align_corners=False
    )[:, 0]
    noise = torch.randn(batch, size, size, generator=generator).abs()
    return {"smooth (as Grad-CAM)": smooth, "noisy (as saliency)": noise}


def _masks(batch: int, size: int) -> list[torch.Tensor]:
    """Return one rectangle of a ninth of the image per heatmap."""
    rng = np.random.default_rng(0)
    masks = []
    for top, left in rng.integers(0, size - size // 3, (batch, 2)).tolist():
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[top : top + size // 3, left : left + size // 3] = True
        masks.append(mask)
    return masks


def _cost(work: Callable[[], object], repeats: int) -> float:
    """Return the CPU time of this process in milliseconds, the best of some repeats."""
    work()
    costs = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        costs.append(time.process_time() - start)
    return min(costs) * 1e3


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "CPU")


if __name__ == "__main__":
    main()
