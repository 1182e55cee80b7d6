"""Metrics: from heatmaps and masks, and from predictions and truths, to numbers with a reason.

A metric is a pure function in `overlap`, `faithfulness`, `behaviour` or `channels`; what holds for
all of them (which images have no value and why, dead heatmaps, chance, lift) is written here, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
from cnnaudit.specs import MetricSpec
from cnnaudit.types import Scorer, Status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from cnnaudit.metrics.readout import Later, Readout

__all__ = [
    "BEHAVIOUR",
    "CHANNELS",
    "EMPTY_MASK",
    "FAITHFULNESS",
    "NO_TRUTH",
    "OVERLAP",
    "Columns",
    "Score",
    "behaviour",
    "behaviour_of",
    "binary_metrics",
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
_ROUNDING = 1e-4  # what a probability in single precision may lie beside 0–1
NOT_FINITE = "the heatmap is not finite"
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


_NOT_FINITE = Score(None, None, "", "failed", NOT_FINITE)

Columns = dict[str, list[Score]]  # metric → a score of each image


def is_dead(heatmaps: Tensor) -> Tensor:
    """Say which of the heatmaps (B, H, W) are zero everywhere, (B,) bool."""
    return _peak(heatmaps) == 0


def binary_metrics(declared: Iterable[MetricSpec]) -> frozenset[str]:
    """Return the names of what scores an image 0 or 1: declared metrics, and behaviour."""
    overlap = {one.name for one in declared if one.uses in OVERLAP and OVERLAP[one.uses].binary}
    return frozenset(overlap | {name for name, metric in BEHAVIOUR.items() if metric.binary})


def measure_overlap(
    heatmaps: Tensor,
    masks: Sequence[Tensor | None],
    metrics: Sequence[MetricSpec],
    readout: Readout,
) -> Later[Columns]:
    """Hold heatmaps (B, H, W) against each image's mask (H, W); None: it has no such region.

    A dead heatmap is scored as the uniform map. No image can touch its neighbours, whatever is
    wrong with it. Heatmaps count in single precision.
    """
    heatmaps = heatmaps.detach().float()
    peaks = readout.later(_peak(heatmaps))
    kept = [i for i, mask in enumerate(masks) if mask is not None]
    parts = [
        (part, readout.later(_measure_on_masks(heatmaps, masks, part, metrics)))
        for part in _parts(kept, heatmaps)
    ]

    def scores() -> Columns:
        levels = peaks().tolist()
        refused = [_score_on_mask(peak, None) for peak in levels]
        columns = {spec.name: [*refused] for spec in metrics}
        for part, measured_of in parts:
            shares, *rows = measured_of().tolist()
            for column, *pair in zip(columns.values(), rows[::2], rows[1::2], strict=True):
                for i, *numbers in zip(part, shares, *pair, strict=True):
                    column[i] = _score_on_mask(levels[i], *numbers)
        return columns

    return scores


def measure_faithfulness(
    heatmaps: Tensor, scorer: Scorer | None, metrics: Sequence[MetricSpec], readout: Readout
) -> Later[Columns]:
    """Ask the network about heatmaps (B, H, W); without a scorer they see no network.

    A dead heatmap is scored as the random order.
    """
    if scorer is None:
        refused = Score(None, None, "", "not_applicable", "the heatmap sees no network")
        columns = {spec.name: [refused] * len(heatmaps) for spec in metrics}
        return lambda: columns
    heatmaps = heatmaps.detach().float()
    peaks, dead = readout.later(_peak(heatmaps)), is_dead(heatmaps)
    areas = {}
    for spec in metrics:
        values, chances = FAITHFULNESS[spec.uses].compute(heatmaps, scorer, **spec.parameters)
        areas[spec.name] = readout.later(chances.where(dead, values)), readout.later(chances)
    return lambda: {
        name: [*map(_endless, peaks().tolist(), values().tolist(), chances().tolist())]
        for name, (values, chances) in areas.items()
    }


def metrics_of_heatmaps() -> dict[str, OverlapMetric | FaithfulnessMetric]:
    """Return every metric that a config can choose, by name."""
    return {**OVERLAP, **FAITHFULNESS}


def measure_behaviour(
    task: str, prediction: NDArray[np.float64], truth: NDArray[np.float64] | None
) -> dict[str, Score]:
    """Score one prediction (N,) against its truth (N,), by every behaviour metric of the task."""
    scores: dict[str, Score] = {}
    wrong = _wrong(task, prediction)
    for name, metric in behaviour_of(task).items():
        if wrong:
            scores[name] = Score(None, None, "", "failed", wrong)
            continue
        if truth is None:
            scores[name] = Score(None, None, "", "ineligible", NO_TRUTH)
            continue
        try:
            scores[name] = measured(metric.compute(prediction, truth))
        except Ineligible as reason:
            scores[name] = Score(None, None, "", "ineligible", str(reason))
    return scores


def _wrong(task: str, prediction: NDArray[np.float64]) -> str:
    """Say why a prediction (N,) is none; "" if it is one."""
    if not all(map(math.isfinite, prediction)):
        return "the prediction is not finite"
    low, high = float(prediction.min()), float(prediction.max())
    if task in behaviour.GIVES and (low < -_ROUNDING or high > 1 + _ROUNDING):
        return f"the prediction is no probability: it lies between {low:.3g} and {high:.3g}"
    return ""


def measure_channels(maps: Tensor, images: Tensor, readout: Readout) -> Later[Columns]:
    """Score a layer's channels (B, K, h, w) of images (B, C, H, W) by every channel metric."""
    found = {
        name: readout.later(metric.compute(maps, images.to(maps.device)))
        for name, metric in CHANNELS.items()
    }
    return lambda: {name: [*map(measured, values().tolist())] for name, values in found.items()}


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
    """Return a number without a best value: only its chance level gives it a meaning."""
    if not math.isfinite(peak):
        return _NOT_FINITE
    score = measured(value if math.isfinite(chance) else chance, chance, "dead" * (peak == 0))
    return replace(score, endless=True)


def _score_on_mask(
    peak: float, share: float | None, value: float = math.nan, chance: float = math.nan
) -> Score:
    """Return a number, or why an image has none: `share` is what its mask covers of it."""
    if not math.isfinite(peak):
        return _NOT_FINITE
    if share is None:
        return Score(None, None, "", "ineligible", "no_such_region")
    if share == 0:
        return Score(None, None, "", "undefined", EMPTY_MASK)
    if share == 1:
        return Score(None, None, "", "undefined", "degenerate_mask")
    return measured(value, None if math.isnan(chance) else chance, "dead" * (peak == 0))


def _parts(kept: list[int], heatmaps: Tensor) -> list[list[int]]:
    """Split a batch into what is measured together: on the CPU, what its cache holds.

    Large intermediate results cost more there for the memory that they claim than for the sums.
    """
    _, h, w = heatmaps.shape
    size = max(1, _PIXELS_AT_ONCE // (h * w)) if heatmaps.device.type == "cpu" else len(heatmaps)
    return [kept[start : start + size] for start in range(0, len(kept), size)]


def _measure_on_masks(
    heatmaps: Tensor,
    masks: Sequence[Tensor | None],
    kept: list[int],
    metrics: Sequence[MetricSpec],
) -> Tensor:
    """Return the share of each image that its mask covers, and each metric's values and chances.

    Float64, (1 + 2 · metrics, n); NaN for a chance level that there is not. What cannot be
    measured has some number: nothing is looked at before the device is done.
    """
    import torch

    overlay, shares = _overlay(heatmaps, masks, kept)
    rows = [shares]
    for spec in metrics:
        metric, before = OVERLAP[spec.uses], _versions(overlay)
        chances = metric.chance(overlay, **spec.parameters)
        rows.append(_of_each(metric.compute(overlay, **spec.parameters), shares, spec.uses))
        missing = shares.new_full(shares.shape, math.nan)
        rows.append(missing if chances is None else _of_each(chances, shares, spec.uses))
        if _versions(overlay) != before:
            raise ValueError(f"{spec.uses} wrote into its overlay; it must work on a clone")
    return torch.stack(rows)


def _of_each(returned: Any, shares: Tensor, whose: str) -> Tensor:
    """Return what a metric or its chance level gave of each image, if it is (n,) as `shares`."""
    import torch

    if isinstance(returned, torch.Tensor) and returned.shape == shares.shape:
        return returned.to(shares)
    shape = f" {tuple(returned.shape)}" if hasattr(returned, "shape") else ""
    raise ValueError(
        f"{whose} returned a {type(returned).__name__}{shape}, "
        f"expected: a tensor {tuple(shares.shape)}"
    )


def _versions(overlay: Overlay) -> list[int]:
    """Return how often what all metrics share has been written into, as torch counts it."""
    shared = (overlay.heatmaps, overlay.masks, overlay.positive, overlay.area)
    return [tensor._version for tensor in shared]


def _overlay(
    heatmaps: Tensor, masks: Sequence[Tensor | None], kept: list[int]
) -> tuple[Overlay, Tensor]:
    """Return images on their masks, fit to be measured, and the share that each mask covers."""
    import torch

    chosen = torch.stack([heatmaps[i] for i in kept])
    peaks = _peak(chosen)
    chosen.masked_fill_(~((peaks > 0) & (peaks < math.inf))[:, None, None], 1)
    present = [mask for mask in (masks[i] for i in kept) if mask is not None]
    own = torch.stack(present).to(chosen.device)
    shares = own.flatten(1).sum(dim=1).double() / own[0].numel()
    own[:, 0, 0] ^= (shares == 0) | (shares == 1)  # so that no mask is empty, and none is full
    return Overlay(chosen, own), shares
