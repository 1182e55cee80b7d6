"""Gradients averaged over many inputs near the picture, or on the way to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.sections import Count, NotNegative, Seed
from cnnaudit.techniques.gradient import Reduction, input_gradient, over_channels
from cnnaudit.techniques.procedures import by_variant, own_generators, passes_of
from cnnaudit.techniques.registry import Diagnostic, Query, technique
from cnnaudit.types import Needs, PassSpec, Signals

if TYPE_CHECKING:
    from torch import Tensor

_GRADIENT = PassSpec(input_gradient=True)


@technique(
    needs=Needs(queries=True), title="SmoothGrad", citation="Smilkov et al., ICML Workshop 2017"
)
def smooth_grad(
    signals: Signals,
    query: Query,
    *,
    samples: Count = 25,
    sigma: NotNegative = 0.15,
    reduce: Reduction = "max",
    seed: Seed = 0,
) -> Tensor:
    """Return the mean saliency of noisy inputs, (B, H, W), ≥ 0.

    The noise is Gaussian, of standard deviation `sigma` times the range of the image's own values,
    and drawn from the image itself: whatever batch it is in, it gets the same.
    """
    import torch

    images = signals.images
    b, _, h, w = images.shape
    spread = sigma * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))
    generators = own_generators(images, seed)
    total = images.new_zeros(b, h, w)
    for some in passes_of(range(samples), b):
        # One draw a sample, so that what is drawn does not depend on how many go at once.
        noise = [torch.randn(images.shape[1:], generator=g) for _ in some for g in generators]
        noisy = images + by_variant(torch.stack(noise), b).to(images) * spread[:, None, None, None]
        gradient = input_gradient(query(noisy.flatten(0, 1), _GRADIENT), "plain")
        total += by_variant(over_channels(gradient, reduce), b).sum(dim=0)
    return total / samples


@technique(
    needs=Needs(queries=True),
    title="Integrated gradients",
    citation="Sundararajan, Taly, Yan, ICML 2017",
    diagnostics={
        "completeness_error": Diagnostic(
            "completeness error",
            "how far a heatmap's sum is from the change of the score along its path, as a share",
            (0.0, float("inf")),
        )
    },
)
def integrated_gradients(
    signals: Signals, query: Query, *, steps: Count = 32, baseline: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return Σ_c (x_c − x₀) · mean ∂y/∂x_c on the straight path from x₀ to x, (B, H, W), signed.

    x₀ is `baseline` in every channel of the network's input, where 0 is the mean colour. The mean
    is a Gauss–Legendre quadrature of so many steps. With the heatmaps comes their completeness
    error |Σ h − (y(x) − y(x₀))| / |y(x) − y(x₀)|, (B,).
    """
    import torch
    from numpy.polynomial.legendre import leggauss

    images = signals.images
    b = len(images)
    start = torch.full_like(images, baseline)
    nodes, weights = (images.new_tensor(values / 2) for values in leggauss(steps))
    places = nodes + 0.5  # on 0…1
    mean = torch.zeros_like(images)
    for some in passes_of(range(steps), b):
        path = start + places[some, None, None, None, None] * (images - start)
        gradient = input_gradient(query(path.flatten(0, 1), _GRADIENT), "plain")
        mean += torch.einsum("n,nbchw->bchw", weights[some], by_variant(gradient, b))
    heatmaps = ((images - start) * mean).sum(dim=1)
    change = signals.score - query(start, PassSpec()).score
    error = (heatmaps.sum(dim=(1, 2)) - change).abs() / change.abs()
    return heatmaps, {"completeness_error": error}
