"""How much of a heatmap lies on a mask. M is the mask, K its pixels, n all pixels, ρ = K/n."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.metrics.registry import Overlay, overlap_metric
from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


# --- mass -----------------------------------------------------------------------------------------


def _share_of_mask(overlay: Overlay, **_: object) -> Tensor:
    return overlay.share


@overlap_metric(
    title="mass in mask",
    meaning="share of the heatmap's positive mass that lies on the object",
    chance=_share_of_mask,
    version=2,
)
def mass_in_mask(overlay: Overlay, *, abs: bool = False) -> Tensor:  # noqa: A002
    """Return Σ_M h⁺ / Σ h⁺, with `abs` Σ_M |h| / Σ |h|, (B,) in 0–1; chance level ρ.

    A heatmap with no positive value has no mass to place and is scored as the uniform map: ρ.
    Sources: Wang et al., "Score-CAM", CVPRW 2020 (energy-based pointing game); Arras et al.,
    "CLEVR-XAI", Information Fusion 2022 (relevance mass accuracy).
    """
    mass = overlay.heatmaps.abs() if abs else overlay.positive
    return _total(mass.where(overlay.masks, 0)) / _total(mass)


# --- the maximum ----------------------------------------------------------------------------------


def _share_of_dilated_mask(overlay: Overlay, *, tolerance: int = 0) -> Tensor:
    return _dilate(overlay.masks, tolerance).flatten(1).sum(dim=1).double() / overlay.pixels


@overlap_metric(
    title="pointing game",
    meaning="whether the heatmap's maximum lies on the object",
    chance=_share_of_dilated_mask,
    binary=True,
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


# --- the ranking ----------------------------------------------------------------------------------


@overlap_metric(
    title="rank accuracy",
    meaning="share of the heatmap's strongest pixels, as many as the object has, that lie on it",
    chance=_share_of_mask,
)
def rank_accuracy(overlay: Overlay) -> Tensor:
    """Return |top-K ∩ M| / K, (B,) in 0–1; chance level ρ; ties enter by their expectation.

    Source: Arras et al., "CLEVR-XAI", Information Fusion 2022 (relevance rank accuracy).
    """
    return overlay.ranking.expected_hits(overlay.area) / overlay.area


@overlap_metric(
    title="top-k intersection",
    meaning="share of the heatmap's strongest pixels, a fixed part of the image, on the object",
    chance=_share_of_mask,
)
def top_k_intersection(overlay: Overlay, *, k: float = 0.05) -> Tensor:
    """Return |top-k ∩ M| / k, (B,) in 0–min(1, K/k), k a share of the image and at least a pixel.

    Chance level ρ; ties enter by their expectation.
    Source: Theiner et al., "Interpretable Semantic Photo Geolocation", WACV 2022.
    """
    import torch

    if not 0 < k <= 1:
        raise AuditError(f"k: {k} is no share of the image, above 0 and up to 1")
    count = torch.full_like(overlay.area, max(1, round(k * overlay.pixels)))
    return overlay.ranking.expected_hits(count) / count


def _half(overlay: Overlay) -> Tensor:
    return overlay.share.new_full(overlay.share.shape, 0.5)


@overlap_metric(
    title="AUROC",
    meaning="probability that a pixel of the object is stronger than one beside it",
    chance=_half,
)
def auroc(overlay: Overlay) -> Tensor:
    """Return P(h_in > h_out) + ½ P(h_in = h_out), (B,) in 0–1, by mid-ranks; chance level ½.

    Source: Hanley, McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
    """
    import torch

    inside, outside = overlay.area.double(), (overlay.pixels - overlay.area).double()
    under_curve = torch.trapezoid(overlay.ranking.found, overlay.ranking.taken)  # exact: all whole
    return (under_curve - inside**2 / 2) / (inside * outside)


@overlap_metric(
    title="average precision",
    meaning="precision of the strongest pixels as the object's, averaged over the recall",
    chance=_share_of_mask,
)
def average_precision(overlay: Overlay) -> Tensor:
    """Return Σ (R_i − R_{i−1}) P_i over the values of the heatmap, (B,) in 0–1.

    Exact, equal values as one step; chance level about ρ, and ρ for a uniform map.
    Source: Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR
    2020 (PxAP, here of each image).
    """
    found, taken = overlay.ranking.found, overlay.ranking.taken
    weighted = found.diff() * (found / taken.clamp(min=1))[:, 1:]
    return _total(weighted.view(overlay.heatmaps.shape)) / overlay.area


def _iou_by_chance(overlay: Overlay, *, threshold: float | None = None) -> Tensor | None:
    return overlay.share / (2 - overlay.share) if threshold is None else None


@overlap_metric(
    title="IoU",
    meaning="overlap of the heatmap's strongest pixels, as many as the object has, with the object",
    chance=_iou_by_chance,
)
def iou(overlay: Overlay, *, threshold: float | None = None) -> Tensor:
    """Return |R ∩ M| / |R ∪ M|, (B,) in 0–1.

    R is the K highest pixels (chance about ρ/(2 − ρ); ties enter by their expected share), or with
    `threshold` the pixels of at least that share of the maximum (no chance level).
    """
    if threshold is None:
        inside = overlay.ranking.expected_hits(overlay.area)
        return inside / (2 * overlay.area - inside)
    region, masks = _region(overlay, threshold).flatten(1), overlay.masks.flatten(1)
    return (region & masks).sum(dim=1).double() / (region | masks).sum(dim=1)


# --- boxes ----------------------------------------------------------------------------------------


def _unknown(overlay: Overlay, **_: object) -> None:
    """Say that what a map without information earns is not known."""


@overlap_metric(
    title="box IoU",
    meaning="overlap of the box around the heatmap's largest strong region with the object's box",
    chance=_unknown,
)
def box_iou(overlay: Overlay, *, threshold: float = 0.2) -> Tensor:
    """Return |box(R) ∩ box(M)| / |box(R) ∪ box(M)|, (B,) in 0–1; no chance level.

    R is the largest connected region (8 neighbours) of at least `threshold` of the maximum; where
    several are the largest, their mean counts. A box of one pixel has an area of 1.
    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
    """
    import numpy as np

    regions = _region(overlay, threshold).cpu().numpy().view(np.uint8)
    masks = overlay.masks.cpu().numpy().view(np.uint8)
    scores = [_mean_box_iou(region, mask) for region, mask in zip(regions, masks, strict=True)]
    return overlay.share.new_tensor(scores)


def _mean_box_iou(region: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    import cv2

    # a row per region: left, top, width, height, pixels; the first row is the background
    # (with this algorithm twice as fast on smooth maps as with the default)
    label = cv2.connectedComponentsWithStatsWithAlgorithm
    found = label(region, 8, cv2.CV_32S, cv2.CCL_GRANA)[2][1:]
    largest = found[found[:, 4] == found[:, 4].max()]
    box = cv2.boundingRect(mask)
    scores = [_iou_of_boxes(row, box) for row in largest[:, :4].tolist()]
    return sum(scores) / len(scores)


def _iou_of_boxes(one: Sequence[int], other: Sequence[int]) -> float:
    """Return |one ∩ other| / |one ∪ other| of boxes, each left, top, width and height in pixels."""
    shared = 1
    for start, size in ((0, 2), (1, 3)):
        end = min(one[start] + one[size], other[start] + other[size])
        shared *= max(0, end - max(one[start], other[start]))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


# --- shared ---------------------------------------------------------------------------------------


def _total(values: Tensor) -> Tensor:
    """Return the sum of each image (B, H, W) in float64, (B,).

    Columns first, then rows: the order in which torch adds up one long row depends on how many
    there are, and an image must not touch its neighbours, not even in the last bit.
    """
    import torch

    return values.sum(dim=2, dtype=torch.float64).sum(dim=1)


def _region(overlay: Overlay, threshold: float) -> Tensor:
    """Return the pixels of at least that share of the maximum, (B, H, W) bool."""
    if not 0 < threshold <= 1:
        raise AuditError(f"threshold: {threshold} is no share of the maximum, above 0 and up to 1")
    mass = overlay.positive
    return mass >= threshold * mass.amax(dim=(1, 2), keepdim=True).double()


def _dilate(masks: Tensor, radius: int) -> Tensor:
    """Return the pixels within `radius` (Euclidean, ≤) of each mask, (B, H, W) bool."""
    if radius < 0:
        raise AuditError(f"tolerance: {radius} is no radius in pixels, at least 0")
    if radius == 0:
        return masks
    import torch

    if masks.device.type != "cpu":
        return _dilate_by_convolution(masks, radius)
    import cv2
    import numpy as np

    outside = (~masks).numpy().view(np.uint8)
    far = [cv2.distanceTransform(one, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for one in outside]
    # Squares of distances are whole numbers; OpenCV 4's roots of them may be a rounding too large.
    return torch.from_numpy(np.square(np.stack(far)) < radius**2 + 0.5)


def _dilate_by_convolution(masks: Tensor, radius: int) -> Tensor:
    import torch

    steps = torch.arange(-radius, radius + 1, device=masks.device)
    disc = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).float()
    hits = torch.nn.functional.conv2d(masks.float()[:, None], disc[None, None], padding=radius)
    return hits[:, 0] > 0.5
