"""The CAM family: a layer's activations A (B, K, h, w), weighted by what the score y owes them.

g = ∂y/∂A throughout; every map is ReLU(Σ_k weight_k ⊙ A_k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.techniques.registry import NotApplicable, technique
from cnnaudit.types import Needs, Signals

if TYPE_CHECKING:
    from torch import Tensor

_LAYER_AND_GRADIENTS = Needs(layer=True, gradients=True)


@technique(needs=_LAYER_AND_GRADIENTS, title="Grad-CAM", citation="Selvaraju et al., ICCV 2017")
def grad_cam(signals: Signals, *, layer: str = "last_features") -> Tensor:
    """Return ReLU(Σ_k mean_hw(g_k) · A_k), (B, h, w), ≥ 0."""
    activations, gradients = _at(signals, layer)
    return _combine(gradients.mean(dim=(2, 3), keepdim=True), activations)


@technique(needs=_LAYER_AND_GRADIENTS, title="HiResCAM", citation="Draelos, Carin, arXiv 2020")
def hires_cam(signals: Signals, *, layer: str = "last_features") -> Tensor:
    """Return ReLU(Σ_k g_k ⊙ A_k), (B, h, w), ≥ 0."""
    activations, gradients = _at(signals, layer)
    return _combine(gradients, activations)


@technique(needs=_LAYER_AND_GRADIENTS, title="LayerCAM", citation="Jiang et al., TIP 2021")
def layer_cam(signals: Signals, *, layer: str = "last_features") -> Tensor:
    """Return ReLU(Σ_k ReLU(g_k) ⊙ A_k), (B, h, w), ≥ 0."""
    activations, gradients = _at(signals, layer)
    return _combine(gradients.relu(), activations)


def _at(signals: Signals, layer: str) -> tuple[Tensor, Tensor]:
    if layer in signals.inapplicable:
        raise NotApplicable(signals.inapplicable[layer])
    call = signals.last_call(layer)
    if call is None:
        raise NotApplicable(f"{layer} takes no part in the forward pass")
    activations = signals.activations[call]
    if activations.ndim != 4:
        shape = tuple(activations.shape[1:])
        raise NotApplicable(f"the output of {layer} is not spatial, its shape is {shape}")
    return activations, signals.gradients[call]


def _combine(weights: Tensor, activations: Tensor) -> Tensor:
    return (weights * activations).sum(dim=1).relu()
