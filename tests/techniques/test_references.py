"""Reference heatmaps: they see the input alone, and a random one its own image alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import Signals

REFERENCES = sorted(name for name, found in TECHNIQUES.items() if found.sees_no_network)
B, C, H, W = 4, 3, 12, 17


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(1))


def _maps(name: str, images: torch.Tensor, **parameters: float) -> torch.Tensor:
    return TECHNIQUES[name].compute(
        Signals(images, torch.zeros(len(images)), torch.zeros(len(images), 1)), **parameters
    )


def test_these_are_the_references() -> None:
    assert REFERENCES == ["center_prior", "edges", "random", "smooth_random"]


@pytest.mark.parametrize("name", REFERENCES)
def test_a_batch_gives_the_maps_of_its_images_one_by_one(name: str, images: torch.Tensor) -> None:
    together = _maps(name, images)
    assert together.shape[0] == B
    assert together.ndim == 3
    assert torch.isfinite(together).all()
    assert (together >= 0).all()
    for i in range(B):
        torch.testing.assert_close(_maps(name, images[i : i + 1])[0], together[i])


@pytest.mark.parametrize("name", ["random", "smooth_random"])
def test_random_maps_are_of_their_image_and_seed_and_leave_other_randomness(
    name: str, images: torch.Tensor
) -> None:
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    maps = _maps(name, images)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(maps, _maps(name, images))
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps, _maps(name, images, seed=1))
    assert 0.3 < maps.mean() < 0.7


def test_edges_are_sobels(images: torch.Tensor) -> None:
    for image, found in zip(images, _maps("edges", images), strict=True):
        grey = image.mean(dim=0).numpy()
        x, y = (
            cv2.Sobel(grey, cv2.CV_32F, *d, ksize=3, borderType=cv2.BORDER_REPLICATE)
            for d in ((1, 0), (0, 1))
        )
        np.testing.assert_allclose(found.numpy(), np.hypot(x, y), rtol=1e-4, atol=1e-5)


def test_the_centre_prior_is_highest_in_the_middle_and_even(images: torch.Tensor) -> None:
    prior = _maps("center_prior", images[..., :11, :])[0]
    assert divmod(int(prior.argmax()), W) == (5, 8)
    torch.testing.assert_close(prior, prior.flip(0))
    torch.testing.assert_close(prior, prior.flip(1))
    # At one σ from the centre, a quarter of the side, it has fallen to exp(−½).
    wide = _maps("center_prior", torch.zeros(1, 3, 5, 5), width=0.25)[0]
    assert float(wide[2, 3]) == pytest.approx(float(np.exp(-0.5)))
    assert float(wide[2, 2]) == 1
