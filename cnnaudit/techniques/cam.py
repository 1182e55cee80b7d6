"""The CAM family: a layer's activations A (B, K, h, w), weighted by what the score y owes them.

g = ∂y/∂A throughout; but for CAM and Eigen-CAM every map is ReLU(Σ_k weight_k ⊙ A_k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnaudit.techniques.gradient import input_gradient, over_channels
from cnnaudit.techniques.procedures import by_variant, passes_of, upsampled
from cnnaudit.techniques.registry import NotApplicable, Query, technique
from cnnaudit.types import LayerChoice, Needs, PassSpec, Signals

if TYPE_CHECKING:
    from torch import Tensor

_PAIRWISE = 16  # errors that add up in a mean over all places: torch adds halves to halves
_LAYER_AND_GRADIENTS = Needs(layer=True, gradients=True)


@technique(needs=_LAYER_AND_GRADIENTS, title="Grad-CAM", citation="Selvaraju et al., ICCV 2017")
def grad_cam(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return ReLU(Σ_k mean_hw(g_k) · A_k), (B, h, w), ≥ 0."""
    activations, gradients = _at(signals, str(layer))
    return _combine(gradients.mean(dim=(2, 3), keepdim=True), activations)


@technique(needs=_LAYER_AND_GRADIENTS, title="HiResCAM", citation="Draelos, Carin, arXiv 2020")
def hires_cam(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return ReLU(Σ_k g_k ⊙ A_k), (B, h, w), ≥ 0."""
    activations, gradients = _at(signals, str(layer))
    return _combine(gradients, activations)


@technique(needs=_LAYER_AND_GRADIENTS, title="LayerCAM", citation="Jiang et al., TIP 2021")
def layer_cam(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return ReLU(Σ_k ReLU(g_k) ⊙ A_k), (B, h, w), ≥ 0."""
    activations, gradients = _at(signals, str(layer))
    return _combine(gradients.relu(), activations)


@technique(
    needs=_LAYER_AND_GRADIENTS, title="Grad-CAM++", citation="Chattopadhay et al., WACV 2018"
)
def grad_cam_plus_plus(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return ReLU(Σ_k w_k · A_k) with w_k = Σ_hw α · ReLU(g), (B, h, w), ≥ 0.

    α = 1 / (2 + g · ΣA) where g > 0 and the denominator is not 0, else 0: the paper's
    g² / (2 g² + g³ · ΣA) without the small number that is often added to its denominator, which
    swamps small gradients.
    """
    activations, gradients = _at(signals, str(layer))
    denominator = 2 + gradients * activations.sum(dim=(2, 3), keepdim=True)
    known = (gradients > 0) & (denominator != 0)
    alpha = known / denominator.where(known, 1)
    weights = (alpha * gradients.relu()).sum(dim=(2, 3), keepdim=True)
    return _combine(weights, activations)


@technique(
    needs=_LAYER_AND_GRADIENTS, title="XGrad-CAM", citation="Fu et al., BMVC 2020", version=2
)
def xgrad_cam(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return ReLU(Σ_k w_k · A_k) with w_k = Σ(g ⊙ A) / ΣA, 0 where ΣA = 0, (B, h, w), ≥ 0.

    ΣA is 0 where it is no more than rounding, as behind a normalisation of each channel.
    """
    activations, gradients = _at(signals, str(layer))
    total = activations.sum(dim=(2, 3), keepdim=True)
    size = activations.abs().sum(dim=(2, 3), keepdim=True)
    known = total.abs() > size * _rounding(activations, activations.shape[2:].numel())
    weighted = (gradients * activations).sum(dim=(2, 3), keepdim=True)
    return _combine((weighted / total).where(known, 0), activations)


@technique(
    needs=Needs(layer=True, gradients=True, guided_input_gradient=True),
    title="Guided Grad-CAM",
    citation="Selvaraju et al., ICCV 2017",
    version=2,
)
def guided_grad_cam(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return max_c |guided gradient| × the upsampled Grad-CAM, (B, H, W), ≥ 0."""
    guided = over_channels(input_gradient(signals, "guided"), "max")
    return guided * upsampled(grad_cam(signals, layer=layer), guided.shape[-2:])


@technique(needs=Needs(head=True), title="CAM", citation="Zhou et al., CVPR 2016", version=2)
def cam(signals: Signals) -> Tensor:
    """Return Σ_k W_k · A_k, (B, h, w), signed; A goes into the global average pool, W comes after.

    Raises NotApplicable unless the scores are W · GAP(A) + b.
    """
    if signals.head is None:
        raise NotApplicable(signals.inapplicable["head"])
    weights = signals.head.weights[:, :, None, None]
    heatmaps: Tensor = (weights * signals.head.features).sum(dim=1)
    return heatmaps


@technique(
    needs=Needs(layer=True), title="Eigen-CAM", citation="Muhammad, Yeasin, IJCNN 2020", version=2
)
def eigen_cam(signals: Signals, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return the first principal component of A over its positions, (B, h, w), signed.

    Positions are the samples, centred; the sign is that of its correlation with Σ_k A_k. A layer
    that is the same everywhere, but for rounding, has the component 0.
    """
    import torch

    activations = activations_at(signals, str(layer))
    _, _, h, w = activations.shape
    wide = torch.promote_types(activations.dtype, torch.float32)  # no decomposition in half
    samples = activations.to(wide).flatten(2).mT  # (B, h·w, K)
    finite = samples.isfinite().all(dim=2).all(dim=1)
    # The decomposition refuses a batch with a NaN in any image, and only that one must fail.
    centred = (samples - samples.mean(dim=1, keepdim=True)).where(finite[:, None, None], 0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    size = torch.linalg.vector_norm(samples, dim=(1, 2))[:, None]
    strength = values[:, :1]
    strength = strength.where(strength > size * _rounding(activations, _PAIRWISE), 0)
    component = left[:, :, 0] * strength  # (B, h·w)
    agrees = (component * centred.sum(dim=2)).sum(dim=1, keepdim=True) >= 0
    signed: Tensor = component.where(agrees, -component)
    return signed.where(finite[:, None], torch.nan).reshape(-1, h, w).to(activations)


@technique(
    needs=Needs(layer=True, queries=True),
    title="Score-CAM",
    citation="Wang et al., CVPRW 2020",
    version=2,
)
def score_cam(signals: Signals, query: Query, *, layer: LayerChoice = "last_features") -> Tensor:
    """Return ReLU(Σ_k α_k · A_k), (B, h, w), ≥ 0.

    α is the softmax over the channels of the scores of x ⊙ M_k, where the mask M_k is A_k upsampled
    and scaled to 0–1 (0 where A_k is the same everywhere).
    """
    import torch

    activations, images = activations_at(signals, str(layer)), signals.images
    b, k, _, _ = activations.shape
    scores = []
    for some in passes_of(range(k), b):
        channels = activations[:, some].transpose(0, 1).flatten(0, 1)  # variant by variant
        # From 0 on, so that a channel that is the same everywhere is so when it is enlarged, too.
        channels = channels - channels.amin(dim=(1, 2), keepdim=True)
        masks = by_variant(_unit_scaled(upsampled(channels, images.shape[-2:])), b)
        masked = images * masks[:, :, None]
        scores.append(by_variant(query(masked.flatten(0, 1), PassSpec()).score, b))
    alpha = torch.cat(scores).softmax(dim=0).T  # (B, K)
    return _combine(alpha[:, :, None, None], activations)


def activations_at(signals: Signals, layer: str) -> Tensor:
    """Return a resolved layer's activations (B, K, h, w); NotApplicable where there are none."""
    call = signals.call_of(layer)
    if call is None:
        raise NotApplicable(f"{layer} takes no part in the forward pass")
    activations = signals.activations[call]
    if activations.ndim != 4:
        shape = tuple(activations.shape[1:])
        raise NotApplicable(f"the output of {layer} is not spatial, its shape is {shape}")
    if len(activations) != len(signals.images):
        raise NotApplicable(
            f"{layer} gives {len(activations)} outputs for {len(signals.images)} images, as where "
            "a network sees each several times, so that no image has one of its own"
        )
    return activations


def _at(signals: Signals, layer: str) -> tuple[Tensor, Tensor]:
    if layer in signals.inapplicable:
        raise NotApplicable(signals.inapplicable[layer])
    activations = activations_at(signals, layer)
    call = signals.call_of(layer)
    assert call is not None
    return activations, signals.gradients[call]


def _combine(weights: Tensor, activations: Tensor) -> Tensor:
    return (weights * activations).sum(dim=1).relu()


def _rounding(values: Tensor, summed: int) -> float:
    """Return what rounding may come to in a sum of so many values, relative to their size.

    Each has its own error; sums of half precision are taken in single.
    """
    import torch

    wide = torch.promote_types(values.dtype, torch.float32)
    return torch.finfo(values.dtype).eps + summed * torch.finfo(wide).eps


def _unit_scaled(maps: Tensor) -> Tensor:
    """Return maps (B, H, W) scaled to 0–1 each, 0 where one is the same everywhere."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    spread = maps.amax(dim=(1, 2), keepdim=True) - low
    return (maps - low) / spread.where(spread > 0, 1)
