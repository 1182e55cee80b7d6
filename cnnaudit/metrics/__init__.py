"""Metrics: from heatmaps and masks, and from predictions and truths, to numbers with a reason.

A metric is a pure function in `overlap` or `behaviour`; what holds for all of them (which images
have no value and why, dead heatmaps, chance, lift) is written here, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnaudit.metrics import behaviour, channels, faithfulness, overlap
from cnnaudit.metrics.registry import (
    BEHAVIOUR,
    CHANNELS,
    FAITHFULNESS,
    OVERLAP,
    BehaviourMetric,
    FaithfulnessMetric,
    Ineligible,
    OverlapMetric,
    Overlay,
)
from cnnaudit.types import MetricSpec, Scorer, Status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "BEHAVIOUR",
    "CHANNELS",
    "EMPTY_MASK",
    "FAITHFULNESS",
    "NO_TRUTH",
    "OVERLAP",
    "Score",
    "behaviour",
    "behaviour_of",
    "channels",
    "faithfulness",
    "is_dead",
    "measure_behaviour",
    "measure_channels",
    "measure_faithfulness",
    "measure_overlap",
    "measured",
    "metrics_of_heatmaps",
    "overlap",
]

EMPTY_MASK = "empty_mask"  # why an overlap is undefined
NO_TRUTH = "no_truth"  # why an image is ineligible for what needs its truth
_PIXELS_AT_ONCE = 2**18


@dataclass(frozen=True)
class Score:
    """One metric of one image, or why it has none."""

    value: float | None
    chance: float | None
    flag: str
    status: Status
    reason: str
    endless: bool = False  # whether there is no best value: then there is no lift either

    @property
    def lift(self) -> float | None:
        """(value − chance) / (1 − chance): 0 at chance, 1 at the best."""
        if self.value is None or self.chance is None or self.endless or self.chance >= 1:
            return None
        return (self.value - self.chance) / (1 - self.chance)


_NOT_FINITE = Score(None, None, "", "failed", "the heatmap is not finite")


def is_dead(heatmaps: Tensor) -> Tensor:
    """Say which of the heatmaps (B, H, W) are zero everywhere, (B,) bool."""
    return _peak(heatmaps) == 0


def measure_overlap(
    heatmaps: Tensor, masks: Sequence[Tensor | None], metrics: Sequence[MetricSpec]
) -> dict[str, list[Score]]:
    """Hold heatmaps (B, H, W) against each image's mask (H, W); None: it has no such region.

    Returns a score per metric and image. A dead heatmap is scored as the uniform map. Images
    without a value are taken out first, so that none of them can touch its neighbours. Heatmaps
    count in single precision.
    """
    heatmaps = heatmaps.detach().float()
    peaks = _peak(heatmaps).tolist()
    refused = [_refusal(*pair) for pair in zip(peaks, masks, strict=True)]
    columns = {spec.name: list(refused) for spec in metrics}
    kept = [i for i, refusal in enumerate(refused) if refusal is None]
    for part in _parts(kept, heatmaps):
        overlay = _overlay(heatmaps, masks, part)
        for spec in metrics:
            metric = OVERLAP[spec.uses]
            values = metric.compute(overlay, **spec.parameters).tolist()
            chances = metric.chance(overlay, **spec.parameters)
            levels = [None] * len(part) if chances is None else chances.tolist()
            for i, value, chance in zip(part, values, levels, strict=True):
                flag = "dead" if peaks[i] == 0 else ""
                columns[spec.name][i] = measured(value, chance, flag)
    return {name: [s for s in column if s is not None] for name, column in columns.items()}


def measure_faithfulness(
    heatmaps: Tensor, scorer: Scorer | None, metrics: Sequence[MetricSpec]
) -> dict[str, list[Score]]:
    """Ask the network about heatmaps (B, H, W); None: they see no network.

    Returns a score per metric and image. A dead heatmap is scored as the random order.
    """
    if scorer is None:
        refused = Score(None, None, "", "not_applicable", "the heatmap sees no network")
        return {spec.name: [refused] * len(heatmaps) for spec in metrics}
    heatmaps = heatmaps.detach().float()
    dead, peaks = is_dead(heatmaps), _peak(heatmaps).tolist()
    columns = {}
    for spec in metrics:
        values, chances = FAITHFULNESS[spec.uses].compute(heatmaps, scorer, **spec.parameters)
        found = zip(peaks, chances.where(dead, values).tolist(), chances.tolist(), strict=True)
        columns[spec.name] = [_endless(*one) for one in found]
    return columns


def metrics_of_heatmaps() -> dict[str, OverlapMetric | FaithfulnessMetric]:
    """Return every metric that a config can choose, by name."""
    return {**OVERLAP, **FAITHFULNESS}


def measure_behaviour(
    task: str, prediction: NDArray[np.float64], truth: NDArray[np.float64] | None
) -> dict[str, Score]:
    """Score one prediction (N,) against its truth (N,), by every behaviour metric of the task."""
    scores: dict[str, Score] = {}
    finite = all(map(math.isfinite, prediction))
    for name, metric in behaviour_of(task).items():
        if not finite:
            scores[name] = Score(None, None, "", "failed", "the prediction is not finite")
            continue
        if truth is None:
            scores[name] = Score(None, None, "", "ineligible", NO_TRUTH)
            continue
        try:
            scores[name] = measured(metric.compute(prediction, truth))
        except Ineligible as reason:
            scores[name] = Score(None, None, "", "ineligible", str(reason))
    return scores


def measure_channels(maps: Tensor, images: Tensor) -> dict[str, list[Score]]:
    """Score a layer's channels (B, K, h, w) of images (B, C, H, W) by every channel metric."""
    return {
        name: [measured(value) for value in metric.compute(maps, images.to(maps.device)).tolist()]
        for name, metric in CHANNELS.items()
    }


def behaviour_of(task: str) -> Mapping[str, BehaviourMetric]:
    """Return the behaviour metrics of a task by name."""
    return {name: metric for name, metric in BEHAVIOUR.items() if metric.task == task}


def measured(value: float, chance: float | None = None, flag: str = "") -> Score:
    """Return a number that was measured, or that it is undefined."""
    if not math.isfinite(value):
        return Score(None, None, flag, "undefined", "not_finite")
    return Score(value, chance, flag, "ok", "")


def _peak(heatmaps: Tensor) -> Tensor:
    """Return the largest absolute value of each heatmap, (B,); NaN where it has one."""
    return heatmaps.abs().amax(dim=(1, 2))


def _endless(peak: float, value: float, chance: float) -> Score:
    """Return a number that only its chance level gives a meaning."""
    if not math.isfinite(peak):
        return _NOT_FINITE
    score = measured(value if math.isfinite(chance) else chance, chance, "dead" * (peak == 0))
    return replace(score, endless=True)


def _refusal(peak: float, mask: Tensor | None) -> Score | None:
    """Return the score of an image that can have no value, or None where it can."""
    if not math.isfinite(peak):
        return _NOT_FINITE
    if mask is None:
        return Score(None, None, "", "ineligible", "no_such_region")
    area = int(mask.sum())
    if area == 0:
        return Score(None, None, "", "undefined", EMPTY_MASK)
    if area == mask.numel():
        return Score(None, None, "", "undefined", "degenerate_mask")
    return None


def _parts(kept: list[int], heatmaps: Tensor) -> list[list[int]]:
    """Split a batch into what is measured together: on the CPU, what its cache holds.

    Large intermediate results cost more there for the memory that they claim than for the sums.
    """
    _, h, w = heatmaps.shape
    size = max(1, _PIXELS_AT_ONCE // (h * w)) if heatmaps.device.type == "cpu" else len(heatmaps)
    return [kept[start : start + size] for start in range(0, len(kept), size)]


def _overlay(heatmaps: Tensor, masks: Sequence[Tensor | None], kept: list[int]) -> Overlay:
    import torch

    chosen = heatmaps[kept]  # a copy
    chosen.masked_fill_(is_dead(chosen)[:, None, None], 1)
    present = [mask for mask in (masks[i] for i in kept) if mask is not None]
    return Overlay(chosen, torch.stack(present).to(chosen.device))
