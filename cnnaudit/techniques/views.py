"""Views of a layer: not where a score comes from, but what the layer holds. Grids, not heatmaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.techniques.cam import activations_at
from cnnaudit.techniques.registry import NotApplicable, technique
from cnnaudit.types import LayerChoice, Needs, Signals

if TYPE_CHECKING:
    from torch import Tensor, nn


@technique(
    needs=Needs(layer=True),
    title="Activations",
    citation="a layer's channel images",
    gives="channels",
)
def activations(signals: Signals, *, layer: LayerChoice = "first_conv") -> Tensor:
    """Return a layer's channel images, (B, K, h, w)."""
    return activations_at(signals, str(layer))


@technique(needs=Needs(layer=True), title="Kernels", citation="a layer's filters", gives="kernels")
def kernels(module: nn.Module, *, layer: LayerChoice = "first_conv") -> Tensor:
    """Return a convolution's filters, (K, C, kh, kw); NotApplicable for another kind of layer."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim != 4:
        raise NotApplicable(f"{layer} is a {type(module).__name__}, it has no filters")
    filters: Tensor = weight.detach()
    return filters
