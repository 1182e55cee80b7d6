"""What the scenes of several case studies consist of: colours, surfaces, the light.

Lengths are metres, angles degrees, colours sRGB display values in [0, 1]. The camera looks along y,
x points to its right, z up; a positive turn is counter-clockwise from above.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """A surface: its base colour, how rough it is and how much it mirrors."""

    colour: Colour
    roughness: float = 1.0
    specular: float = 0.0  # Blender's specular level: 0 is matt, 0.5 is ordinary plastic


@dataclass(frozen=True)
class Light:
    """A sun and an even sky."""

    azimuth: float  # where the sun stands: 0 ahead, 90 right, 180 behind the camera, 270 left
    elevation: float
    softness: float  # angular diameter of the sun
    strength: float  # irradiance of a surface that faces the sun; 1 shows a colour as it is
    sky: float  # irradiance of the ground from the whole sky
    horizon: Colour = (0.80, 0.84, 0.88)  # how the sky looks, to the camera and in reflections
    zenith: Colour = (0.45, 0.60, 0.82)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return the sRGB colour of a hue, a saturation and a value, each in [0, 1]."""
    return colorsys.hsv_to_rgb(float(hue), float(saturation), float(value))
