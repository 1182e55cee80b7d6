"""What channels and filters say of themselves: by hand, and against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cnnaudit.metrics import CHANNELS
from cnnaudit.metrics.channels import input_similarity, smoothness
from tests.metrics.at_once import measure_channels

B, C, K, H, W = 3, 2, 5, 8, 12


@pytest.fixture
def images() -> Tensor:
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1))


# --- similarity to the input ----------------------------------------------------------------------


def test_similarity_by_hand() -> None:
    # Grey (1, 3; 5, 7) of two colours; the same, its negative, one of no correlation, a constant.
    images = torch.tensor([[[[0.0, 2], [4, 6]], [[2, 4], [6, 8]]]])
    channels = torch.tensor(
        [[[[2.0, 6], [10, 14]], [[0, -2], [-4, -6]], [[1, -1], [-1, 1]], [[9, 9], [9, 9]]]]
    )
    assert input_similarity(channels, images).tolist() == pytest.approx([(1 + 1 + 0) / 3])


def test_similarity_against_numpy(images: Tensor) -> None:
    channels = torch.randn(B, K, H // 2, W // 3) + torch.randn(B, 1, H // 2, W // 3)
    expected = []
    for image, maps in zip(images.double().numpy(), channels.double().numpy(), strict=True):
        grey = image.mean(axis=0).reshape(H // 2, 2, W // 3, 3).mean(axis=(1, 3)).ravel()
        expected.append(np.mean([abs(np.corrcoef(grey, one.ravel())[0, 1]) for one in maps]))
    assert input_similarity(channels, images).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(H, W), (3, 5), (1, 2), (2 * H, 2 * W)])
def test_similarity_is_a_share_at_any_size(images: Tensor, size: tuple[int, int]) -> None:
    found = input_similarity(torch.randn(B, K, *size), images)
    assert found.shape == (B,)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_similarity_is_that_of_the_image_alone(images: Tensor) -> None:
    channels = torch.randn(B, K, 4, 4)
    together = input_similarity(channels, images)
    channels[1] = torch.nan
    after = input_similarity(channels, images)
    assert torch.equal(after[[0, 2]], together[[0, 2]])
    assert math.isnan(after[1])
    alone = input_similarity(channels[2:], images[2:])
    torch.testing.assert_close(alone, together[2:])


def test_what_is_constant_has_no_similarity(images: Tensor) -> None:
    channels = torch.randn(B, K, H, W)
    channels[0] = 3.3  # whose mean is not exactly that
    images[1] = 0.1
    found = input_similarity(channels, images)
    assert found.isnan().tolist() == [True, True, False]
    scores = measure_channels(channels, images)
    assert list(scores) == list(CHANNELS)
    assert [score.status for score in scores["input_similarity"]] == ["undefined"] * 2 + ["ok"]


# --- smoothness of filters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([[2, 2], [2, 2]], 1),
        ([[1, -1], [-1, 1]], -1),
        # Down 1·0 + 2·3, across 1·2 + 0·3; halves of the squares: 1 + 0, 4 + 9 and 1 + 4, 0 + 9.
        ([[1, 2], [0, 3]], 8 / ((1 + 13 + 5 + 9) / 2)),
        ([[1, 2, 3]], (2 + 6) / ((5 + 13) / 2)),
    ],
)
def test_smoothness_by_hand(filters: list[list[float]], expected: float) -> None:
    assert smoothness(torch.tensor(filters)[None, None].float()) == pytest.approx(expected)


def test_smoothness_against_numpy() -> None:
    filters = np.random.default_rng(0).normal(size=(4, 3, 5, 7)) + 0.5
    products = squares = 0.0
    for k, c, i, j in np.ndindex(filters.shape):
        for other in ((k, c, i + 1, j), (k, c, i, j + 1)):
            if other[2] < 5 and other[3] < 7:
                products += filters[k, c, i, j] * filters[other]
                squares += (filters[k, c, i, j] ** 2 + filters[other] ** 2) / 2
    assert smoothness(torch.from_numpy(filters)) == pytest.approx(products / squares)


def test_noise_is_not_smooth_and_a_slow_wave_is() -> None:
    noise = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    assert abs(smoothness(noise)) < 0.03
    wave = torch.linspace(0, 1.5, 7).sin().expand(2, 3, 7, 7)
    assert smoothness(wave) > 0.95
    assert smoothness(5 * noise) == pytest.approx(smoothness(noise))


@pytest.mark.parametrize("filters", [torch.randn(8, 4, 1, 1), torch.zeros(2, 3, 3, 3)])
def test_what_has_no_neighbours_or_no_weight_has_no_smoothness(filters: Tensor) -> None:
    assert math.isnan(smoothness(filters))
