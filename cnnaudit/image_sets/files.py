"""Reading pictures, masks and truths from files that somebody else made."""

from __future__ import annotations

import csv
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from cnnaudit.image_sets.outlines import draw_outline
from cnnaudit.store import digest_file
from cnnaudit.types import AuditError, File, Item, Outline, Region

_READABLE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
_MASK_MODES = ("1", "L", "P")
_MASK = (
    "0 outside the region and one other value inside; of a label map, with a value for each "
    "class, `cnnaudit import voc` or `folder` makes masks"
)

# How a picture is turned that says so itself, in the tag that cameras write.
_ORIENTATION = 0x0112
UPRIGHT, ON_ITS_SIDE = 1, (5, 6, 7, 8)
_MARKS_IN_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where a PNG says it
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> Image.Image:
    """Return a picture as 8-bit RGB, turned as it says itself; raise AuditError naming the file.

    Colours become RGB as torchvision's loaders make them: colour profiles do not count.
    """
    with _readable(path, "picture") as image:
        if image.mode not in _READABLE_MODES:
            raise AuditError(
                f"{path} has the colour mode {image.mode!r}; "
                "allowed are 8-bit RGB, CMYK, grey and palette pictures"
            )
        if image.has_transparency_data and _alpha(image).getextrema() != (255, 255):
            raise AuditError(f"{path} is transparent in places; flatten it on a background")
        return _upright(image.convert("RGB"), image)


def read_region(region: Region) -> Image.Image:
    """Return the mask of a region as an 8-bit picture, 0 outside, whatever it is declared by."""
    return draw_outline(region) if isinstance(region, Outline) else read_mask(region.path)


def read_mask(path: Path) -> Image.Image:
    """Return a mask file as an 8-bit picture, 0 outside; raise AuditError if it is no mask."""
    with _readable(path, "mask") as image:
        if image.mode not in _MASK_MODES:
            raise AuditError(
                f"{path} has the colour mode {image.mode!r}; a mask has one channel, {_MASK}"
            )
        values = np.asarray(image)
        inside = np.unique(values[values > 0])
        if len(inside) > 1:
            raise AuditError(
                f"{path} is no mask: it has {len(inside)} values beside 0; a mask has {_MASK}"
            )
        return _upright(Image.fromarray((values > 0).astype(np.uint8) * 255), image)


def read_values(path: Path, modes: Sequence[str]) -> NDArray[np.uint8]:
    """Return what a label map of some colour mode stores, (H, W) or (H, W, C); not turned."""
    with _readable(path, "label map") as image:
        if image.mode not in modes:
            allowed = ", ".join(modes)
            raise AuditError(f"{path} has the colour mode {image.mode!r}; allowed is {allowed}")
        return np.asarray(image)


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


def check_files(items: Sequence[Item], where: str) -> tuple[str, ...]:
    """Return of each picture that cannot be read why not; they fail alone, when they are read.

    Pictures are opened but not decoded. Raises AuditError unless all that items name is what it
    should be: a mask must be one, and of its picture's size. Of the pictures one must be.
    """
    masks: dict[Region, tuple[int, int]] = {}
    truths: set[File] = set()
    unreadable = []
    for item in items:
        image = item.image.path
        try:
            size = picture_size(image, f"{where}: item {item.id!r}")
        except AuditError as error:
            unreadable.append(told(error, item))
            continue
        for name, region in item.regions.items():
            if region not in masks:
                masks[region] = read_region(region).size
            if masks[region] != size:
                raise AuditError(
                    f"{where}: item {item.id!r}: the mask of {name!r}, {region}, is "
                    f"{_by(masks[region])} pixels, its picture {_by(size)}; they must be equal"
                    f"{_turned(image)}"
                )
        if isinstance(item.truth, File) and item.truth not in truths:
            read_truth(item.truth.path)
            truths.add(item.truth)
    if len(unreadable) == len(items):
        nor = "; nor can any other of its pictures" * (len(items) > 1)
        raise AuditError(f"{unreadable[0]}{nor}")
    return tuple(unreadable)


def told(error: Exception, *items: Item) -> str:
    """Say why items cannot be read, their files by name alone.

    Logs and reports tell it, and where files lie may be a secret, or say whose machine it is.
    """
    named = (one for item in items for one in (item.image, item.truth, *item.regions.values()))
    folders = {f"{file.path.parent}/" for file in named if isinstance(file, File)}
    text = str(error)
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder, "")
    return text


def file_inside(root: Path, relative: str, where: str) -> File:
    """Return a file that an item names, with its digest; raise AuditError as `inside` does."""
    path = inside(root, relative, where)
    try:
        return File(str(path), bytes.fromhex(digest_file(path)))
    except OSError as error:
        raise AuditError(f"{where}: {path} cannot be read ({error})") from error


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
        what = "is no regular file" if path.exists() else "leads to no file"
        lacking = f"{path} {what}" if os.path.lexists(path) else f"there is no file {path}"
        raise AuditError(f"{where}: {lacking}")
    return path


def picture_size(path: Path, where: str) -> tuple[int, int]:
    """Return (width, height) of a picture as `read_image` gives it, without decoding it."""
    try:
        with _readable(path, "picture") as image:
            width, height = image.size
            # Of a TIFF, Pillow tells the size as turned.
            sideways = image.format != "TIFF" and _orientation_undecoded(image, path) in ON_ITS_SIDE
            return (height, width) if sideways else (width, height)
    except AuditError as error:
        raise AuditError(f"{where}: {error}") from error


def orientation_of(path: Path) -> int:
    """Return how a picture is stored: `UPRIGHT`, `ON_ITS_SIDE`, or turned in another way."""
    with _readable(path, "picture") as image:
        return _orientation_undecoded(image, path)


def _orientation_undecoded(image: Image.Image, path: Path) -> int:
    """Return how a picture is stored; Pillow decodes every PNG for it, as it may say it last."""
    if image.format == "PNG":
        content = path.read_bytes()
        if not any(mark in content for mark in _MARKS_IN_PNG):
            return UPRIGHT
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return UPRIGHT  # damaged: what it may have said, no viewer knows either
    return found if found in _TURNS else UPRIGHT


def _turned(path: Path) -> str:
    turned = orientation_of(path) != UPRIGHT
    return " (the picture is turned, as its EXIF orientation says)" if turned else ""


def _upright(pixels: Image.Image, decoded: Image.Image) -> Image.Image:
    """Turn the pixels of a picture as its orientation says; a TIFF that is decoded has none."""
    turn = _TURNS.get(_orientation(decoded))
    return pixels if turn is None else pixels.transpose(turn)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[Image.Image]:
    """Open a picture; what is wrong with it becomes an AuditError that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # remarks on damaged metadata
            with Image.open(path) as image:
                _check_form(image, path)
                yield image
    except UnidentifiedImageError as error:
        raise AuditError(f"{path} cannot be read as a {kind}: its format is unknown") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise AuditError(f"{path} cannot be read as a {kind} ({error})") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise AuditError(f"{path} is too large to be decoded safely ({error})") from error


def _check_form(image: ImageFile.ImageFile, path: Path) -> None:
    """Refuse a program, and what Pillow would cut in silence: frames, 16 bits of a colour."""
    if image.format == "EPS":  # whatever its name ends with: Pillow would hand it to Ghostscript
        raise AuditError(f"{path} is PostScript, a program that draws; save what it draws as a PNG")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's: the others are previews of the first
        raise AuditError(f"{path} has {frames} frames; save the one that counts as a picture")
    if any(map(_is_deep, image.tile)):
        raise AuditError(
            f"{path} has 16 bits per channel; save it with 8, scaled as for the network's training"
        )


def _is_deep(tile: Any) -> bool:
    """Say whether a part of a picture is stored in 16 bits of a colour, as Pillow describes it."""
    codec, _, _, described = tile
    mode, *more = described if isinstance(described, tuple) else (described,)
    return ";16" in str(mode) or codec == "SGI16" or (codec.startswith("ppm") and more[0] > 255)


def _alpha(image: Image.Image) -> Image.Image:
    """Return the opacity, also of a palette or grey picture that names a transparent colour."""
    return image.convert("RGBA").getchannel("A")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
