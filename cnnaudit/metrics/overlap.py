"""How much of a heatmap lies on a mask. M is the mask, K its pixels, n all pixels, ρ = K/n."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.metrics.registry import Overlay, overlap_metric
from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from torch import Tensor


def _share_of_mask(overlay: Overlay) -> Tensor:
    return overlay.share


@overlap_metric(
    title="mass in mask",
    meaning="share of the heatmap's positive mass that lies on the object",
    chance=_share_of_mask,
)
def mass_in_mask(overlay: Overlay) -> Tensor:
    """Return Σ_M h⁺ / Σ h⁺, (B,) in 0–1; chance level ρ.

    Source: Wang et al., "Score-CAM", CVPRW 2020 (energy-based pointing game).
    """
    mass = overlay.positive.flatten(1)
    return (mass * overlay.masks.flatten(1)).sum(dim=1) / mass.sum(dim=1)


def _share_of_dilated_mask(overlay: Overlay, *, tolerance: int = 0) -> Tensor:
    return _dilate(overlay.masks, tolerance).flatten(1).double().mean(dim=1)


@overlap_metric(
    title="pointing game",
    meaning="whether the heatmap's maximum lies on the object",
    chance=_share_of_dilated_mask,
)
def pointing_game(overlay: Overlay, *, tolerance: int = 0) -> Tensor:
    """Return the share of tied maxima within `tolerance` pixels (Euclidean, ≤) of M, (B,) in 0–1.

    Chance level: the share of the image within that distance of M.
    Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016.
    """
    values = overlay.heatmaps.flatten(1)
    maxima = values == values.amax(dim=1, keepdim=True)
    near = _dilate(overlay.masks, tolerance).flatten(1)
    return (maxima & near).sum(dim=1).double() / maxima.sum(dim=1)


def _iou_by_chance(overlay: Overlay, *, threshold: float | None = None) -> Tensor | None:
    return overlay.share / (2 - overlay.share) if threshold is None else None


@overlap_metric(
    title="IoU",
    meaning="overlap of the heatmap's strongest pixels, as many as the object has, with the object",
    chance=_iou_by_chance,
)
def iou(overlay: Overlay, *, threshold: float | None = None) -> Tensor:
    """Return |R ∩ M| / |R ∪ M|, (B,) in 0–1.

    R is the K highest pixels (chance ρ/(2 − ρ); ties enter by their expected share), or with
    `threshold` the pixels of at least that share of the maximum (no chance level).
    """
    if threshold is None:
        inside = _expected_hits_of_top_k(overlay)
        return inside / (2 * overlay.area - inside)
    if not 0 < threshold <= 1:
        raise AuditError(f"threshold: {threshold} is no share of the maximum, above 0 and up to 1")
    mass = overlay.positive.flatten(1)
    masks = overlay.masks.flatten(1)
    region = mass >= threshold * mass.amax(dim=1, keepdim=True)
    return (region & masks).sum(dim=1).double() / (region | masks).sum(dim=1)


def _expected_hits_of_top_k(overlay: Overlay) -> Tensor:
    """Return E |top-K ∩ M| when ties are broken uniformly, (B,), K each mask's own area."""
    values, masks = overlay.heatmaps.flatten(1), overlay.masks.flatten(1)
    kth = overlay.descending.gather(1, overlay.area[:, None] - 1)
    above, tied = values > kth, values == kth
    left = (overlay.area - above.sum(dim=1)).double()
    tied_hits = (tied & masks).sum(dim=1).double() / tied.sum(dim=1)
    return (above & masks).sum(dim=1) + left * tied_hits


def _dilate(masks: Tensor, radius: int) -> Tensor:
    """Return the pixels within `radius` (Euclidean, ≤) of each mask, (B, H, W) bool."""
    if radius < 0:
        raise AuditError(f"tolerance: {radius} is no radius in pixels, at least 0")
    if radius == 0:
        return masks
    import torch

    steps = torch.arange(-radius, radius + 1, device=masks.device)
    disc = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).float()
    hits = torch.nn.functional.conv2d(masks.float()[:, None], disc[None, None], padding=radius)
    return hits[:, 0] > 0.5
