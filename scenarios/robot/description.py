"""What a scene consists of, in numbers: the records that drawing, rendering and truth share.

In the units of ``scenarios.description``; the robot's axle is at the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scenarios.description import Light, Material


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
class Scene:
    """Everything that stands before the camera, and the seed of the renderer's samples."""

    ground: Material
    light: Light
    obstacles: tuple[Obstacle, ...] = field(default_factory=tuple)
    seed: int = 0
