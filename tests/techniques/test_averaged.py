"""SmoothGrad and integrated gradients: by hand, on models whose answer is known, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor, nn

from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.specs import TargetSpec, TechniqueSpec
from cnnaudit.types import HeatmapRequest, Heatmaps

TARGET = TargetSpec("all", "all_outputs", {})


def result_of(model: nn.Module, images: Tensor, name: str, **parameters: float) -> Heatmaps:
    request = HeatmapRequest(TechniqueSpec(name, name, parameters), TARGET, "")
    _, (result,) = compute_heatmaps(model, None, images, [request])
    assert isinstance(result, Heatmaps)
    return result


class HalfSquare(nn.Module):
    """y = Σ x²/2, whose gradient is x."""

    def forward(self, x: Tensor) -> Tensor:
        return (x**2 / 2).flatten(1).sum(dim=1, keepdim=True)


def linear(bias: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 6, 2)).double()
    model[1].bias.data[:] = bias
    return model


def curved(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), activation, nn.Conv2d(6, 4, 3), activation),
        *(nn.Flatten(), nn.Linear(4 * 4 * 5, 3)),
    ).double()


# --- SmoothGrad -----------------------------------------------------------------------------------


def test_noise_has_the_stated_spread_around_the_image() -> None:
    """Of y = Σ x²/2 it is the mean of |x + noise|, a folded normal distribution's."""
    image = torch.linspace(-1, 3, 30).reshape(1, 1, 5, 6)
    samples, spread = 2000, 0.2 * 4
    found = result_of(HalfSquare(), image, "smooth_grad", samples=samples, sigma=0.2)
    x = image.numpy().ravel() / spread
    mean = spread * (2 * norm.pdf(x) + x * (1 - 2 * norm.cdf(-x)))
    error = np.sqrt((spread**2 * (1 + x**2) - mean**2) / samples)
    z = (found.maps.numpy().ravel() - mean) / error
    assert np.abs(z).max() < 4
    assert 0.5 < np.sqrt((z**2).mean()) < 1.5


def test_noise_is_of_the_image_and_the_seed_and_leaves_other_randomness() -> None:
    images = torch.randn(2, 3, 5, 6)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    maps = result_of(HalfSquare(), images, "smooth_grad", samples=2).maps
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(maps, result_of(HalfSquare(), images, "smooth_grad", samples=2).maps)
    other = result_of(HalfSquare(), images, "smooth_grad", samples=2, seed=1).maps
    assert not torch.allclose(maps, other, rtol=1e-2)


def test_a_flat_image_has_no_range_and_gets_no_noise() -> None:
    images = torch.full((1, 3, 5, 6), 0.7)
    maps = result_of(HalfSquare(), images, "smooth_grad", samples=3).maps
    torch.testing.assert_close(maps, images[:, 0])


# --- integrated gradients -------------------------------------------------------------------------


def test_by_hand() -> None:
    # Of y = Σ x²/2 from x₀: (x − x₀) · (x + x₀)/2 in each channel; one step of the rule is exact.
    images = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]])
    from_zero = result_of(HalfSquare(), images, "integrated_gradients", steps=1)
    assert from_zero.maps.tolist() == [[[0.5 + 4.5, 2]]]
    from_two = result_of(HalfSquare(), images, "integrated_gradients", steps=1, baseline=2.0)
    assert from_two.maps.tolist() == [[[-1.5 + 2.5, 0 - 2]]]
    assert from_two.diagnostics["completeness_error"].tolist() == [0]


def test_of_a_linear_model_it_is_input_times_gradient_and_both_add_up_to_the_score() -> None:
    model, images = linear(bias=5.0), torch.randn(2, 3, 5, 6).double()
    integrated = result_of(model, images, "integrated_gradients", steps=3).maps
    product = result_of(model, images, "input_x_gradient").maps
    torch.testing.assert_close(integrated, product)
    without_bias = model(images).sum(dim=1) - 2 * 5
    torch.testing.assert_close(product.sum(dim=(1, 2)), without_bias.detach())


@given(seed=st.integers(0, 99), baseline=st.floats(-2, 2))
@settings(max_examples=8, deadline=None)
def test_completeness_on_a_smooth_network(seed: int, baseline: float) -> None:
    model = curved(nn.Tanh())
    torch.manual_seed(seed)
    images = torch.randn(2, 3, 8, 9).double()
    found = result_of(model, images, "integrated_gradients", baseline=baseline)
    change = (model(images) - model(torch.full_like(images, baseline))).sum(dim=1).detach()
    torch.testing.assert_close(found.maps.sum(dim=(1, 2)), change, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_completeness_error_is_the_measured_one(steps: int) -> None:
    model, images = curved(nn.ReLU()), torch.randn(3, 3, 8, 9).double()
    found = result_of(model, images, "integrated_gradients", steps=steps, baseline=0.5)
    change = (model(images) - model(torch.full_like(images, 0.5))).sum(dim=1).detach()
    expected = (found.maps.sum(dim=(1, 2)) / change - 1).abs()
    torch.testing.assert_close(found.diagnostics["completeness_error"], expected)
    assert (expected > 1e-6).all()  # a path of a network of ReLUs has corners


def test_more_steps_come_nearer_to_completeness() -> None:
    model, images = curved(nn.ReLU()), torch.randn(3, 3, 8, 9).double()
    errors = [
        result_of(model, images, "integrated_gradients", steps=steps).diagnostics
        for steps in (2, 200)
    ]
    few, many = (one["completeness_error"] for one in errors)
    assert (many < few).all()
    assert (many < 1e-2).all()


def test_an_image_that_is_the_baseline_has_no_path_and_no_error() -> None:
    images = torch.stack([torch.zeros(3, 8, 9), torch.randn(3, 8, 9)]).double()
    found = result_of(curved(nn.Tanh()), images, "integrated_gradients")
    assert (found.maps[0] == 0).all()
    nothing, something = found.diagnostics["completeness_error"].tolist()
    assert math.isnan(nothing)
    assert something < 1e-3
