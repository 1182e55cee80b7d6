"""A region as a manifest writes it, a box or polygons → a mask."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnaudit.sections import unknown
from cnnaudit.types import AuditError, Outline

FORMS = {
    "box": "box:LEFT TOP RIGHT BOTTOM",
    "polygon": "polygon:X Y X Y X Y …, several with ; between them",
}
_CELL = re.compile(r"([A-Za-z]{2,}):(.*)", re.DOTALL)  # one letter is a drive, and thus a path

Polygon = tuple[tuple[float, float], ...]


def is_outline(cell: str) -> bool:
    """Say whether a cell is written as an outline, well or badly, rather than as a path."""
    return _CELL.fullmatch(cell) is not None


def read_outline(cell: str, size: tuple[int, int], where: str) -> Outline:
    """Return the outline that a cell describes on a picture of a size (width, height).

    Raises AuditError if it is malformed, leaves the picture or holds no pixel of it.
    """
    found = _CELL.fullmatch(cell)
    assert found is not None, cell
    form, text = found.groups()
    if form not in FORMS:
        raise AuditError(f"{where}: {unknown(form, FORMS, 'form of a region')}, or a mask file")
    where = f"{where}: {cell!r}"
    parts = [text] if form == "box" else text.split(";")
    numbers = [_numbers(part, form, where) for part in parts]
    polygons = tuple(_box(row, where) if form == "box" else _polygon(row, where) for row in numbers)
    outline = Outline(size, polygons)
    _check_inside(outline, where)
    if not _draw(outline).any():
        raise AuditError(f"{where} holds no pixel: the centre of none lies inside")
    return outline


def draw_outline(outline: Outline) -> Image.Image:
    """Return the mask of an outline, 255 inside and 0 outside."""
    return Image.fromarray(_draw(outline).astype(np.uint8) * 255)


def _numbers(text: str, form: str, where: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise AuditError(f"{where} is no {form} ({error}); write {FORMS[form]}") from error
    if not all(map(math.isfinite, numbers)):
        raise AuditError(f"{where} is no {form}: every number must be finite")
    return numbers


def _box(numbers: list[float], where: str) -> Polygon:
    if len(numbers) != 4:
        raise AuditError(f"{where} has {len(numbers)} numbers, a box four: {FORMS['box']}")
    left, top, right, bottom = numbers
    if left >= right or top >= bottom:
        raise AuditError(f"{where} is empty: left must be below right, and top below bottom")
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _polygon(numbers: list[float], where: str) -> Polygon:
    if len(numbers) < 6 or len(numbers) % 2:
        raise AuditError(
            f"{where}: one of its polygons has {len(numbers)} numbers; it needs two for each "
            f"corner, and three corners: {FORMS['polygon']}"
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _check_inside(outline: Outline, where: str) -> None:
    width, height = outline.size
    for x, y in (corner for polygon in outline.polygons for corner in polygon):
        if not (0 <= x <= width and 0 <= y <= height):
            raise AuditError(
                f"{where} leaves its picture at ({x:g}, {y:g}); it is {width}×{height} pixels"
            )


def _draw(outline: Outline) -> NDArray[np.bool_]:
    width, height = outline.size
    inside = np.zeros((height, width), bool)
    for polygon in outline.polygons:
        inside |= _fill(polygon, outline.size)
    return inside


def _fill(polygon: Polygon, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels (H, W) whose centres have an odd number of edges to their left."""
    width, height = size
    edges = np.zeros((height, width + 1), np.uint8)  # counts wrap at 256, which leaves them odd
    for (x0, y0), (x1, y1) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        first, end = sorted((math.ceil(y0 - 0.5), math.ceil(y1 - 0.5)))
        rows = np.arange(first, end)  # their centres lie between the two corners
        if len(rows):
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.ceil(crossed - 0.5).astype(np.int64).clip(0, width)
            np.add.at(edges, (rows, columns), 1)
    np.cumsum(edges, axis=1, dtype=np.uint8, out=edges)
    inside: NDArray[np.bool_] = edges[:, :width] % 2 == 1
    return inside
