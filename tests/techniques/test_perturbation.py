"""Occlusion and RISE, on linear models, whose answer is known."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.types import HeatmapRequest, Heatmaps


def maps_of(
    model: nn.Module, images: Tensor, name: str, target: str = "all_outputs", **parameters: object
) -> Tensor:
    spec = TechniqueSpec(name, name, parameters)
    request = HeatmapRequest(spec, TargetSpec("t", target, {}), "")
    _, (result,) = compute_heatmaps(model, None, images, [request])
    assert isinstance(result, Heatmaps)
    return result.maps


class Linear(nn.Module):
    """y = Σ weights · x + bias, weights (C, H, W)."""

    def __init__(self, weights: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weights, self.bias = nn.Parameter(weights), bias

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weights).flatten(1).sum(dim=1, keepdim=True) + self.bias


# --- occlusion ------------------------------------------------------------------------------------


def test_occlusion_by_hand() -> None:
    # w · x = (2, −6, 4, 0, 5): patches of two pixels, one apart, lower the score by
    # −4, −2, 4 and 5; a pixel gets the mean over the patches on it.
    model = Linear(torch.tensor([[[2.0, 3.0, 4.0, 9.0, 5.0]]]), bias=7.0)
    images = torch.tensor([[[[1.0, -2.0, 1.0, 0.0, 1.0]]]])
    maps = maps_of(model, images, "occlusion", patch=0.4, stride=0.2)
    assert maps.tolist() == [[[-4, -3, 1, 4.5, 5]]]
    # Filled with 1 instead of 0: −4 + 2 + 3, …: w · (x − 1) = (0, −9, 0, −9, 0)
    maps = maps_of(model, images, "occlusion", patch=0.4, stride=0.2, fill=1.0)
    assert maps.tolist() == [[[-9, -9, -9, -9, -9]]]


def test_a_last_patch_ends_at_the_border_and_pixels_may_stay_uncovered() -> None:
    model, images = Linear(torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]])), torch.ones(1, 1, 1, 5)
    # Patches at 0–1, 2–3 and 4.
    maps = maps_of(model, images, "occlusion", patch=0.4, stride=0.4)
    assert maps.tolist() == [[[3, 3, 7, 7, 5]]]
    # Patches at 0 and 3.
    maps = maps_of(model, images, "occlusion", patch=0.2, stride=0.6)
    assert maps.tolist() == [[[1, 0, 0, 4, 0]]]


@pytest.mark.parametrize(("patch", "stride"), [(0.2, 0.1), (0.5, 0.3), (1.0, 1.0), (0.34, 0.5)])
def test_occlusion_against_loops(patch: float, stride: float) -> None:
    rng = np.random.default_rng(0)
    b, c, h, w = 2, 3, 10, 7
    weights, x = rng.normal(size=(c, h, w)), rng.normal(size=(b, c, h, w))
    (ph, pw), (sh, sw) = (
        [max(1, round(share * side)) for side in (h, w)] for share in (patch, stride)
    )
    drop, number = np.zeros((b, h, w)), np.zeros((h, w))
    # Patches start until one reaches the border.
    for top in range(0, sh * ceil((h - ph) / sh) + 1, sh):
        for left in range(0, sw * ceil((w - pw) / sw) + 1, sw):
            part = np.s_[..., top : top + ph, left : left + pw]
            drop[part] += (weights * x)[part].sum(axis=(1, 2, 3))[:, None, None]
            number[part] += 1
    maps = maps_of(
        *(Linear(torch.from_numpy(weights)), torch.from_numpy(x), "occlusion"),
        patch=patch,
        stride=stride,
    )
    np.testing.assert_allclose(maps.numpy(), drop / np.maximum(number, 1), atol=1e-9)


# --- RISE -----------------------------------------------------------------------------------------

CELLS, KEEP, SIZE = 3, 0.4, (6, 8)


def enlarged(side: int) -> np.ndarray:
    """Return the matrix that enlarges `CELLS` values to a cell more than `side`, bilinearly."""
    large = (CELLS + 1) * ceil(side / CELLS)
    matrix = np.zeros((large, CELLS))
    for i in range(large):
        place = max((i + 0.5) * CELLS / large - 0.5, 0)
        low = min(int(place), CELLS - 1)
        matrix[i, low] += 1 - (place - low)
        matrix[i, min(low + 1, CELLS - 1)] += place - low
    return matrix


def second_moments() -> tuple[np.ndarray, np.ndarray]:
    """Return E[m mᵀ] and E[m] of a mask's pixels, over all shifts and grids."""
    rows, columns = map(enlarged, SIZE)
    total, shifts = 0.0, [(t, s) for t in range(ceil(6 / CELLS)) for s in range(ceil(8 / CELLS))]
    for top, left in shifts:
        mask = np.kron(rows[top : top + SIZE[0]], columns[left : left + SIZE[1]])  # of the grid
        total = total + mask @ mask.T
    mean = np.full(SIZE[0] * SIZE[1], KEEP)
    return KEEP * (1 - KEEP) * total / len(shifts) + np.outer(mean, mean), mean


@pytest.mark.parametrize("centred", [False, True])
def test_rise_is_unbiased_on_a_linear_model(centred: bool) -> None:
    """Its mean over seeds is E[y(x ⊙ m) · m] / keep, within the standard error of that mean."""
    rng = np.random.default_rng(1)
    weights, x, bias = rng.normal(size=(3, *SIZE)), rng.normal(size=(1, 3, *SIZE)), 2.0
    n, seeds = 100, 60
    moments, mean = second_moments()
    w = (weights * x[0]).sum(axis=0).ravel()
    expected = (moments @ w + bias * mean) / KEEP
    if centred:  # the covariance, by as many masks as there are
        expected = (1 - 1 / n) * (moments - np.outer(mean, mean)) @ w / KEEP
    model, images = Linear(torch.from_numpy(weights), bias), torch.from_numpy(x)
    drawn = np.stack(
        [
            maps_of(
                *(model, images, "rise"),
                masks=n,
                cells=CELLS,
                keep=KEEP,
                centred=centred,
                seed=seed,
            ).numpy()
            for seed in range(seeds)
        ]
    ).reshape(seeds, -1)
    error = drawn.std(axis=0, ddof=1) / np.sqrt(seeds)
    z = (drawn.mean(axis=0) - expected) / error
    assert np.abs(z).max() < 4.5
    assert error.max() < 0.2 * np.abs(expected).max()  # or the test would hold for anything


def test_an_offset_of_the_score_lifts_the_map_unless_it_is_centred() -> None:
    weights, images = torch.randn(3, 6, 8).double(), torch.randn(2, 3, 6, 8).double()
    few = {"masks": 20, "cells": 3}
    for option, equal in (({"centred": False}, False), ({"centred": True}, True), ({}, True)):
        low, high = (
            maps_of(Linear(weights, bias), images, "rise", **few, **option) for bias in (0.0, 9.0)
        )
        assert torch.allclose(low, high) == equal
        assert equal or (high > low).all()


class Probed(nn.Module):
    """One small weight and a large offset; notes each pass's images and scores."""

    def __init__(self, offset: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset, self.dtype = offset, dtype
        self.seen: list[Tensor] = []
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        scores = (x[:, :, 1:3, 2:5].mean(dim=(1, 2, 3)) + self.offset).to(self.dtype)
        self.seen.append(x)
        self.given.append(scores)
        return scores[:, None]


@pytest.mark.parametrize(
    ("image_type", "score_type", "offset"),
    [
        (torch.float32, torch.float32, 1000.0),
        (torch.float16, torch.float16, 100.0),
        (torch.float32, torch.bfloat16, 1.0),  # a network that computes in half inside
    ],
)
def test_rise_loses_nothing_of_the_scores_that_it_got(
    image_type: torch.dtype, score_type: torch.dtype, offset: float
) -> None:
    model, images = Probed(offset, score_type), torch.ones(1, 3, 6, 8, dtype=image_type)
    maps = maps_of(model, images, "rise", masks=400, cells=3)
    # The images are 1 everywhere, so that each one seen is its mask; the first is the image itself.
    masks = torch.cat(model.seen[1:])[:, 0].double().numpy()
    scores = torch.cat(model.given[1:]).double().numpy()
    centred = scores - scores.mean()
    expected = (centred[:, None, None] * masks).mean(axis=0) / 0.5
    assert maps.dtype == image_type
    tolerance = 4 * torch.finfo(image_type).eps * np.abs(expected).max()
    np.testing.assert_allclose(maps[0].double().numpy(), expected, rtol=0, atol=tolerance)


def test_all_images_get_the_same_masks_and_another_seed_others() -> None:
    weights, image = torch.randn(3, 6, 8), torch.randn(1, 3, 6, 8)
    first, second = maps_of(Linear(weights), image.repeat(2, 1, 1, 1), "rise", masks=9)
    torch.testing.assert_close(first, second)
    other = maps_of(Linear(weights), image, "rise", masks=9, seed=1)[0]
    assert not torch.allclose(first, other, rtol=1e-2)


def test_masks_that_keep_everything_leave_the_score() -> None:
    model, images = Linear(torch.randn(3, 6, 8), 1.0), torch.randn(2, 3, 6, 8)
    maps = maps_of(model, images, "rise", masks=4, keep=1.0, centred=False)
    torch.testing.assert_close(maps, model(images).detach()[:, :, None].expand(2, 6, 8))
