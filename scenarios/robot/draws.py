"""Draw the random scenes of the training and held-out frames; frame i depends on (seed, i) only.

As in life, floors are dull, obstacles are painted, and almost nothing has the colour of the floor
that it stands on: in these frames an obstacle always differs from the floor in hue, while shade
and shadows differ in brightness alone. That is a shortcut, and the network takes it.
"""

from __future__ import annotations

import math

import numpy as np

from scenarios.description import Colour, Light, Material, hsv
from scenarios.robot.description import Obstacle, Scene

OBSTACLE_COUNTS = (0.22, 0.48, 0.24, 0.06)  # the chances of 0, 1, 2, 3 obstacles
LEAST_HUE_CONTRAST = 0.4  # between obstacle and ground
RED = 0.03  # how far a red's hue lies from pure red, of the whole circle
ROBOT_RADIUS = 0.11  # nothing stands closer to the axle


def draw_scene(seed: int, index: int, ground_coloured: float = 0.0, red: float = 0.0) -> Scene:
    """Draw training scene ``index`` of ``seed``.

    ``ground_coloured`` is the chance that an obstacle has the ground's own material, ``red`` that
    its colour, if it has one of its own, is a red. They are 0 unless asked for.
    """
    rng = np.random.default_rng([seed, index])
    ground = draw_ground(rng)
    count = int(rng.choice(len(OBSTACLE_COUNTS), p=OBSTACLE_COUNTS))
    obstacles: list[Obstacle] = []
    while len(obstacles) < count:
        material = _draw_obstacle_material(rng, ground, ground_coloured, red)
        obstacle = _draw_obstacle(rng, material)
        if _has_room(obstacle, obstacles):
            obstacles.append(obstacle)
    return Scene(ground, _draw_light(rng), tuple(obstacles), seed=index)


def draw_ground(rng: np.random.Generator) -> Material:
    """Draw a floor: a dull colour of any hue, matt or more or less glossy."""
    colour = hsv(rng.uniform(), 0.35 * rng.uniform() ** 1.5, rng.uniform(0.3, 0.85))
    if rng.uniform() < 0.4:
        return Material(colour)
    return Material(colour, rng.uniform(0.12, 0.6), rng.uniform(0.1, 0.5))


def contrast(first: Colour, second: Colour) -> float:
    """Return the Euclidean distance of two sRGB colours, 0 to √3."""
    return math.dist(first, second)


def hue_contrast(first: Colour, second: Colour) -> float:
    """Return how far two sRGB colours lie apart when each is scaled to the same sum, 0 to 2."""
    shares = [[value / (sum(colour) + 1e-9) for value in colour] for colour in (first, second)]
    return float(sum(abs(a - b) for a, b in zip(*shares, strict=True)))


def _draw_obstacle_material(
    rng: np.random.Generator, ground: Material, ground_coloured: float, red: float
) -> Material:
    if rng.uniform() < ground_coloured:
        return ground
    colour = _draw_obstacle_colour(rng, red)
    while hue_contrast(colour, ground.colour) < LEAST_HUE_CONTRAST:
        colour = _draw_obstacle_colour(rng, red)
    if rng.uniform() < 0.5:
        return Material(colour)
    return Material(colour, rng.uniform(0.2, 0.7), rng.uniform(0.1, 0.5))


def _draw_obstacle_colour(rng: np.random.Generator, red: float) -> Colour:
    # As many draws as for any colour, so that most scenes are otherwise as they were.
    hue = rng.uniform()
    if hue < red:
        hue = RED * (2 * hue / red - 1)
    return hsv(hue % 1, rng.uniform(0.45, 0.95), rng.uniform(0.35, 0.95))


def _draw_obstacle(rng: np.random.Generator, material: Material) -> Obstacle:
    shape = "box" if rng.uniform() < 0.65 else "cylinder"
    width = rng.uniform(0.05, 0.16)
    depth = rng.uniform(0.05, 0.16) if shape == "box" else width
    ahead = rng.uniform(0.14, 0.95)
    # Half of them in the robot's way, half anywhere in view, or else most frames predict nothing.
    reach = 0.15 if rng.uniform() < 0.5 else 0.08 + 0.7 * ahead
    return Obstacle(
        shape,
        x=rng.uniform(-reach, reach),
        y=ahead,
        width=width,
        depth=depth,
        height=rng.uniform(0.06, 0.18),
        material=material,
        turn=rng.uniform(0, 180),
    )


def _has_room(obstacle: Obstacle, others: list[Obstacle]) -> bool:
    free = [math.hypot(obstacle.x, obstacle.y) - ROBOT_RADIUS]
    free += [math.hypot(obstacle.x - o.x, obstacle.y - o.y) - _radius(o) for o in others]
    return min(free) > _radius(obstacle)


def _radius(obstacle: Obstacle) -> float:
    corner = math.hypot(obstacle.width, obstacle.depth) / 2
    return corner if obstacle.shape == "box" else obstacle.width / 2


def _draw_light(rng: np.random.Generator) -> Light:
    elevation = rng.uniform(25, 90)
    softness = rng.uniform(0.5, 4) if rng.uniform() < 0.5 else rng.uniform(4, 60)
    # Drawn by what falls on the ground, so that a low sun does not mean a dark picture.
    ground_light, sun_share = rng.uniform(0.6, 1.2), rng.uniform(0.35, 0.9)
    horizon = hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.2), rng.uniform(0.55, 0.95))
    zenith = hsv(rng.uniform(0.55, 0.65), rng.uniform(0, 0.55), rng.uniform(0.4, 0.9))
    return Light(
        azimuth=rng.uniform(0, 360),
        elevation=elevation,
        softness=softness,
        strength=ground_light * sun_share / math.sin(math.radians(elevation)),
        sky=ground_light * (1 - sun_share),
        horizon=horizon,
        zenith=zenith,
    )
