"""From a picture to a network's input, and a mask along with it: the same everywhere.

Training, rendering and auditing all pass through here, so that channel order, downsampling and
normalisation cannot come apart.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnaudit.specs import RESAMPLING, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

_FILTERS = {name: Image.Resampling[name.upper()] for name in RESAMPLING}


def preparing(preprocessing: Preprocessing) -> tuple[partial[Tensor], partial[Tensor]]:
    """Return what prepares pictures, and what prepares masks, for a network's input."""
    image = partial(prepare_image, preprocessing=preprocessing)
    return image, partial(prepare_mask, preprocessing=preprocessing)


def prepare_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return an RGB picture as the network's input, (C, H, W) float32, normalised."""
    import torch

    resample = _FILTERS[preprocessing.resample]
    image = image.convert("L") if preprocessing.channels == "grey" else image
    pixels = np.asarray(_resized(image, preprocessing, resample), dtype=np.float32) / 255
    pixels = np.atleast_3d(pixels)
    if preprocessing.channels == "bgr":
        pixels = pixels[..., ::-1]
    mean, std = _statistics(preprocessing)
    normal = (pixels - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


def prepare_mask(mask: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return a mask in the network's input coordinates, (H, W) bool, by nearest neighbour."""
    import torch

    resized = _resized(mask, preprocessing, Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(resized) > 0)


def frame(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Return the part of a picture or mask that the network sees, at its own resolution."""
    if preprocessing.crop is None:
        return image
    box = frame_box(image.size, preprocessing)
    size = (max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1])))
    # Not .crop(): the box lies between pixels, and what is laid over it has to fit.
    smooth = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BILINEAR
    return image.resize(size, smooth, box=box)


def frame_box(
    size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Return what the network sees of a picture of a size (width, height), in its pixels.

    Left, top, right, bottom; the edges lie between pixels.
    """
    if preprocessing.crop is None:
        return 0, 0, *size
    width, height = _resized_size(size, preprocessing)
    across, down = size[0] / width, size[1] / height
    left, top, right, bottom = _centre(width, height, preprocessing.crop)
    return left * across, top * down, right * across, bottom * down


def received(image: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return a network's input (C, H, W) as a picture (H, W, 3) 8-bit, channels as they come in.

    Red and blue look swapped where the network receives BGR, rightly or by mistake.
    """
    mean, std = _statistics(preprocessing)
    pixels = image.cpu().numpy().transpose(1, 2, 0) * std + mean
    values = np.round(pixels * 255).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(values, (*values.shape[:2], 3)).copy()


def _statistics(preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)


def _resized(
    image: Image.Image, preprocessing: Preprocessing, resample: Image.Resampling
) -> Image.Image:
    size = _resized_size(image.size, preprocessing)
    resized = image.resize(size, resample)
    if preprocessing.crop is None:
        return resized
    return resized.crop(_centre(*size, preprocessing.crop))


def _resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (width, height) after resizing, before cropping."""
    resize = preprocessing.resize
    if not isinstance(resize, int):
        return resize[1], resize[0]
    shorter, longer = sorted(size)
    other = int(resize * longer / shorter)  # as torchvision rounds
    return (resize, other) if size[0] <= size[1] else (other, resize)


def _centre(width: int, height: int, crop: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of a centre crop, as torchvision rounds: left, top, right, bottom."""
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return left, top, left + crop[1], top + crop[0]
