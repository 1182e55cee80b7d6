"""Write what was rendered as an image set: pictures and masks, listed by a manifest."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MANIFEST = "manifest.csv"
Row = Mapping[str, str]


def write_picture(rendered: Path, output: Path) -> None:
    """Store a rendered PNG as lossless WebP, pixel for pixel."""
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.open(rendered).convert("RGB").save(output, lossless=True, quality=100, method=6)


def write_mask(region: NDArray[np.bool_], output: Path) -> None:
    """Store a region (H, W) as an 8-bit mask of 0 and 255."""
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(region.astype(np.uint8) * 255).save(output, optimize=True)


def write_manifest(columns: tuple[str, ...], rows: Iterable[Row], folder: Path) -> None:
    """Write the list of the set's pictures; a region that a picture lacks is an empty cell."""
    with (folder / MANIFEST).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_light(rendered: Path) -> NDArray[np.float64]:
    """Return a rendered PNG's linear light (H, W) in [0, 1], the sRGB curve undone."""
    encoded = np.asarray(Image.open(rendered).convert("RGB")).mean(axis=2) / 255
    low, high = encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4
    light: NDArray[np.float64] = np.where(encoded > 0.04045, high, low)
    return light
