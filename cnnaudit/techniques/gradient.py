"""Techniques on the gradient of the score y with respect to the input x."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cnnaudit.techniques.registry import NotApplicable, technique
from cnnaudit.types import Needs, Signals

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["max", "sum"]


@technique(
    needs=Needs(input_gradient=True),
    title="Saliency",
    citation="Simonyan, Vedaldi, Zisserman, ICLR Workshop 2014",
)
def saliency(signals: Signals, *, reduce: Reduction = "max") -> Tensor:
    """Return max_c |∂y/∂x_c| (or the sum over channels), (B, H, W), ≥ 0."""
    return over_channels(input_gradient(signals, "plain"), reduce)


@technique(
    needs=Needs(guided_input_gradient=True),
    title="Guided saliency",
    citation="Springenberg et al., ICLR Workshop 2015",
    version=2,
)
def guided_saliency(signals: Signals, *, reduce: Reduction = "max") -> Tensor:
    """Return the saliency of the guided gradient, (B, H, W), ≥ 0.

    Raises NotApplicable for a network without a ReLU, or with other gates as well.
    """
    return over_channels(input_gradient(signals, "guided"), reduce)


@technique(
    needs=Needs(input_gradient=True),
    title="Input × gradient",
    citation="Shrikumar et al., arXiv 2016",
)
def input_x_gradient(signals: Signals) -> Tensor:
    """Return Σ_c x_c · ∂y/∂x_c, (B, H, W), signed; x as the network receives it."""
    return (signals.images * input_gradient(signals, "plain")).sum(dim=1)


def input_gradient(signals: Signals, kind: str) -> Tensor:
    """Return the "plain" or "guided" gradient (B, C, H, W); NotApplicable where there is none."""
    if kind in signals.inapplicable:
        raise NotApplicable(signals.inapplicable[kind])
    return signals.input_gradients[kind]


def over_channels(gradient: Tensor, reduce: Reduction) -> Tensor:
    """Return the magnitude of a gradient (B, C, H, W) over its channels, (B, H, W)."""
    magnitude = gradient.abs()
    return magnitude.amax(dim=1) if reduce == "max" else magnitude.sum(dim=1)
