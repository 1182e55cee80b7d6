"""How a tank is put together, and what hides it, against cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.tank.description import Camera, Solid, Tank
from scenarios.tank.geometry import LENGTH, WIDTH, in_view, tank_parts, visible_share

GREEN = (0.3, 0.4, 0.2)
CAMERA = Camera(height=2.0, pitch=0.0, view=50.0)
TANK = Tank(x=0.0, y=15.0, heading=0.0, aim=0.0, colour=GREEN)


def ball(x: float, y: float, width: float) -> Solid:
    return Solid("ball", (x, y, 1.0), (width, width, width), GREEN)


def trunk(x: float, y: float, width: float) -> Solid:
    return Solid("cylinder", (x, y, 3.0), (width, width, 6.0), GREEN)


def test_a_tank_stands_on_the_ground_and_is_as_large_as_it_should_be() -> None:
    parts = [part for part in tank_parts(replace(TANK, y=0.0)) if part.shape == "box"]
    half = np.array([part.size for part in parts]) / 2
    middle = np.array([part.middle for part in parts])
    low, high = (middle - half).min(axis=0), (middle + half).max(axis=0)
    assert np.allclose(high[:2] - low[:2], (WIDTH, LENGTH))
    assert 0 <= low[2] < 0.2
    wheels = [part for part in tank_parts(TANK) if part.lean and part.size[2] < 1]
    assert len(wheels) == 10
    assert all(part.middle[2] > part.size[0] / 2 for part in wheels)


@given(st.floats(0, 360), st.floats(-60, 60))
def test_the_barrel_points_where_heading_and_turret_say(heading: float, aim: float) -> None:
    barrel = max(tank_parts(replace(TANK, heading=heading, aim=aim)), key=lambda p: p.size[2])
    angle = np.radians(heading + aim)
    ahead = np.array([-np.sin(angle), np.cos(angle)])
    assert np.allclose(np.array(barrel.middle[:2]) - (0, 15), 3.2 * ahead)
    # Its own upright axis, leant to the right and turned, lies along the same line.
    lean, turn = np.radians(barrel.lean), np.radians(barrel.turn)
    axis = np.sin(lean) * np.array([np.cos(turn), np.sin(turn)])
    assert abs(axis @ ahead) == pytest.approx(1)


def test_nothing_hides_a_tank_in_the_open() -> None:
    assert visible_share(TANK, [], CAMERA) == 1


def test_what_stands_behind_it_hides_nothing() -> None:
    assert visible_share(TANK, [ball(0, 25, 8), trunk(0, 20, 1)], CAMERA) == 1


def test_a_large_ball_before_it_hides_all() -> None:
    assert visible_share(TANK, [ball(0, 8, 6)], CAMERA) == 0


def test_a_trunk_hides_the_stripe_behind_it() -> None:
    # From the back: 3.3 m wide, 11.8 m away; a trunk half as far hides twice its width.
    middle = visible_share(TANK, [trunk(0, 6, 0.4)], CAMERA)
    beside = visible_share(TANK, [trunk(4, 6, 0.4)], CAMERA)
    assert 0.6 < middle < 0.9
    assert beside == 1


@given(st.floats(-3, 3), st.floats(5, 10), st.floats(0.1, 2))
def test_more_wood_never_shows_more(x: float, y: float, width: float) -> None:
    first = [ball(0.5, 8, 1.0)]
    shares = [visible_share(TANK, wood, CAMERA) for wood in (first, [*first, trunk(x, y, width)])]
    assert shares[1] <= shares[0]


@pytest.mark.parametrize(("x", "seen"), [(0.0, True), (3.5, True), (6.0, False), (-9.0, False)])
def test_a_tank_is_in_view_when_all_of_it_is(x: float, seen: bool) -> None:
    # At its near end, 11.8 m ahead, the picture is 5.5 m wide to each side.
    assert in_view(replace(TANK, x=x), CAMERA) == seen
