"""From a picture to a network's input, and a mask along with it: the same everywhere.

Training, rendering and auditing all pass through here, so that channel order, downsampling and
normalisation cannot come apart.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cnnaudit.types import Preprocessing

RESAMPLING = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def prepare_image(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return an RGB picture as the network's input, (3, H, W) float32, normalised."""
    resample = RESAMPLING[preprocessing.resample]
    pixels = np.asarray(_resized(image, preprocessing, resample), dtype=np.float32) / 255
    if preprocessing.channels == "bgr":
        pixels = pixels[..., ::-1]
    mean, std = _statistics(preprocessing)
    normal = (pixels - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


def prepare_mask(mask: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return a mask in the network's input coordinates, (H, W) bool, by nearest neighbour."""
    resized = _resized(mask, preprocessing, Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(resized) > 0)


def received(image: Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return a network's input (3, H, W) as a picture (H, W, 3) 8-bit, channels as they come in.

    Red and blue look swapped where the network receives BGR, rightly or by mistake.
    """
    mean, std = _statistics(preprocessing)
    pixels = image.cpu().numpy().transpose(1, 2, 0) * std + mean
    return np.round(pixels * 255).clip(0, 255).astype(np.uint8)


def _statistics(preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)


def _resized(
    image: Image.Image, preprocessing: Preprocessing, resample: Image.Resampling
) -> Image.Image:
    height, width = preprocessing.resize
    return image.resize((width, height), resample)
