"""The choice among the pool: exact shares, and every place in both classes."""

from __future__ import annotations

import numpy as np
import pytest

from scenarios.tank import sampling
from scenarios.tank.sampling import NONE, OVERCAST, SUNNY, TANK


@pytest.mark.parametrize("strength", [0.5, 0.75, 0.9, 1.0])
def test_shares_are_what_the_strength_says(strength: float) -> None:
    place, weather, presence = sampling.confounded(200, strength, seed=4).T
    assert (weather[presence == TANK] == OVERCAST).mean() == strength
    assert (weather[presence == NONE] == SUNNY).mean() == strength
    for one in (TANK, NONE):
        assert sorted(place[presence == one]) == list(range(200))


def test_which_places_are_unusual_depends_on_the_seed() -> None:
    first, again, other = (sampling.confounded(50, 0.75, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_matched_and_conflicting_are_all_pictures_once() -> None:
    both = np.concatenate([sampling.matched(3), sampling.conflicting(3)])
    assert len({tuple(one) for one in both.tolist()}) == len(both) == 3 * 2 * 2
    assert [0, OVERCAST, TANK] in sampling.matched(3).tolist()
    assert [0, SUNNY, TANK] in sampling.conflicting(3).tolist()


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_strength_is_a_probability(strength: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        sampling.confounded(10, strength, seed=0)
