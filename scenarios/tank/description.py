"""What a scene of the wood consists of: the records that drawing, geometry and rendering share.

In the units of ``scenarios.description``; the camera stands above the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

from scenarios.description import Colour, Light

WEATHERS = ("sunny", "overcast")
PRESENCES = ("tank", "none")

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """A matt thing: a shape of diameter 1 along each axis, stretched, leant, turned and moved."""

    shape: str  # "box", "cylinder" and "cone" (both upright), "ball", "crown" (a rugged ball)
    middle: Point
    size: Point
    colour: Colour
    turn: float = 0.0  # around z
    lean: float = 0.0  # to its own right, before the turn


@dataclass(frozen=True)
class Tank:
    """Where a tank stands, where it looks, and its colour."""

    x: float
    y: float
    heading: float  # of its front: 0 away from the camera, 90 to the left
    aim: float  # of its turret, from the heading
    colour: Colour


@dataclass(frozen=True)
class Camera:
    """How high it is, how far it looks down, and how wide it sees."""

    height: float
    pitch: float
    view: float


@dataclass(frozen=True)
class Place:
    """A piece of wood before the weather and the presence of its tank are chosen."""

    camera: Camera
    ground: tuple[Colour, Colour]  # two tones, in patches
    patches: float  # how many fit into a metre
    wood: tuple[Solid, ...]  # all that stands or lies there but the tank
    tank: Tank
    lights: dict[str, Light]  # by weather
    seed: int  # of the renderer's samples
