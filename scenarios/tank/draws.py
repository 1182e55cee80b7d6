"""Draw the places of the pool; place i of a seed depends on (seed, i) only.

Each place has both weathers and a tank that may be left out: what the four pictures of a place
share is all but that. Nothing about a place depends on the weather, nor the weather on the place.
"""

from __future__ import annotations

import math

import numpy as np

from scenarios.description import Colour, Light, hsv
from scenarios.tank.description import Camera, Place, Solid, Tank
from scenarios.tank.geometry import in_view, visible_share

LEAST_SEEN, MOST_SEEN = 0.55, 0.9  # which share of the tank nothing hides
TANK_ROOM = 3.8  # no trunk stands nearer to the tank's middle
CAMERA_ROOM = 4.0
FARTHEST = 60.0

Rng = np.random.Generator


def draw_place(seed: int, index: int) -> Place:
    """Draw place ``index`` of ``seed``."""
    rng = np.random.default_rng([seed, index])
    camera = Camera(rng.uniform(1.9, 3.0), rng.uniform(-4, 2), rng.uniform(46, 56))
    foliage = rng.uniform(0.17, 0.32)  # the hue that the leaves of this wood are around
    far = [_draw_tree(rng, *_spot(rng, camera, 26, FARTHEST), foliage) for _ in range(14)]
    while True:
        tank = _draw_tank(rng, camera)
        near = _draw_near(rng, camera, tank, foliage)
        wood = [solid for group in (*far, *near) for solid in group]
        if in_view(tank, camera) and LEAST_SEEN <= visible_share(tank, wood, camera) <= MOST_SEEN:
            break
    return Place(
        camera,
        ground=_draw_ground(rng),
        patches=rng.uniform(0.3, 1.2),
        wood=tuple(wood),
        tank=tank,
        lights={"sunny": _draw_sun(rng), "overcast": _draw_cloud(rng)},
        seed=index,
    )


def _draw_tank(rng: Rng, camera: Camera) -> Tank:
    y = rng.uniform(10.5, 17.5)
    x = rng.uniform(-0.8, 0.8) * y * math.tan(math.radians(camera.view / 2))
    colour = hsv(rng.uniform(0.11, 0.3), rng.uniform(0.2, 0.5), rng.uniform(0.3, 0.5))
    return Tank(x, y, rng.uniform(0, 360), rng.uniform(-60, 60), colour)


def _draw_near(rng: Rng, camera: Camera, tank: Tank, foliage: float) -> list[list[Solid]]:
    """Draw what stands around the tank, and some of it before it."""
    found = []
    for _ in range(int(rng.integers(5, 10))):
        x, y = _spot(rng, camera, 8, 30)
        if _is_free(x, y, tank):
            found.append(_draw_tree(rng, x, y, foliage))
    for _ in range(int(rng.integers(1, 4))):
        share = rng.uniform(0.45, 0.8)  # of the way to the tank
        x, y = share * (tank.x + rng.uniform(-3, 3)), share * tank.y
        if _is_free(x, y, tank):
            found.append(_draw_tree(rng, x, y, foliage))
    for _ in range(int(rng.integers(4, 9))):
        x, y = _spot(rng, camera, 6, 24)
        if _is_free(x, y, tank):
            found.append([_draw_bush(rng, x, y, foliage)])
    for _ in range(int(rng.integers(1, 4))):
        x, y = _spot(rng, camera, 8, 24)
        if _is_free(x, y, tank):
            found.append([_draw_boulder(rng, x, y)])
    return found


def _spot(rng: Rng, camera: Camera, nearest: float, farthest: float) -> tuple[float, float]:
    """Draw a place on the ground, in view or a little beside it."""
    y = rng.uniform(nearest, farthest)
    return rng.uniform(-1.15, 1.15) * y * math.tan(math.radians(camera.view / 2)), y


def _is_free(x: float, y: float, tank: Tank) -> bool:
    return math.hypot(x - tank.x, y - tank.y) > TANK_ROOM and math.hypot(x, y) > CAMERA_ROOM


def _draw_tree(rng: Rng, x: float, y: float, foliage: float) -> list[Solid]:
    bark = hsv(rng.uniform(0.05, 0.11), rng.uniform(0.15, 0.45), rng.uniform(0.2, 0.42))
    leaves = _draw_leaves(rng, foliage)
    height = rng.uniform(4.5, 9.5)
    thickness = height * rng.uniform(0.025, 0.05)
    trunk = Solid("cylinder", (x, y, height / 2), (thickness, thickness, height), bark)
    if rng.uniform() < 0.4:
        return [trunk, *_needles(rng, x, y, height, leaves)]
    return [trunk, *_crowns(rng, x, y, height, leaves)]


def _needles(rng: Rng, x: float, y: float, height: float, leaves: Colour) -> list[Solid]:
    """Return a conifer's three cones, the lowest the widest."""
    foot = height * rng.uniform(0.12, 0.3)
    width, tall = height * rng.uniform(0.3, 0.45), (height - foot) * 0.5
    return [
        Solid(
            "cone",
            (x, y, foot + tall * (0.5 + 0.6 * number)),
            (width * (1 - 0.25 * number), width * (1 - 0.25 * number), tall),
            leaves,
            turn=rng.uniform(0, 360),
        )
        for number in range(3)
    ]


def _crowns(rng: Rng, x: float, y: float, height: float, leaves: Colour) -> list[Solid]:
    """Return a broad-leaved tree's crown: a few rugged balls around the top of its trunk."""
    found = []
    for _ in range(int(rng.integers(2, 5))):
        width = height * rng.uniform(0.22, 0.38)
        across, along = rng.uniform(-0.14, 0.14, 2) * height
        middle = (x + across, y + along, height * rng.uniform(0.65, 1.0))
        size = (width, width, width * rng.uniform(0.7, 1.1))
        found.append(Solid("crown", middle, size, leaves, turn=rng.uniform(0, 360)))
    return found


def _draw_bush(rng: Rng, x: float, y: float, foliage: float) -> Solid:
    width, height = rng.uniform(0.8, 2.4), rng.uniform(0.6, 1.6)
    size = (width, width * rng.uniform(0.7, 1.3), height)
    return Solid("crown", (x, y, height * 0.4), size, _draw_leaves(rng, foliage), _turn(rng))


def _draw_boulder(rng: Rng, x: float, y: float) -> Solid:
    """Draw a rock or a stack of wood as large as parts of a tank, in its colours."""
    colour = hsv(rng.uniform(0.07, 0.3), rng.uniform(0.05, 0.4), rng.uniform(0.25, 0.5))
    width, height = rng.uniform(0.8, 2.8), rng.uniform(0.5, 1.4)
    shape = "box" if rng.uniform() < 0.4 else "ball"
    size = (width, width * rng.uniform(0.5, 1.0), height)
    return Solid(shape, (x, y, height * 0.45), size, colour, _turn(rng))


def _turn(rng: Rng) -> float:
    return float(rng.uniform(0, 360))


def _draw_leaves(rng: Rng, foliage: float) -> Colour:
    hue = foliage + rng.uniform(-0.04, 0.04)
    return hsv(hue, rng.uniform(0.3, 0.65), rng.uniform(0.22, 0.45))


def _draw_ground(rng: Rng) -> tuple[Colour, Colour]:
    """Draw two tones of one soil: grass, moss or dead leaves."""
    hue, saturation, value = rng.uniform(0.08, 0.3), rng.uniform(0.2, 0.55), rng.uniform(0.35, 0.6)
    other = hue + rng.uniform(-0.05, 0.05)
    return hsv(hue, saturation, value), hsv(other, saturation, value * rng.uniform(0.55, 0.85))


def _draw_sun(rng: Rng) -> Light:
    """Draw a blue sky and a hard sun."""
    elevation = rng.uniform(28, 60)
    light, share = rng.uniform(0.8, 1.2), rng.uniform(0.6, 0.8)
    return Light(
        azimuth=rng.uniform(0, 360),
        elevation=elevation,
        softness=0.5,
        strength=light * share / math.sin(math.radians(elevation)),
        sky=light * (1 - share),
        horizon=hsv(rng.uniform(0.54, 0.6), rng.uniform(0.2, 0.4), rng.uniform(0.85, 0.98)),
        zenith=hsv(rng.uniform(0.57, 0.62), rng.uniform(0.55, 0.8), rng.uniform(0.65, 0.9)),
    )


def _draw_cloud(rng: Rng) -> Light:
    """Draw an even grey sky, which alone gives light."""
    return Light(
        azimuth=0.0,
        elevation=90.0,
        softness=180.0,
        strength=0.0,
        sky=rng.uniform(0.65, 1.05),
        horizon=hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.07), rng.uniform(0.7, 0.9)),
        zenith=hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.07), rng.uniform(0.55, 0.75)),
    )
