"""The geometric truth: which sensor would see an obstacle after the robot has driven ahead.

Needs NumPy only, so that it is tested without Blender.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scenarios.robot.description import Obstacle

DISTANCES = 65  # the robot driven ahead by 0, 1, …, 64 cm
STEP = 0.01
SENSOR_NAMES = ("left", "centre_left", "centre", "centre_right", "right")
SENSOR_ANGLES = (-40.0, -20.0, 0.0, 20.0, 40.0)  # degrees, negative to the left
SENSOR_RADIUS = 0.08  # the sensors sit on an arc around the robot's axle
SENSOR_HEIGHT = 0.03
SENSOR_RANGE = 0.10

Points = NDArray[np.float64]
Truth = NDArray[np.bool_]


def sensor_truth(obstacles: Sequence[Obstacle]) -> Truth:
    """Return (65, 5) booleans: does the ray of a sensor meet an obstacle within its range?

    A ray that starts inside an obstacle meets it: the robot could not have driven there.
    """
    starts, ends = sensor_rays()
    truth = np.zeros(starts.shape[:2], dtype=np.bool_)
    for obstacle in obstacles:
        if _is_at_sensor_height(obstacle):
            truth |= _rays_meet(obstacle, starts, ends)
    return truth


def sensor_rays() -> tuple[Points, Points]:
    """Return the first and the last point of every ray, each (65, 5, 2) in metres."""
    angles = np.radians(SENSOR_ANGLES)
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    driven = np.zeros((DISTANCES, 1, 2))
    driven[:, 0, 1] = np.arange(DISTANCES) * STEP
    starts = driven + SENSOR_RADIUS * directions
    return starts, starts + SENSOR_RANGE * directions


def _is_at_sensor_height(obstacle: Obstacle) -> bool:
    return obstacle.base <= SENSOR_HEIGHT <= obstacle.base + obstacle.height


def _rays_meet(obstacle: Obstacle, starts: Points, ends: Points) -> Truth:
    half_size = np.array([obstacle.width, obstacle.depth]) / 2 * _section_scale(obstacle)
    starts = _to_own_frame(obstacle, starts) / half_size
    ends = _to_own_frame(obstacle, ends) / half_size
    # Scaled by its half size, a box is the square [−1, 1]² and everything round the unit disc.
    return _meets_square(starts, ends) if obstacle.shape == "box" else _meets_disc(starts, ends)


def _section_scale(obstacle: Obstacle) -> float:
    """Return how wide the horizontal section at sensor height is, as a share of the widest."""
    if obstacle.shape != "ellipsoid":
        return 1.0
    middle = obstacle.base + obstacle.height / 2
    share = (SENSOR_HEIGHT - middle) / (obstacle.height / 2)
    return float(max(np.sqrt(1 - share**2), 1e-9))


def _to_own_frame(obstacle: Obstacle, points: Points) -> Points:
    turn = np.radians(obstacle.turn)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    own: Points = (points - np.array([obstacle.x, obstacle.y])) @ rotation
    return own


def _meets_square(starts: Points, ends: Points) -> Truth:
    """Clip each segment against the square's two pairs of sides (the slab method)."""
    steps = ends - starts
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        low, high = (-1 - starts) / steps, (1 - starts) / steps
    parallel = steps == 0
    inside = np.abs(starts) <= 1
    enter = np.where(parallel, np.where(inside, -np.inf, np.inf), np.minimum(low, high))
    leave = np.where(parallel, np.where(inside, np.inf, -np.inf), np.maximum(low, high))
    first = np.maximum(enter.max(axis=-1), 0)
    last = np.minimum(leave.min(axis=-1), 1)
    meets: Truth = first <= last
    return meets


def _meets_disc(starts: Points, ends: Points) -> Truth:
    steps = ends - starts
    nearest = -(starts * steps).sum(axis=-1) / (steps**2).sum(axis=-1)
    points = starts + np.clip(nearest, 0, 1)[..., None] * steps
    meets: Truth = (points**2).sum(axis=-1) <= 1
    return meets
