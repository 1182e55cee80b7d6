"""How a tank is put together, and how much of it the camera sees.

Needs NumPy only, so that it is tested without Blender.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scenarios.description import Colour
from scenarios.tank.description import Camera, Point, Solid, Tank

LENGTH, WIDTH, HEIGHT = 6.4, 3.3, 2.4  # of hull, tracks and turret, without the barrel
DARK = (0.09, 0.09, 0.08)  # tracks and wheels
_PER_SIDE = 5  # points of each face of a part whose sight is asked for

Points = NDArray[np.float64]


def tank_parts(tank: Tank) -> tuple[Solid, ...]:
    """Return the solids of a tank: hull, glacis, tracks, wheels, turret, barrel.

    They are laid out for a tank that looks along y, and then turned and moved with it.
    """
    shade = _darker(tank.colour, 0.8)
    hull = [
        _part("box", (0.0, 0.0, 0.95), (2.1, 6.0, 0.9), shade),
        _part("box", (0.0, -0.15, 1.3), (3.3, 5.6, 0.3), tank.colour),
    ]
    tracks = [_part("box", (x, 0.0, 0.5), (0.6, 6.4, 0.8), DARK) for x in (-1.35, 1.35)]
    wheels = [
        _part("cylinder", (x, y, 0.42), (0.7, 0.7, 0.1), shade, lean=90.0)
        for x in (-1.68, 1.68)
        for y in (-2.3, -1.15, 0.0, 1.15, 2.3)
    ]
    turret = [
        _part("cylinder", (0.0, 0.0, 1.85), (2.5, 2.9, 0.8), tank.colour),
        _part("cylinder", (-0.4, -0.4, 2.3), (0.8, 0.8, 0.25), shade),
        # Lies along y: turned a quarter, its lean to the right points ahead.
        _part("cylinder", (0.0, 3.2, 1.9), (0.26, 0.26, 4.2), shade, turn=90.0, lean=90.0),
    ]
    turned = [_turned(part, tank.aim) for part in turret]
    whole = [_turned(part, tank.heading) for part in (*hull, *tracks, *wheels, *turned)]
    return tuple(_moved(part, tank.x, tank.y) for part in whole)


def visible_share(tank: Tank, wood: Sequence[Solid], camera: Camera) -> float:
    """Return which share of the tank's hull and turret, as the camera sees it, nothing hides.

    The tank stands for its two boxes, and what hides it for cylinders and ellipsoids: trunks are
    upright, crowns and bushes round. A share of 1 means that nothing stands before it.
    """
    eye = np.array([0.0, 0.0, camera.height])
    points = _surface_points(tank, eye)
    hidden = np.zeros(len(points), dtype=np.bool_)
    for solid in wood:
        hidden |= _meets(solid, eye, points)
    return float(1 - hidden.mean())


def in_view(tank: Tank, camera: Camera) -> bool:
    """Tell whether the camera has the whole tank, without the barrel, between left and right."""
    half = math.tan(math.radians(camera.view / 2))
    corners = _corners(tank)
    return bool((np.abs(corners[:, 0]) < half * corners[:, 1]).all())


def _part(
    shape: str, middle: Point, size: Point, colour: Colour, turn: float = 0.0, lean: float = 0.0
) -> Solid:
    return Solid(shape, middle, size, colour, turn, lean)


def _turned(solid: Solid, degrees: float) -> Solid:
    angle = math.radians(degrees)
    x, y, z = solid.middle
    cosine, sine = math.cos(angle), math.sin(angle)
    middle = (cosine * x - sine * y, sine * x + cosine * y, z)
    return Solid(solid.shape, middle, solid.size, solid.colour, solid.turn + degrees, solid.lean)


def _moved(solid: Solid, x: float, y: float) -> Solid:
    middle = (solid.middle[0] + x, solid.middle[1] + y, solid.middle[2])
    return Solid(solid.shape, middle, solid.size, solid.colour, solid.turn, solid.lean)


def _darker(colour: Colour, by: float) -> Colour:
    red, green, blue = colour
    return red * by, green * by, blue * by


def _corners(tank: Tank) -> Points:
    """Return the four corners of its outline on the ground, (4, 2)."""
    angle = math.radians(tank.heading)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    own = np.array([(x, y) for x in (-WIDTH / 2, WIDTH / 2) for y in (-LENGTH / 2, LENGTH / 2)])
    return own @ turn.T + np.array([tank.x, tank.y])


def _surface_points(tank: Tank, eye: Points) -> Points:
    """Return points on the faces of hull and turret that look at the eye, (n, 3)."""
    boxes = [((0.0, 0.0, 0.75), (WIDTH, LENGTH, 1.5)), ((0.0, 0.0, 1.85), (2.4, 2.7, 0.8))]
    steps = (np.arange(_PER_SIDE) + 0.5) / _PER_SIDE - 0.5
    found = []
    for middle, size in boxes:
        for axis in range(3):
            for side in (-0.5, 0.5):
                first, second = np.meshgrid(steps, steps)
                own = np.full((first.size, 3), side)
                others = [one for one in range(3) if one != axis]
                own[:, others[0]], own[:, others[1]] = first.ravel(), second.ravel()
                normal = np.zeros(3)
                normal[axis] = math.copysign(1.0, side)
                points = _placed(own * size + middle, tank)
                outward = _placed(normal[None], Tank(0, 0, tank.heading, 0, DARK))[0]
                if outward @ (eye - points.mean(axis=0)) > 0:
                    found.append(points)
    return np.concatenate(found)


def _placed(points: Points, tank: Tank) -> Points:
    angle = math.radians(tank.heading)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    placed: Points = points @ turn.T + np.array([tank.x, tank.y, 0.0])
    return placed


def _meets(solid: Solid, eye: Points, points: Points) -> NDArray[np.bool_]:
    """Tell of each segment from the eye to a point whether it meets a solid's ellipsoid or trunk.

    A cylinder is its upright trunk, endless; the segments lie as low as the trunks are high.
    """
    axes = [0, 1] if solid.shape == "cylinder" else [0, 1, 2]
    half = np.array(solid.size)[axes] / 2
    # Scaled by its half size it is the unit disc or ball; turning it first would change little,
    # since what stands in the wood is about as deep as wide.
    start = (eye[axes] - np.array(solid.middle)[axes]) / half
    steps = (points - eye)[:, axes] / half
    along = np.clip(-(steps @ start) / (steps**2).sum(axis=1), 0, 1)
    nearest = start + along[:, None] * steps
    meets: NDArray[np.bool_] = (nearest**2).sum(axis=1) <= 1
    return meets
