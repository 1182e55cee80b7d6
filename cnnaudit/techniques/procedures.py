"""What techniques share that run passes of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

AT_ONCE = 32  # images in one pass of a procedure, at least one variant of each of the batch


def passes_of(variants: Sequence[T], b: int) -> Iterator[Sequence[T]]:
    """Yield variants of each of B images in parts, as many as go through one pass."""
    size = max(1, AT_ONCE // b)
    for start in range(0, len(variants), size):
        yield variants[start : start + size]


def by_variant(values: Tensor, b: int) -> Tensor:
    """Return what is of V variants of B images, (V·B, …), as (V, B, …)."""
    return values.reshape(-1, b, *values.shape[1:])


def own_generators(images: Tensor, seed: int) -> list[torch.Generator]:
    """Return a generator for each image (B, C, H, W), which leave their device together."""
    return [own_generator(image, seed) for image in images.cpu()]


def own_generator(image: Tensor, seed: int) -> torch.Generator:
    """Return a generator that an image (C, H, W) alone determines, whatever batch it is in."""
    import torch

    content = image.float().cpu().contiguous().numpy().tobytes()
    digest = hashlib.sha256(content + seed.to_bytes(8, "big")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def upsampled(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps (B, h, w) in input coordinates, (B, H, W): bilinear, corners not aligned."""
    from torch.nn.functional import interpolate

    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
