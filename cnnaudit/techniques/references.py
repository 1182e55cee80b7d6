"""Reference heatmaps, which see no network: what a technique has to beat.

They are written like techniques, so that every metric gives them a score. They depend on the input
alone, and a random one on its own image alone, whatever batch that is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.sections import Count, Positive, Seed
from cnnaudit.techniques.procedures import own_generators
from cnnaudit.techniques.registry import technique
from cnnaudit.types import Needs, Signals

if TYPE_CHECKING:
    from torch import Tensor

_NOTHING = Needs()


@technique(needs=_NOTHING, title="Centre prior", citation="a Gaussian at the centre")
def center_prior(signals: Signals, *, width: Positive = 0.25) -> Tensor:
    """Return a Gaussian at the centre, (B, H, W) in 0–1; `width` is σ as a share of each side."""
    import torch

    b, _, h, w = signals.images.shape
    rows, columns = (
        torch.exp(-(torch.linspace(-0.5, 0.5, size, dtype=torch.float64) ** 2) / (2 * width**2))
        for size in (h, w)
    )
    gaussian = (rows[:, None] * columns[None, :]).to(signals.images)
    return gaussian.expand(b, h, w)


@technique(needs=_NOTHING, title="Random", citation="independent uniform noise")
def random(signals: Signals, *, seed: Seed = 0) -> Tensor:
    """Return independent uniform noise, (B, H, W) in 0–1."""
    return _noise(signals.images, signals.images.shape[-2:], seed)


@technique(needs=_NOTHING, title="Smooth random", citation="uniform noise, interpolated")
def smooth_random(signals: Signals, *, grain: Count = 8, seed: Seed = 0) -> Tensor:
    """Return uniform noise on a grid of `grain` × `grain`, (B, grain, grain) in 0–1."""
    return _noise(signals.images, (grain, grain), seed)


@technique(needs=_NOTHING, title="Edges", citation="Sobel, Feldman, 1968")
def edges(signals: Signals) -> Tensor:
    """Return the Sobel gradient's magnitude of the grey input, (B, H, W), ≥ 0."""
    import torch

    kernel = torch.tensor([[1.0, 2.0, 1.0]]).T @ torch.tensor([[-1.0, 0.0, 1.0]])
    both = torch.stack([kernel, kernel.T])[:, None].to(signals.images)
    grey = signals.images.mean(dim=1, keepdim=True)
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    magnitude: Tensor = torch.nn.functional.conv2d(padded, both).norm(dim=1)
    return magnitude


def _noise(images: Tensor, size: tuple[int, ...], seed: int) -> Tensor:
    import torch

    maps = [torch.rand(tuple(size), generator=own) for own in own_generators(images, seed)]
    return torch.stack(maps).to(images)
