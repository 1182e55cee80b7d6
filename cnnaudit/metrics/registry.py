"""The registries of metrics: of a heatmap on a mask or before its network, and of what has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cnnaudit.metrics.ranking import Ranking, rank

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Overlay:
    """Heatmaps (B, H, W) on masks (B, H, W) of bool, none of them empty or full.

    Heatmaps are finite, single precision and none of them dead. What several metrics need is
    computed here, once.
    """

    heatmaps: Tensor
    masks: Tensor

    @cached_property
    def positive(self) -> Tensor:
        """h⁺ = max(h, 0); 1 everywhere in a heatmap without mass, which is scored as uniform."""
        mass = self.heatmaps.clamp(min=0)
        return mass.masked_fill_((mass.amax(dim=(1, 2)) == 0)[:, None, None], 1)

    @cached_property
    def area(self) -> Tensor:
        """Pixels of each mask, K (B,)."""
        return self.masks.flatten(1).sum(dim=1)

    @cached_property
    def pixels(self) -> int:
        """Pixels of each image, n."""
        return self.masks[0].numel()

    @cached_property
    def share(self) -> Tensor:
        """Share of the image that each mask covers, ρ = K/n (B,) in float64."""
        return self.area.double() / self.pixels

    @cached_property
    def ranking(self) -> Ranking:
        """How many pixels of the mask are among the highest 1, 2, … n of the heatmap."""
        return rank(self.heatmaps, self.masks)


@dataclass(frozen=True)
class OverlapMetric:
    """A registered overlap metric: `compute` and `chance` give (B,) float64."""

    compute: Callable[..., Tensor]
    chance: Callable[..., Tensor | None]  # the level that a map without information earns
    title: str
    meaning: str
    bounds: tuple[float, float]  # lowest and highest value
    binary: bool  # whether an image scores 0 or 1, and between them only where something ties
    higher_is_better: bool
    version: int  # raise it when the same parameters give other numbers


@dataclass(frozen=True)
class FaithfulnessMetric:
    """A registered score of a heatmap by its network: `compute` gives values and chance levels.

    Both are (B,) float64 in units of the explained score, which has no limits: there is no lift.
    """

    compute: Callable[..., tuple[Tensor, Tensor]]
    title: str
    meaning: str
    bounds: tuple[float, float]
    higher_is_better: bool
    version: int


@dataclass(frozen=True)
class BehaviourMetric:
    """A registered score of one prediction against its truth."""

    task: str
    compute: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
    title: str
    meaning: str
    bounds: tuple[float, float]  # lowest and highest value
    binary: bool  # whether a prediction scores 0 or 1
    higher_is_better: bool
    version: int


@dataclass(frozen=True)
class ChannelMetric:
    """A registered number about a layer's channel images: `compute` gives (B,) float64."""

    compute: Callable[[Tensor, Tensor], Tensor]
    title: str
    meaning: str
    bounds: tuple[float, float]
    higher_is_better: bool | None  # None: neither
    version: int


class Ineligible(Exception):
    """A truth that does not let the metric have a value; the message is a short reason."""


OVERLAP: dict[str, OverlapMetric] = {}
FAITHFULNESS: dict[str, FaithfulnessMetric] = {}
BEHAVIOUR: dict[str, BehaviourMetric] = {}
CHANNELS: dict[str, ChannelMetric] = {}


def _is_anothers(
    known: OverlapMetric | FaithfulnessMetric | None, compute: Callable[..., Any]
) -> bool:
    """Say whether a name is taken by another module: the same one may run again, as a cell does."""
    return known is not None and known.compute.__module__ != compute.__module__


def overlap_metric(
    *,
    title: str,
    meaning: str,
    chance: Callable[..., Tensor | None],
    bounds: tuple[float, float] = (0.0, 1.0),
    binary: bool = False,
    higher_is_better: bool = True,
    version: int = 1,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function ``(overlay, *, parameters) -> (B,)`` under its own name.

    `chance` takes the same arguments and gives the chance level, or None where there is none.
    Neither may write into the overlay, which all metrics share. Both are tried before a run.
    """

    def register(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = compute.__name__
        if name in FAITHFULNESS or _is_anothers(OVERLAP.get(name), compute):
            raise ValueError(f"a metric named {name!r} is registered already")
        OVERLAP[name] = OverlapMetric(
            compute, chance, title, meaning, bounds, binary, higher_is_better, version
        )
        return compute

    return register


def faithfulness_metric(
    *, title: str, meaning: str, higher_is_better: bool, version: int = 1
) -> Callable[[Callable[..., tuple[Tensor, Tensor]]], Callable[..., tuple[Tensor, Tensor]]]:
    """Register a function ``(heatmaps (B, H, W), scorer, *, parameters) -> (B,), (B,)``."""
    endless = (-float("inf"), float("inf"))

    def register(
        compute: Callable[..., tuple[Tensor, Tensor]],
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        name = compute.__name__
        if name in OVERLAP or _is_anothers(FAITHFULNESS.get(name), compute):
            raise ValueError(f"a metric named {name!r} is registered already")
        FAITHFULNESS[name] = FaithfulnessMetric(
            compute, title, meaning, endless, higher_is_better, version
        )
        return compute

    return register


def behaviour_metric(
    *,
    task: str,
    title: str,
    meaning: str,
    higher_is_better: bool,
    bounds: tuple[float, float] = (0.0, 1.0),
    binary: bool = False,
    version: int = 1,
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function ``(prediction (N,), truth (N,)) -> float`` under its own name."""

    def register(compute: Callable[..., float]) -> Callable[..., float]:
        name = compute.__name__
        if name in BEHAVIOUR:
            raise ValueError(f"a behaviour metric named {name!r} is registered already")
        BEHAVIOUR[name] = BehaviourMetric(
            task, compute, title, meaning, bounds, binary, higher_is_better, version
        )
        return compute

    return register


def channel_metric(
    *, title: str, meaning: str, bounds: tuple[float, float] = (0.0, 1.0), version: int = 1
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function ``(channels (B, K, h, w), images (B, C, H, W)) -> (B,)``."""

    def register(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = compute.__name__
        if name in CHANNELS:
            raise ValueError(f"a channel metric named {name!r} is registered already")
        CHANNELS[name] = ChannelMetric(compute, title, meaning, bounds, None, version)
        return compute

    return register
