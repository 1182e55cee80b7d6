"""Captum's methods by their names; Captum runs its own passes on the network.

One image goes at a time: Captum multiplies each by its own steps, samples or perturbations anyway,
and what it draws, and some of its rules, would depend on what else is in the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cnnaudit.sections import Count, NotNegative, Positive, Seed, check_value, unknown
from cnnaudit.techniques.cam import activations_at
from cnnaudit.techniques.procedures import own_generator
from cnnaudit.techniques.registry import NotApplicable, technique
from cnnaudit.types import AuditError, LayerChoice, Needs, Signals, path_of

if TYPE_CHECKING:
    from torch import Tensor, nn

Reduction = Literal["sum", "abs_sum", "abs_max"]
Arguments = dict[str, Any]

METHODS: Mapping[str, tuple[str, ...]] = {
    "captum": (
        *("Saliency", "InputXGradient", "IntegratedGradients", "DeepLift", "DeepLiftShap"),
        *("GradientShap", "NoiseTunnel", "FeatureAblation", "Occlusion", "ShapleyValueSampling"),
        *("Lime", "KernelShap"),
    ),
    "captum_layer": (
        *("LayerActivation", "LayerGradientXActivation", "LayerGradCam", "LayerConductance"),
        *("InternalInfluence", "LayerIntegratedGradients", "LayerDeepLift", "LayerDeepLiftShap"),
        *("LayerGradientShap", "LayerFeatureAblation"),
    ),
}
_ITS_RULE = "its rule reaches only ReLUs that are modules, and fails where a ReLU's input branches"
_ITS_RULES = "its rules reach only modules, and what is none silently keeps its plain gradient"
_SWAPS = "it swaps values between the images of a batch, and a heatmap is of one image"
# What a name begins with → why it is not offered.
_REFUSED = {
    "GuidedBackprop": f"{_ITS_RULE}; take uses: guided_saliency, which is exact",
    "GuidedGradCam": f"{_ITS_RULE}; take uses: guided_grad_cam, which is exact",
    "Deconvolution": f"{_ITS_RULE}; the exact relative of it is uses: guided_saliency",
    "LRP": _ITS_RULES,
    "LayerLRP": _ITS_RULES,
    "FeaturePermutation": _SWAPS,
    "LayerFeaturePermutation": _SWAPS,
    "ShapleyValues": "its passes are the factorial of the features; take ShapleyValueSampling",
    "LimeBase": "it is made of functions, which a config cannot hold; take Lime",
    "Neuron": "it explains a neuron inside the network, and an audit explains a score",
}


class _Several:
    says = "a list of numbers, at least two"

    def holds(self, value: list[float]) -> bool:
        return len(value) > 1


_SUMS = tuple(f"riemann_{kind}" for kind in ("left", "right", "middle", "trapezoid"))
# The arguments that a config can hold, of whatever method; the others are Captum's own concern
# (show_progress), given by the audit (target) or functions.
_KINDS: Mapping[str, Any] = {
    "abs": bool,
    "attr_dim_summation": bool,
    "attribution_method": Literal["Saliency", "InputXGradient", "IntegratedGradients"],
    "baselines": float,
    "eps": Positive,
    "feature_mask": Count | None,  # see `_cells`
    "internal_batch_size": Count | None,
    "layer_baselines": float,
    "layer_mask": Count | None,
    "method": Literal[("gausslegendre", *_SUMS)],
    "multiply_by_inputs": bool,
    "n_samples": Count,
    "n_steps": Count,
    "nt_samples": Count,
    "nt_samples_batch_size": Count | None,
    "nt_type": Literal["smoothgrad", "smoothgrad_sq", "vargrad"],
    "perturbations_per_eval": Count,
    "relu_attributions": bool,
    "sliding_window_shapes": list[Count],  # of (C, H, W)
    "stdevs": NotNegative,
    "strides": Count | list[Count],
}
_BASELINES = Annotated[list[float], _Several()]  # of methods that draw from a distribution of them
# Left out, each value is a feature of its own, with passes of its own: that has to be said.
_MASKS = ("feature_mask", "layer_mask")
# Share of Σ|attribution| that rounding may put between Σ attribution and the change of the score.
# It is 1e-7 where every operation has its rule, and 4e-4 to 1e-2 where one has none.
_INCOMPLETE = 1e-4


# --- what a config says ---------------------------------------------------------------------------


def _check(uses: str, parameters: Mapping[str, Any], where: str) -> None:
    """Refuse a method that there is not, and arguments that it does not take."""
    method, arguments = parameters["method"], parameters["arguments"] or {}
    _library(where)
    if method not in METHODS[uses]:
        raise AuditError(f"{where}.method: {_not_offered(method, uses)}")
    accepted, inside = _accepted(method, arguments), f"{where}.arguments"
    for name, parameter in accepted.items():
        if name in arguments:
            check_value(arguments[name], _kind(parameter), f"{inside}.{name}")
    for name in arguments:
        if name not in accepted:
            raise AuditError(f"{inside}.{name}: {unknown(name, accepted, 'argument')}")
    for name, parameter in accepted.items():
        if name not in arguments and name in _MASKS:
            raise AuditError(
                f"{inside}.{name} is missing: how many cells across and down are one feature each, "
                "or null: each value is, and costs passes of its own"
            )
        if name not in arguments and parameter.default is Parameter.empty:
            raise AuditError(f"{inside}.{name} is missing")


def _library(where: str) -> Any:
    try:
        return import_module("captum.attr")
    except ImportError as error:
        raise AuditError(
            f"{where}.uses: captum cannot be imported ({error}); "
            "it is an extra: pip install 'cnnaudit[captum]'"
        ) from error


def _not_offered(method: str, uses: str) -> str:
    for other, methods in METHODS.items():
        if method in methods:
            return f"{method!r} belongs to uses: {other}"
    for start, reason in _REFUSED.items():
        if method.startswith(start):
            return f"{method!r} is not offered: {reason}"
    return unknown(method, METHODS[uses], "method")


def _accepted(method: str, arguments: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return what a config may set of a method's constructor and of its `attribute`."""
    kind = getattr(import_module("captum.attr"), method)
    found = {**signature(kind).parameters, **signature(kind.attribute).parameters}
    accepted = {name: parameter for name, parameter in found.items() if name in _KINDS}
    if "DeepLift" in method:
        accepted.pop("multiply_by_inputs", None)  # without it nothing adds up to be verified
    inner = arguments.get("attribution_method")
    if "attribution_method" in accepted and inner in METHODS["captum"]:
        accepted = {**_accepted(inner, {}), **accepted}
    return accepted


def _kind(parameter: Parameter) -> Any:
    if parameter.name == "baselines" and parameter.default is Parameter.empty:
        return _BASELINES
    return _KINDS[parameter.name]


# --- techniques -----------------------------------------------------------------------------------


@technique(
    needs=Needs(network=True),
    title="Captum",
    citation="Kokhlikyan et al., arXiv 2020",
    library="captum",
    check=partial(_check, "captum"),
)
def captum(
    signals: Signals,
    network: nn.Module,
    *,
    method: str,
    arguments: Arguments | None = None,
    reduce: Reduction = "sum",
    seed: Seed = 0,
) -> Tensor:
    """Return the attributions of one of Captum's methods, over the input's channels, (B, H, W).

    Raises NotApplicable where DeepLift has no rule for an operation of the network.
    """
    import torch

    found = _attributions(signals, network, (), signals.images, method, arguments, seed)
    return torch.cat([_over_channels(attribution, reduce) for attribution in found])


@technique(
    needs=Needs(layer=True, network=True),
    title="Captum, of a layer",
    citation="Kokhlikyan et al., arXiv 2020",
    library="captum",
    check=partial(_check, "captum_layer"),
)
def captum_layer(
    signals: Signals,
    network: nn.Module,
    *,
    method: str,
    layer: LayerChoice = "last_features",
    arguments: Arguments | None = None,
    seed: Seed = 0,
) -> Tensor:
    """Return the attributions of one of Captum's layer methods, summed over channels, (B, h, w).

    Raises NotApplicable for a layer that is called several times, and as `captum` does.
    """
    import torch

    from cnnaudit import hooks

    activations, path = activations_at(signals, str(layer)), path_of(str(layer))
    if sum(called == path for called, _ in signals.activations) > 1:
        raise NotApplicable(f"{path} is called several times, which Captum cannot tell apart")
    with hooks.shielded(network, f"model.{path}") as module:
        found = _attributions(signals, network, (module,), activations, method, arguments, seed)
        return torch.cat([_over_channels(attribution, "sum") for attribution in found])


def _attributions(
    signals: Signals,
    network: nn.Module,
    layer: tuple[nn.Module, ...],
    explained: Tensor,
    method: str,
    arguments: Arguments | None,
    seed: int,
) -> Iterator[Tensor]:
    """Yield the attributions (1, K, h, w) of each image by what is explained, (B, K, h, w)."""
    import torch

    each = (torch.split(tensor, 1) for tensor in (signals.images, explained, signals.weights))
    for image, values, weights in zip(*each, strict=True):
        if not image.isfinite().all():
            yield values * float("nan")  # what Captum fits to it would raise an error for the batch
            continue
        given = {
            name: _converted(name, value, image, values)
            for name, value in (arguments or {}).items()
        }
        with _drawn_from(image[0], seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="captum")  # that it sets hooks, and the like
            run = partial(_run, network=network, image=image, weights=weights, arguments=given)
            if "DeepLift" in method:
                found: Tensor = _deep_lifted(method, layer, run)
            else:
                found = run(method, layer)
        yield found.detach()


def _run(
    method: str,
    layer: tuple[nn.Module, ...],
    *,
    network: nn.Module,
    image: Tensor,
    weights: Tensor,
    arguments: Arguments,
    **more: Any,
) -> Any:
    left = dict(arguments)
    explainer = _explainer(method, network, layer, left)
    return explainer.attribute(
        image.clone().requires_grad_(),
        additional_forward_args=(weights,),  # a lone tensor is taken apart by some methods
        **left,
        **more,
    )


def _explainer(
    method: str, network: nn.Module, layer: tuple[nn.Module, ...], arguments: Arguments
) -> Any:
    """Return Captum's object, and take what it is made with out of the arguments."""
    kind = getattr(import_module("captum.attr"), method)
    own = {name: arguments.pop(name) for name in signature(kind).parameters if name in arguments}
    if "attribution_method" in own:
        return kind(_explainer(own["attribution_method"], network, layer, arguments))
    return kind(network, *layer, **own)


def _deep_lifted(method: str, layer: tuple[nn.Module, ...], run: partial[Any]) -> Tensor:
    """Return what DeepLift attributes; NotApplicable unless it adds up to the score's change.

    By the input it must, whatever the layer: what goes around a layer is not in the layer's sum.
    """
    from cnnaudit import hooks

    # Otherwise Captum overlooks its rule for a pool after a ReLU, and what branches off before one.
    with hooks.apart(run.keywords["network"]):
        try:
            by_input, missing = run(method.removeprefix("Layer"), (), return_convergence_delta=True)
            _check_complete(by_input, missing)
            found: Tensor = run(method, layer) if layer else by_input
        except RuntimeError as error:
            if "more than once" not in str(error):
                raise
            raise NotApplicable(
                "DeepLift needs a module of its own for each activation, and one is used "
                "more than once"
            ) from error
    return found


def _check_complete(attributions: Tensor, missing: Tensor) -> None:
    share = float((missing.abs().max() / attributions.abs().sum()).detach())
    if share > _INCOMPLETE:
        raise NotApplicable(
            "DeepLift's attributions do not add up to the change of the score "
            f"({share:.1e} of their sum is missing): "
            "Captum has no right rule for an operation of the network"
        )


def _converted(name: str, value: Any, image: Tensor, explained: Tensor) -> Any:
    """Return an argument as Captum wants it."""
    import torch

    if name in _MASKS and value is not None:
        return _cells(value, image if name == "feature_mask" else explained)
    if name == "baselines" and isinstance(value, list):
        return torch.cat([torch.full_like(image, each) for each in value])
    if name == "stdevs":
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _cells(number: int, explained: Tensor) -> Tensor:
    """Return the index of the cell that each place is in, (1, 1, h, w), so many across and down."""
    import torch

    h, w = explained.shape[-2:]
    down, across = min(number, h), min(number, w)
    rows, columns = torch.arange(h) * down // h, torch.arange(w) * across // w
    return (rows[:, None] * across + columns)[None, None].to(explained.device)


def _over_channels(attribution: Tensor, reduce: Reduction) -> Tensor:
    if reduce == "sum":
        return attribution.sum(dim=1)
    magnitude = attribution.abs()
    return magnitude.sum(dim=1) if reduce == "abs_sum" else magnitude.amax(dim=1)


@contextmanager
def _drawn_from(image: Tensor, seed: int) -> Iterator[None]:
    """Let the global generators, which Captum draws from, follow from an image (C, H, W) alone."""
    import numpy as np
    import torch

    start = own_generator(image, seed).initial_seed()
    devices = [image.device] if image.is_cuda else []
    before = np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            torch.default_generator.manual_seed(start)
            for device in devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(start)
            np.random.seed(start % 2**32)
            yield
        finally:
            np.random.set_state(before)
