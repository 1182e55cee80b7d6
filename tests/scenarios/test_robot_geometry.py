"""The geometric truth, against cases worked out by hand and against its laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.description import Material
from scenarios.robot.description import Obstacle
from scenarios.robot.geometry import (
    DISTANCES,
    SENSOR_ANGLES,
    SENSOR_NAMES,
    SENSOR_RADIUS,
    SENSOR_RANGE,
    sensor_rays,
    sensor_truth,
)

PAINT = Material((0.5, 0.5, 0.5))
LEFT, CENTRE, RIGHT = 0, 2, 4


def box(x: float, y: float, width: float = 0.1, depth: float = 0.1, turn: float = 0.0) -> Obstacle:
    return Obstacle("box", x, y, width, depth, 0.1, PAINT, turn=turn)


def cylinder(x: float, y: float, diameter: float) -> Obstacle:
    return Obstacle("cylinder", x, y, diameter, diameter, 0.1, PAINT)


obstacles = st.builds(
    Obstacle,
    shape=st.sampled_from(["box", "cylinder", "ellipsoid"]),
    x=st.floats(-0.2, 0.2),
    y=st.floats(0.2, 0.6),
    width=st.floats(0.02, 0.2),
    depth=st.floats(0.02, 0.2),
    height=st.floats(0.05, 0.2),
    material=st.just(PAINT),
    turn=st.floats(-180, 180),
)


def nudged(obstacle: Obstacle) -> Obstacle:
    """Move an obstacle off all round numbers, so that rounding decides no contact."""
    return replace(obstacle, x=obstacle.x + 1.7e-5, y=obstacle.y + 2.3e-5)


def rows_seen(truth: np.ndarray, sensor: int) -> list[int]:
    return np.flatnonzero(truth[:, sensor]).tolist()


def test_nothing_is_seen_where_nothing_stands() -> None:
    truth = sensor_truth([])
    assert truth.shape == (DISTANCES, len(SENSOR_NAMES)) == (65, 5)
    assert not truth.any()


def test_rays_start_on_the_arc_and_are_as_long_as_the_range() -> None:
    starts, ends = sensor_rays()
    assert np.allclose(np.linalg.norm(ends - starts, axis=-1), SENSOR_RANGE)
    assert np.allclose(starts[0, CENTRE], [0, SENSOR_RADIUS])
    assert starts[0, LEFT, 0] < 0 < starts[0, RIGHT, 0]
    assert np.allclose(ends[64, RIGHT] - ends[0, RIGHT], [0, 0.64])


def test_centre_sensor_sees_a_box_from_first_to_last_touch() -> None:
    # The box spans y = 0.305 … 0.405. Driven by d, the centre ray spans d + 0.08 … d + 0.18:
    # they overlap from d = 0.125 to d = 0.325.
    truth = sensor_truth([box(0, 0.355)])
    assert rows_seen(truth, CENTRE) == list(range(13, 33))


def test_side_sensor_sees_a_wall_beside_the_way() -> None:
    # The right ray reaches x = 0.18·sin 40° = 0.1157 at most.
    reach = (SENSOR_RADIUS + SENSOR_RANGE) * math.sin(math.radians(40))
    near = sensor_truth([box(reach + 0.049, 0.4, depth=2.0)])
    far = sensor_truth([box(reach + 0.051, 0.4, depth=2.0)])
    assert near[:, RIGHT].all()
    assert not near[:, :RIGHT].any()
    assert not far.any()


def test_turned_box_is_met_at_its_corner() -> None:
    # The middle is 0.435 m ahead; turned by 45°, a corner comes 0.0707 m before it, not 0.05 m.
    assert rows_seen(sensor_truth([box(0, 0.435)]), CENTRE)[0] == 21  # 0.385 − 0.18 = 0.205
    assert rows_seen(sensor_truth([box(0, 0.435, turn=45)]), CENTRE)[0] == 19  # 0.1843


def test_cylinder_is_met_at_its_near_and_left_at_its_far_point() -> None:
    truth = sensor_truth([cylinder(0, 0.40, diameter=0.09)])  # y = 0.355 … 0.445
    assert rows_seen(truth, CENTRE) == list(range(18, 37))


def test_ray_that_starts_inside_meets_the_obstacle() -> None:
    assert sensor_truth([box(0, 0, width=1, depth=1)])[0].all()


@pytest.mark.parametrize(("base", "seen"), [(0.0, True), (0.029, True), (0.031, False)])
def test_what_hangs_above_the_sensors_is_not_seen(base: float, seen: bool) -> None:
    assert sensor_truth([replace(box(0, 0.3), base=base)]).any() == seen


def test_ball_is_as_wide_as_its_section_at_sensor_height() -> None:
    ball = Obstacle("ellipsoid", 0, 0.4, 0.1, 0.1, 0.1, PAINT)  # radius 0.05, middle at 0.05
    section = cylinder(0, 0.4, diameter=2 * math.sqrt(0.05**2 - 0.02**2))
    assert np.array_equal(sensor_truth([ball]), sensor_truth([section]))


@given(obstacles, st.integers(1, 20))
def test_obstacle_shifted_ahead_shifts_the_rows(obstacle: Obstacle, steps: int) -> None:
    obstacle = nudged(obstacle)
    truth = sensor_truth([obstacle])
    shifted = sensor_truth([replace(obstacle, y=obstacle.y + 0.01 * steps)])
    assert np.array_equal(truth[:-steps], shifted[steps:])


@given(obstacles)
def test_mirrored_obstacle_swaps_the_sensors(obstacle: Obstacle) -> None:
    mirrored = replace(obstacle, x=-obstacle.x, turn=-obstacle.turn)
    assert np.array_equal(sensor_truth([mirrored]), sensor_truth([obstacle])[:, ::-1])


@given(obstacles, obstacles)
def test_two_obstacles_are_seen_where_either_is(first: Obstacle, second: Obstacle) -> None:
    together = sensor_truth([first, second])
    assert np.array_equal(together, sensor_truth([first]) | sensor_truth([second]))


@given(obstacles)
def test_agrees_with_many_points_along_each_ray(obstacle: Obstacle) -> None:
    obstacle = nudged(obstacle)
    starts, ends = sensor_rays()
    shares = np.linspace(0, 1, 201)[:, None, None, None]
    points = starts + shares * (ends - starts)
    sampled = _contains(obstacle, points).any(axis=0)
    # A point inside proves a hit; a ray that hits has a point no farther away than half a step.
    truth = sensor_truth([obstacle])
    assert not (sampled & ~truth).any()
    half_a_step = np.linalg.norm(points[1] - points[0], axis=-1).max() / 2
    assert not (truth & ~_contains(obstacle, points, half_a_step).any(axis=0)).any()


def _contains(obstacle: Obstacle, points: np.ndarray, near: float = 0.0) -> np.ndarray:
    """An independent reference: is each point inside, or so near? By complex rotation.

    What is so near to a convex shape around a circle is in the shape enlarged by near ÷ radius.
    """
    offset = (points[..., 0] - obstacle.x) + 1j * (points[..., 1] - obstacle.y)
    own = offset * np.exp(-1j * math.radians(obstacle.turn))
    scale = 1.0
    if obstacle.shape == "ellipsoid":
        radius = obstacle.height / 2
        scale = math.sqrt(1 - ((0.03 - radius) / radius) ** 2)
    sides = np.array([obstacle.width, obstacle.depth]) / 2 * scale
    sides *= 1 + near / sides.min()
    across, along = np.abs(own.real) / sides[0], np.abs(own.imag) / sides[1]
    return np.maximum(across, along) < 1 if obstacle.shape == "box" else across**2 + along**2 < 1


def test_sensors_run_from_left_to_right() -> None:
    assert (np.diff(SENSOR_ANGLES) > 0).all()
    assert rows_seen(sensor_truth([box(-0.12, 0.3)]), LEFT)
    assert not rows_seen(sensor_truth([box(-0.12, 0.3)]), RIGHT)
