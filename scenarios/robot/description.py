"""What a scene consists of, in numbers: the records that drawing, rendering and truth share.

Lengths are metres, angles degrees, colours sRGB display values in [0, 1]. The robot's axle is at
the origin, x points to its right, y ahead, z up; a positive turn is counter-clockwise from above.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """A surface: its base colour, how rough it is and how much it mirrors."""

    colour: Colour
    roughness: float = 1.0
    specular: float = 0.0  # Blender's specular level: 0 is matt, 0.5 is ordinary plastic


@dataclass(frozen=True)
class Obstacle:
    """A solid thing: an upright box or cylinder, or an ellipsoid (a leaf, a ball)."""

    shape: str  # "box", "cylinder" or "ellipsoid"
    x: float
    y: float
    width: float  # along x, before the turn
    depth: float  # along y, before the turn
    height: float
    material: Material
    turn: float = 0.0
    tilt: float = 0.0  # leaning to its own right; only a thing above the sensors may lean
    base: float = 0.0  # height of its lower end above the ground


@dataclass(frozen=True)
class Light:
    """A sun and an even sky."""

    azimuth: float  # where the sun stands: 0 ahead, 90 right, 180 behind the robot, 270 left
    elevation: float
    softness: float  # angular diameter of the sun
    strength: float  # irradiance of a surface that faces the sun; 1 shows a colour as it is
    sky: float  # irradiance of the ground from the whole sky
    horizon: Colour = (0.80, 0.84, 0.88)  # how the sky looks, to the camera and in reflections
    zenith: Colour = (0.45, 0.60, 0.82)


@dataclass(frozen=True)
class Scene:
    """Everything that stands before the camera, and the seed of the renderer's samples."""

    ground: Material
    light: Light
    obstacles: tuple[Obstacle, ...] = field(default_factory=tuple)
    seed: int = 0
