"""What a layer's channel images and filters say of themselves; no mask is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.metrics.registry import channel_metric

if TYPE_CHECKING:
    from torch import Tensor


@channel_metric(
    title="similarity to the input",
    meaning="how much the layer's channels still look like the picture: mean |correlation| with it",
)
def input_similarity(channels: Tensor, images: Tensor) -> Tensor:
    """Return mean_k |corr(A_k, grey input)|, (B,) in 0–1, over the channels that are not constant.

    The input (B, C, H, W) is averaged over its channels and over the area of each place (h, w).
    NaN where every channel is constant, or the input is.
    """
    import torch

    grey = images.double().mean(dim=1, keepdim=True)
    _, _, h, w = channels.shape
    small = torch.nn.functional.adaptive_avg_pool2d(grey, (h, w))
    first, second = _centred(channels), _centred(small)
    products: Tensor = (first * second).sum(dim=2)
    correlation = products / (first.norm(dim=2) * second.norm(dim=2))
    similarity: Tensor = correlation.abs().nanmean(dim=1)
    return similarity


def smoothness(filters: Tensor) -> float:
    """Return the correlation of neighbouring weights of filters (K, C, kh, kw), −1 to 1.

    Σ w · w′ over neighbours, across and down, against what equal neighbours would give: independent
    noise has 0, a slowly varying pattern comes near 1. NaN for 1×1 filters, which have none.
    """
    import torch

    weights = filters.double()
    pairs = [(weights[..., 1:, :], weights[..., :-1, :]), (weights[..., 1:], weights[..., :-1])]
    products = torch.stack([(one * other).sum() for one, other in pairs]).sum()
    squares = torch.stack([(one**2 + other**2).sum() / 2 for one, other in pairs]).sum()
    return float(products / squares) if squares > 0 else float("nan")


def _centred(maps: Tensor) -> Tensor:
    flat = maps.double().flatten(2)
    return flat - flat.mean(dim=2, keepdim=True)
