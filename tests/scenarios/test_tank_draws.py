"""The drawn places: reproducible, with a tank that is partly hidden, in two weathers."""

from __future__ import annotations

import colorsys
import math

import pytest

from scenarios.tank.description import WEATHERS
from scenarios.tank.draws import LEAST_SEEN, MOST_SEEN, TANK_ROOM, draw_place
from scenarios.tank.geometry import in_view, visible_share

PLACES = [draw_place(seed=5, index=index) for index in range(30)]


def test_a_place_depends_on_seed_and_index_only() -> None:
    assert draw_place(5, 17) == PLACES[17]
    assert draw_place(6, 17) != PLACES[17]
    assert len({place.tank for place in PLACES}) == len(PLACES)


def test_the_tank_is_in_view_and_partly_hidden() -> None:
    for place in PLACES:
        assert in_view(place.tank, place.camera)
        assert LEAST_SEEN <= visible_share(place.tank, place.wood, place.camera) <= MOST_SEEN


def test_tanks_stand_anywhere_and_look_anywhere() -> None:
    assert {place.tank.x > 0 for place in PLACES} == {True, False}
    assert {int(place.tank.heading // 90) for place in PLACES} == {0, 1, 2, 3}
    distances = [place.tank.y for place in PLACES]
    assert min(distances) < 12
    assert max(distances) > 16


def test_no_trunk_stands_in_the_tank() -> None:
    for place in PLACES:
        trunks = [s for s in place.wood if s.shape == "cylinder" and s.middle[1] < 26]
        gaps = [
            math.dist(trunk.middle[:2], (place.tank.x, place.tank.y)) - trunk.size[0] / 2
            for trunk in trunks
        ]
        assert min(gaps) > TANK_ROOM - 0.5


@pytest.mark.parametrize("index", range(0, 30, 5))
def test_the_sun_is_hard_under_a_blue_sky_and_cloud_is_grey(index: int) -> None:
    lights = PLACES[index].lights
    assert tuple(lights) == WEATHERS
    sunny, overcast = lights["sunny"], lights["overcast"]
    assert sunny.softness < 1 < overcast.softness
    assert sunny.strength > sunny.sky
    assert overcast.strength == 0
    for colour in (overcast.horizon, overcast.zenith):
        assert colorsys.rgb_to_hsv(*colour)[1] < 0.1
    assert 0.5 < colorsys.rgb_to_hsv(*sunny.zenith)[0] < 0.7
    assert colorsys.rgb_to_hsv(*sunny.zenith)[1] > 0.5


def test_either_weather_may_be_the_brighter_one() -> None:
    grounds = [
        (
            sun.strength * math.sin(math.radians(sun.elevation)) + sun.sky,
            place.lights["overcast"].sky,
        )
        for place in PLACES
        for sun in [place.lights["sunny"]]
    ]
    assert {sunny > overcast for sunny, overcast in grounds} == {True, False}
