"""Reading pictures, masks and truths from files that somebody else made."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cnnaudit.store import digest_file
from cnnaudit.types import AuditError, Item

_READABLE_MODES = ("1", "L", "P", "RGB", "RGBA")
_MASK_MODES = ("1", "L", "P")


def read_image(path: Path) -> Image.Image:
    """Return a picture as 8-bit RGB; raise AuditError naming the file."""
    with _readable(path, "picture") as image:
        if image.mode not in _READABLE_MODES:
            raise AuditError(
                f"{path} has the colour mode {image.mode!r}; "
                "allowed are 8-bit RGB, grey and palette pictures"
            )
        if image.has_transparency_data and _alpha(image).getextrema() != (255, 255):
            raise AuditError(f"{path} is transparent in places; flatten it on a background")
        return image.convert("RGB")


def read_mask(path: Path) -> Image.Image:
    """Return a mask as an 8-bit picture, 0 outside; raise AuditError if it is no mask."""
    with _readable(path, "mask") as image:
        if image.mode not in _MASK_MODES:
            raise AuditError(
                f"{path} has the colour mode {image.mode!r}; a mask has one channel, "
                "0 outside the region and one other value inside"
            )
        values = np.asarray(image)
        inside = np.unique(values[values > 0])
        if len(inside) > 1:
            raise AuditError(
                f"{path} is no mask: it has {len(inside)} values beside 0; a mask has 0 outside "
                "the region and one other value inside"
            )
        return Image.fromarray((values > 0).astype(np.uint8) * 255)


def read_truth(path: Path) -> NDArray[np.float64]:
    """Return a structured truth (rows, columns) from a CSV whose first line names the columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row][1:]
        values = np.array([[float(cell) for cell in row] for row in rows])
    except (OSError, ValueError, csv.Error) as error:
        raise AuditError(f"{path} is no table of numbers with a header ({error})") from error
    if values.ndim != 2 or not np.isfinite(values).all():
        raise AuditError(f"{path} is no table of finite numbers with a header")
    return values


def check_files(items: tuple[Item, ...], where: str) -> dict[Path, str]:
    """Return the digest of every file that items name, once each is seen to be what it should be.

    Pictures are opened but not decoded; a mask must be one, and of its picture's size.
    """
    masks: dict[Path, tuple[int, int]] = {}
    digests: dict[Path, str] = {}
    for item in items:
        size = _picture_size(item.image, f"{where}: item {item.id!r}")
        for region, path in item.regions.items():
            if path not in masks:
                masks[path] = read_mask(path).size
            if masks[path] != size:
                raise AuditError(
                    f"{where}: item {item.id!r}: the mask of {region!r}, {path}, is "
                    f"{_by(masks[path])} pixels, its picture {_by(size)}; they must be equal"
                )
        if isinstance(item.truth, Path) and item.truth not in digests:
            read_truth(item.truth)
        for path in files_of(item):
            if path not in digests:
                digests[path] = digest_file(path)
    return digests


def files_of(item: Item) -> Iterator[Path]:
    """Yield every file that an item names."""
    yield item.image
    yield from item.regions.values()
    if isinstance(item.truth, Path):
        yield item.truth


def inside(root: Path, relative: str, where: str) -> Path:
    """Return the file that a manifest names; raise AuditError if there is none below root."""
    path = root / relative
    try:
        below, exists = path.resolve().is_relative_to(root.resolve()), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a null byte
        raise AuditError(f"{where}: {relative!r} names no file ({error})") from error
    if not below:
        raise AuditError(f"{where}: {relative!r} leads out of {root}; keep files below it")
    if not exists:
        raise AuditError(f"{where}: there is no file {path}")
    return path


def _picture_size(path: Path, where: str) -> tuple[int, int]:
    try:
        with _readable(path, "picture") as image:
            return image.size
    except AuditError as error:
        raise AuditError(f"{where}: {error}") from error


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open a picture; what is wrong with it becomes an AuditError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except UnidentifiedImageError as error:
        raise AuditError(f"{path} cannot be read as a {kind}: its format is unknown") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise AuditError(f"{path} cannot be read as a {kind} ({error})") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise AuditError(f"{path} is too large to be decoded safely ({error})") from error


def _alpha(image: Image.Image) -> Image.Image:
    """Return the opacity, also of a palette or grey picture that names a transparent colour."""
    return image.convert("RGBA").getchannel("A")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
