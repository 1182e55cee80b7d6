"""What can be done to a picture: brightness, noise, blur and others, in five severities each.

The constants are those of ImageNet-C (Hendrycks, Dietterich, ICLR 2019, `make_imagenet_c.py`), made
for pictures whose shorter side has 224 pixels: lengths grow with the picture, and the grain of
noise too, or it would be averaged away where a large picture is resized. Not in ImageNet-C: hue,
channel order and rotation.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = 1  # to be raised when a picture comes out otherwise
SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 224  # pixels of the shorter side that the constants are made for

Floats = NDArray[np.float32]  # (H, W, 3) in RGB, 0–1; what comes out may leave that range
Generator = np.random.Generator


@dataclass(frozen=True)
class Perturbation:
    """A way to change a picture, what it takes at each severity, and how masks follow it."""

    apply: Callable[[Floats, Any, Generator], Floats]
    severities: tuple[Any, Any, Any, Any, Any]
    # on a mask (H, W), with a generator of the same seed; None: things stay where they are
    follow: Callable[[NDArray[np.uint8], Any, Generator], NDArray[np.uint8]] | None = None


def perturb_image(image: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """Return an 8-bit RGB picture, perturbed; severity 0 leaves it as it is."""
    if severity == 0:
        return image
    chosen = PERTURBATIONS[name]
    parameter = chosen.severities[severity - 1]
    return _encode(chosen.apply(_decode(image), parameter, np.random.default_rng(seed)))


def perturb_mask(mask: Image.Image, name: str, severity: int, seed: int) -> Image.Image:
    """Return the mask of what a picture shows, moved as `perturb_image` moves it."""
    chosen = PERTURBATIONS[name]
    if severity == 0 or chosen.follow is None:
        return mask
    parameter = chosen.severities[severity - 1]
    return Image.fromarray(chosen.follow(np.asarray(mask), parameter, np.random.default_rng(seed)))


def _brightness(pixels: Floats, added: float, _: Generator) -> Floats:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = (hsv[..., 2] + added).clip(0, 1)
    return _floats(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _contrast(pixels: Floats, kept: float, _: Generator) -> Floats:
    mean = pixels.mean(axis=(0, 1))
    return _floats((pixels - mean) * kept + mean)


def _gaussian_noise(pixels: Floats, deviation: float, rng: Generator) -> Floats:
    return _grained(pixels, lambda small: small + rng.normal(scale=deviation, size=small.shape))


def _shot_noise(pixels: Floats, photons: float, rng: Generator) -> Floats:
    return _grained(pixels, lambda small: rng.poisson(small * photons) / photons)


def _defocus_blur(pixels: Floats, lens: tuple[int, float], _: Generator) -> Floats:
    radius, softness = (length * _unit(pixels) for length in lens)
    reach = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float32)
    disk = cv2.GaussianBlur(disk, (0, 0), softness)
    return _floats(cv2.filter2D(pixels, -1, disk / disk.sum()))


def _motion_blur(pixels: Floats, motion: tuple[int, int], rng: Generator) -> Floats:
    """Smear along a line, half to either side, so that things stay on their masks."""
    radius, deviation = (length * _unit(pixels) / 2 for length in motion)
    reach = np.arange(-np.ceil(radius), np.ceil(radius) + 1, dtype=np.float32)
    line = np.zeros((len(reach), len(reach)), np.float32)
    line[len(reach) // 2] = np.exp(-((reach / deviation) ** 2) / 2)
    kernel = _turned(line, rng.uniform(-45, 45), cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    return _floats(cv2.filter2D(pixels, -1, kernel / kernel.sum()))


def _jpeg(pixels: Floats, quality: int, _: Generator) -> Floats:
    content = io.BytesIO()
    _encode(pixels).save(content, "JPEG", quality=quality)
    with Image.open(content) as image:
        return _decode(image)


def _haze(pixels: Floats, amount: float, rng: Generator) -> Floats:
    thickness = _clouds(pixels.shape[:2], rng)[..., np.newaxis]
    brightest = pixels.max()
    return _floats((pixels + amount * thickness) * brightest / (brightest + amount))


def _hue(pixels: Floats, degrees: float, _: Generator) -> Floats:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + degrees) % 360
    return _floats(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _channel_order(pixels: Floats, share: float, _: Generator) -> Floats:
    """Mix a picture with the one whose red and blue are swapped."""
    return _floats(pixels * (1 - share) + pixels[..., ::-1] * share)


def _rotation(pixels: Floats, degrees: float, rng: Generator) -> Floats:
    angle = degrees * rng.choice((-1, 1))
    return _floats(_turned(pixels, angle, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101))


def _rotated_mask(mask: NDArray[np.uint8], degrees: float, rng: Generator) -> NDArray[np.uint8]:
    angle = degrees * rng.choice((-1, 1))
    turned = _turned(mask, angle, cv2.INTER_NEAREST, cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)


PERTURBATIONS: Mapping[str, Perturbation] = {
    # what is added to the value of HSV
    "brightness": Perturbation(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    # what is left of the distance to the mean
    "contrast": Perturbation(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    # standard deviation, of values from 0 to 1
    "gaussian_noise": Perturbation(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    # photons of a white pixel
    "shot_noise": Perturbation(_shot_noise, (60, 25, 12, 5, 3)),
    # length of the streak and its standard deviation
    "motion_blur": Perturbation(_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    # radius of the disk and how far its edge is softened
    "defocus_blur": Perturbation(
        _defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
    ),
    # quality, as Pillow counts it
    "jpeg": Perturbation(_jpeg, (25, 18, 15, 10, 7)),
    # amount of fog, to that of ImageNet-C, which also lets its clouds gain detail; without, as
    # here, what is left of the picture falls at every step
    "haze": Perturbation(_haze, (1, 1.5, 2, 2.5, 3)),
    # degrees around the colour wheel
    "hue": Perturbation(_hue, (18, 36, 54, 90, 180)),
    # share of the picture whose red and blue are swapped
    "channel_order": Perturbation(_channel_order, (0.2, 0.4, 0.6, 0.8, 1)),
    # degrees, to either side; what comes in at the edges is a reflection
    "rotation": Perturbation(_rotation, (5, 10, 15, 20, 30), _rotated_mask),
}


def _unit(pixels: Floats) -> float:
    """Return how long one pixel of ImageNet-C's is in a picture."""
    return float(min(pixels.shape[:2])) / SIDE


def _grained(pixels: Floats, noisy: Callable[[Floats], NDArray[np.float64]]) -> Floats:
    """Add what noise does to the picture at ImageNet-C's size, or at its own if that is smaller."""
    height, width = pixels.shape[:2]
    scale = max(1.0, _unit(pixels))
    size = (round(width / scale), round(height / scale))
    small = _floats(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    grain = noisy(small) - small
    return _floats(pixels + cv2.resize(grain, (width, height), interpolation=cv2.INTER_NEAREST))


def _clouds(shape: tuple[int, ...], rng: Generator) -> Floats:
    """Return smooth noise (H, W) from 0 to 1: each octave twice as fine, and half as strong."""
    height, width = shape
    octaves = (
        cv2.resize(rng.random((2**k + 1, 2**k + 1)), (width, height), interpolation=cv2.INTER_CUBIC)
        / 2**k
        for k in range(1, 8)
    )
    found = np.sum(list(octaves), axis=0)
    return _floats((found - found.min()) / (np.ptp(found) or 1))


def _turned(pixels: NDArray[Any], degrees: float, interpolation: int, border: int) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return np.asarray(
        cv2.warpAffine(pixels, turn, (width, height), flags=interpolation, borderMode=border)
    )


def _decode(image: Image.Image) -> Floats:
    return np.asarray(image, np.float32) / np.float32(255)


def _encode(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.round(pixels.clip(0, 1) * 255).astype(np.uint8))


def _floats(pixels: Any) -> Floats:
    return np.asarray(pixels, np.float32)
