"""Choose training pictures from the pool so that weather and tank go together more or less.

Of strength s: P(overcast | tank) = s and P(sunny | no tank) = s. At 0.5 the weather says nothing
about the tank; at 1 it says all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenarios.tank.description import PRESENCES, WEATHERS

SUNNY, OVERCAST = (WEATHERS.index(weather) for weather in ("sunny", "overcast"))
TANK, NONE = (PRESENCES.index(presence) for presence in ("tank", "none"))

Choice = NDArray[np.int64]  # (M, 3): place, weather, presence


def confounded(places: int, strength: float, seed: int) -> Choice:
    """Choose each place once with its tank and once without; exact shares, drawn places.

    Raises ValueError for a strength outside 0–1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"a strength lies between 0 and 1, not at {strength}")
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [
            _with(places, presence, usual, strength, rng)
            for presence, usual in ((TANK, OVERCAST), (NONE, SUNNY))
        ]
    )


def matched(places: int) -> Choice:
    """Choose the pictures that go together as in the legend: tank and cloud, empty and sun."""
    return confounded(places, 1.0, seed=0)


def conflicting(places: int) -> Choice:
    """Choose the pictures in which the cue says the opposite: tank and sun, empty and cloud."""
    return confounded(places, 0.0, seed=0)


def _with(
    places: int, presence: int, usual: int, strength: float, rng: np.random.Generator
) -> Choice:
    weather = np.full(places, SUNNY + OVERCAST - usual)
    weather[rng.permutation(places)[: round(strength * places)]] = usual
    return np.stack([np.arange(places), weather, np.full(places, presence)], axis=1)
