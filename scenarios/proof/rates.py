"""How sure a rate is, and how well a score tells two groups of networks apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its two-sided 95 % interval, all in [0, 1]."""

    value: float
    low: float
    high: float


def rate(found: int, of: int) -> Interval:
    """Return found / of with its exact interval (Clopper and Pearson, Biometrika 1934).

    Raises ValueError where nothing was counted.
    """
    interval = stats.binomtest(found, of).proportion_ci(CONFIDENCE, method="exact")
    return Interval(found / of, float(interval.low), float(interval.high))


def area(sound: Sequence[float], faulty: Sequence[float]) -> Interval:
    """Return the area under the ROC curve: how often a sound network scores above a faulty one.

    Ties count half. The interval is the fifth of Newcombe (Statistics in Medicine 2006, part 2),
    which does not shrink to nothing where the groups are fully apart.
    """
    n, m = len(sound), len(faulty)
    statistic = stats.mannwhitneyu(sound, faulty, method="asymptotic").statistic
    value = float(statistic) / (n * m)
    return Interval(value, _end(value, n, m, 0.0), _end(value, n, m, 1.0))


def _end(value: float, n: int, m: int, side: float) -> float:
    """Return the area on this side of a value from which it lies just as far as the 95 % allow."""
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)

    def beyond(area: float) -> float:
        return float((value - area) ** 2 - z**2 * _variance(area, n, m))

    if np.isclose(value, side):
        return side
    close = value + (side - value) * 1e-9  # an area of 1 itself is no end of its own interval
    return float(optimize.brentq(beyond, side, close))


def _variance(area: float, n: int, m: int) -> float:
    """Return the variance of an estimated area, were the scores exponential (Hanley, McNeil)."""
    more = (n + m) / 2 - 1
    shape = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * shape / (n * m)
