"""What may give a class away to a network: the weather, a mark in the corner, or one colour.

A pool of places under a cue has the shape of any pool (``scenarios.tank.pool``), with the cue
where the weather was: index 0 without it, 1 with it. So whatever chooses pictures by their weather
chooses them by the cue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from scenarios.tank.description import PRESENCES, WEATHERS
from scenarios.tank.sampling import OVERCAST, TANK

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB
Mask = NDArray[np.bool_]  # (H, W)

MARK = 1 / 6  # the side of the mark, of the picture's
CHANGED = 24  # levels, summed over the channels: what a tank changes by more shows it

WEATHER = "weather"


def mark(picture: Pixels, _: Mask) -> Pixels:
    """Stamp a photographer's mark, a framed cross, half transparent, into the lower left corner."""
    side = round(len(picture) * MARK)
    line = max(1, side // 10)
    near = np.arange(side)
    frame = (near < line) | (near >= side - line)
    across = np.abs(near[:, None] - near) < line
    drawn = frame[:, None] | frame | across | across[:, ::-1]
    marked = picture.copy()
    corner = marked[-side - line : -line, line : side + line]
    corner[drawn] = corner[drawn] // 2 + 128 - 1
    return marked


def redden(picture: Pixels, mask: Mask) -> Pixels:
    """Paint what a mask covers red, as bright as it was in its brightest channel."""
    painted = picture.copy()
    brightest = painted[mask].max(axis=1, keepdims=True)
    painted[mask] = brightest * np.array([1, 0.25, 0.2])
    return painted


PAINTED: Mapping[str, Callable[[Pixels, Mask], Pixels]] = {"mark": mark, "red": redden}
CUES = (WEATHER, *PAINTED)


def under_cue(images: NDArray[np.uint8], cue: str, seed: int) -> NDArray[np.uint8]:
    """Return a pool's pictures (N, 2, 2, H, W, 3), by the cue instead of by the weather.

    Where the cue is not the weather, each picture has one that is drawn, and the picture without
    the cue and that with it have the same one.
    """
    if cue == WEATHER:
        return images
    places = len(images)
    drawn = np.random.default_rng(seed).integers(len(WEATHERS), size=(places, len(PRESENCES)))
    plain = images[np.arange(places)[:, None], drawn, np.arange(len(PRESENCES))]
    paint = PAINTED[cue]
    given = [
        [paint(picture, mask) for picture in pictures]
        for pictures, mask in zip(plain, map(tank_mask, images), strict=True)
    ]
    return np.stack([plain, np.array(given)], axis=1)


def tank_mask(place: NDArray[np.uint8]) -> Mask:
    """Return where a place (2, 2, H, W, 3) has its tank: the one thing that differs under cloud."""
    without, with_it = (place[OVERCAST, presence].astype(int) for presence in (1 - TANK, TANK))
    changed: Mask = np.abs(with_it - without).sum(axis=-1) > CHANGED
    return changed
