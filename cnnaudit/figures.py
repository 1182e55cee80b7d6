"""Pixels of the report: overlays, outlines, cut-outs, maps and colour bars, arrays in and out.

Pictures are (H, W, 3) uint8 in RGB. Heatmaps and masks are (h, w) uint8, 0 to 255, of any size:
they cover the same frame as the picture and are brought to its size here. The store has heatmaps
`coded`; the others take them as they are `shown`.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnaudit.types import AuditError

Pixels = NDArray[np.uint8]

# All three rise evenly in lightness, so they read in grey print and with any colour vision.
COLOUR_MAPS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "cividis": cv2.COLORMAP_CIVIDIS,
}
COLOUR_MAP = "inferno"
ALPHA = 0.55  # of the heatmap over the grey picture
THRESHOLD = 0.3  # of a heatmap's range: what lies over it is the interesting region

_DARK, _LIGHT = (0, 0, 0), (255, 255, 255)
_FORMATS = ("PNG", "WEBP")  # of what we write
_NOT_OURS = "a picture of the store is none that an audit writes"
_GAP = 2  # pixels between the pictures of a montage


@dataclass(frozen=True)
class Region:
    """The part of a picture under the strongest of a heatmap."""

    box: tuple[int, int, int, int]  # left, top, right, bottom; the last two are exclusive
    crop: Pixels  # (bottom − top, right − left, 4) RGBA, transparent outside the region
    share: float  # of the picture's pixels, 0–1


def decode(content: bytes) -> Pixels:
    """Return an encoded picture as (H, W, 3) RGB."""
    return _uint8(cv2.cvtColor(_decoded(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def decode_grey(content: bytes) -> Pixels:
    """Return an encoded heatmap or mask as (H, W)."""
    return _decoded(content, cv2.IMREAD_GRAYSCALE)


def _decoded(content: bytes, form: int) -> Pixels:
    _check_header(content)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), form)
    if pixels is None:
        raise AuditError(f"{_NOT_OURS}; run the audit again")
    return _uint8(pixels)


def _check_header(content: bytes) -> None:
    """Refuse what is no picture of ours: of another's store, OpenCV would decode gigabytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.open(io.BytesIO(content), formats=_FORMATS).close()
    except (OSError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise AuditError(f"{_NOT_OURS} ({error}); run the audit again") from error


def coded(heatmap: NDArray[np.float64]) -> Pixels:
    """Return the square roots of a heatmap's shares of its maximum in 8 bits; 0 where it is ≤ 0.

    Square roots, because a few strong pixels may leave the others next to nothing of the range.
    """
    positive = np.maximum(heatmap, 0)
    maximum = float(positive.max())
    return _uint8(np.round(255 * np.sqrt(positive / (maximum or 1))))


def shown(code: Pixels, brightest: float) -> Pixels:
    """Return coded values as they are shown: 255 from a share `brightest` of the maximum on."""
    shares = (np.arange(256) / 255) ** 2
    return _uint8(np.round(255 * np.minimum(shares / brightest, 1)))[code]


def eight_bit(values: NDArray[np.float64]) -> Pixels:
    """Scale values to 0–255, their lowest to 0; all 0 where they are equal."""
    low, high = values.min(), values.max()
    return _uint8(np.round((values - low) * (255 / (high - low or 1))))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as the content of a file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def fit(picture: Pixels, longest: int) -> Pixels:
    """Shrink a picture until its longer side has at most so many pixels; never enlarge it."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _uint8(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def colourise(grey: Pixels, colour_map: str = COLOUR_MAP) -> Pixels:
    """Give each value of a grey map (H, W) its colour (H, W, 3)."""
    return _uint8(cv2.applyColorMap(grey, _colours(colour_map)))


@cache  # OpenCV makes it anew for every picture, which takes longer than to use it
def _colours(colour_map: str) -> Pixels:
    """Return the colours (256, 1, 3) of a map, RGB."""
    ramp = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    bgr = cv2.applyColorMap(ramp, COLOUR_MAPS[colour_map])
    return _uint8(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def overlay(view: Pixels, heatmap: Pixels) -> Pixels:
    """Lay a coloured heatmap over the picture in grey, so that every hue is the heatmap's."""
    grey = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    colours = colourise(_stretch(heatmap, view, cv2.INTER_LINEAR))
    return _uint8(cv2.addWeighted(grey, 1 - ALPHA, colours, ALPHA, 0))


def outline(picture: Pixels, mask: Pixels) -> Pixels:
    """Draw a mask's border in white between two black lines, visible on any ground."""
    inside = (_stretch(mask, picture, cv2.INTER_NEAREST) > 127).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(picture).copy()
    cv2.drawContours(drawn, contours, -1, _DARK, thickness=3)
    cv2.drawContours(drawn, contours, -1, _LIGHT, thickness=1)
    return drawn


def interesting_region(view: Pixels, heatmap: Pixels) -> Region | None:
    """Cut out what lies over a share of the heatmap's range; none where the map is flat."""
    heat = _stretch(heatmap, view, cv2.INTER_LINEAR).astype(np.float64)
    low, high = float(heat.min()), float(heat.max())
    if high <= low:
        return None
    inside = (heat - low) / (high - low) > THRESHOLD
    left, top, width, height = cv2.boundingRect(inside.astype(np.uint8))
    window = np.s_[top : top + height, left : left + width]
    crop = np.dstack([view[window], inside[window].astype(np.uint8) * 255])
    box = (left, top, left + width, top + height)
    return Region(box, _uint8(crop), float(inside.mean()))


def montage(pictures: Sequence[Pixels], columns: int, cell: int) -> Pixels:
    """Lay pictures of one size, grey or RGB, side by side in RGBA, two clear pixels between them.

    Each is enlarged by whole pixels as far as it fits a square of `cell`, or shrunk to it.
    """
    height, width = pictures[0].shape[:2]
    times = max(1, cell // max(height, width))
    cells = [fit(one.repeat(times, axis=0).repeat(times, axis=1), cell) for one in pictures]
    height, width = (side + _GAP for side in cells[0].shape[:2])
    rows = math.ceil(len(cells) / columns)
    laid = np.zeros((rows * height - _GAP, min(columns, len(cells)) * width - _GAP, 4), np.uint8)
    for place, one in enumerate(cells):
        top, left = place // columns * height, place % columns * width
        window = laid[top : top + height - _GAP, left : left + width - _GAP]
        window[..., :3] = one if one.ndim == 3 else one[..., np.newaxis]
        window[..., 3] = 255
    return laid


def prediction_map(values: NDArray[np.float64], low: float, high: float) -> Pixels:
    """Draw values (rows, columns) one pixel each, the first row at the bottom like an axis."""
    share = (values - low) / ((high - low) or 1.0)
    grey = np.nan_to_num(np.clip(share, 0, 1) * 255).round().astype(np.uint8)
    return colourise(np.ascontiguousarray(grey[::-1]))


def colour_bar(alpha: float = 1.0) -> Pixels:
    """Draw the scale from 0 to the maximum, left to right, as it looks over a middle grey."""
    ramp = np.arange(256, dtype=np.uint8)[np.newaxis, :]
    grey = np.full((1, 256, 3), 127, dtype=np.uint8)
    return _uint8(cv2.addWeighted(grey, 1 - alpha, colourise(ramp), alpha, 0))


def data_uri(picture: Pixels, quality: int | None = None) -> str:
    """Encode a picture as a data address: lossless, or of a quality from 0 to 100.

    JPEG where it can be: of noise, which most heatmaps of gradients are, it is as small as WebP,
    and takes a sixth of the time.
    """
    if quality is not None and picture.shape[2] == 3:
        asked = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), asked)
        return _address("jpeg", jpeg.tobytes())
    lossless: dict[str, Any] = {"lossless": True, "quality": 20, "method": 0}
    options = lossless if quality is None else {"quality": quality, "method": 2}
    return _address("webp", encoded(Image.fromarray(picture), "WEBP", **options))


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _stretch(grey: Pixels, picture: Pixels, interpolation: int) -> Pixels:
    """Bring a map to the picture's size; linear means centres aligned, not corners."""
    height, width = picture.shape[:2]
    return _uint8(cv2.resize(grey, (width, height), interpolation=interpolation))


def _uint8(array: NDArray[np.generic]) -> Pixels:
    return np.asarray(array, dtype=np.uint8)
