"""One batch under every request: shared passes first, then each technique on their signals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnaudit.metrics import NO_TRUTH
from cnnaudit.numerics import is_out_of_memory
from cnnaudit.passes import forward, run_passes
from cnnaudit.queries import make_query, scored_network
from cnnaudit.specs import TargetSpec
from cnnaudit.targets import TARGETS, weigh
from cnnaudit.techniques import TECHNIQUES, NotApplicable, Technique
from cnnaudit.techniques.procedures import upsampled
from cnnaudit.types import (
    ANY_ERROR,
    AuditError,
    Channels,
    HeatmapRequest,
    Heatmaps,
    NoHeatmaps,
    PassSpec,
    Scorer,
    Signals,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Truths = Callable[[int], "Sequence[NDArray[np.float64] | None]"]  # N → of each image, (N,)
Result = Heatmaps | Channels | NoHeatmaps

log = logging.getLogger(__name__)


def compute_heatmaps(
    model: nn.Module,
    score_from: str | None,
    images: Tensor,
    requests: Iterable[HeatmapRequest],
    truths: Truths | None = None,
    *,
    upsample: bool = True,
) -> tuple[Tensor, list[Result]]:
    """Return the outputs (B, N) and each request's heatmaps in input coordinates, in their order.

    One forward pass serves all requests, and one or two backward passes all of one target.
    `truths` is asked for the images' truths by targets that need them. Without `upsample` heatmaps
    stay as coarse as their layer.
    """
    requests = list(requests)
    if not requests:
        return forward(model, images, score_from)[0], []
    targets = {request.target.name: request.target for request in requests}
    outputs, signals = run_passes(
        model,
        images,
        score_from,
        {name: partial(weights_of, target, truths) for name, target in targets.items()},
        {name: _pass_spec(r for r in requests if r.target.name == name) for name in targets},
    )
    scorers = {name: _scorer(own, model, score_from) for name, own in signals.items()}
    results: list[Result] = []
    for place, request in enumerate(requests):
        name = request.target.name
        shared, network = _tensors(signals[name]), _network_of(request, model)
        before, weights = _versions(shared), _versions(network)
        result = _compute(request, signals[name], model, score_from, scorers[name])
        if _versions(network) != weights:
            raise AuditError(
                f"technique.{request.technique.name}: it wrote into the network's weights, and "
                "every number after it would be another network's; it must work on a copy"
            )
        if _versions(shared) != before:
            # What the other techniques were given, or have returned, is no longer what it was.
            others = [*requests[:place], *requests[place + 1 :]]
            again = partial(compute_heatmaps, model, score_from, images, others, truths)
            outputs, results = again(upsample=upsample)
            refused = NoHeatmaps("failed", "it wrote into its signals; it must work on a clone")
            return outputs, [*results[:place], refused, *results[place:]]
        results.append(result)
    if upsample:
        results = _upsampled(results, tuple(images.shape[-2:]))
    for place, request in enumerate(requests):
        result = results[place]
        if isinstance(result, Heatmaps) and TARGETS[request.target.uses].needs_truth:
            found = enumerate(_truths(truths, outputs))
            without = {index: NO_TRUTH for index, truth in found if truth is None}
            results[place] = replace(result, ineligible=without)
    return outputs, results


def weights_of(target: TargetSpec, truths: Truths | None, scores: Tensor) -> Tensor:
    """Return the weights (B, N) that a resolved target gives scores (B, N)."""
    if not TARGETS[target.uses].needs_truth:
        return weigh(target, scores, None)
    matrix = torch.zeros_like(scores)
    for index, truth in enumerate(_truths(truths, scores)):
        if truth is not None:
            matrix[index] = torch.as_tensor(truth)
    return weigh(target, scores, matrix)


def _truths(truths: Truths | None, outputs: Tensor) -> Sequence[NDArray[np.float64] | None]:
    b, n = outputs.shape
    return truths(n) if truths else [None] * b


def _pass_spec(requests: Iterable[HeatmapRequest]) -> PassSpec:
    """Return the union of what requests on one target need."""
    requests = list(requests)
    needs = [TECHNIQUES[request.technique.uses].needs for request in requests]
    return PassSpec(
        layers=frozenset(request.layer for request in requests if request.layer),
        gradients=any(need.gradients for need in needs),
        input_gradient=any(need.input_gradient for need in needs),
        guided_input_gradient=any(need.guided_input_gradient for need in needs),
        head=any(need.head for need in needs),
    )


def _compute(
    request: HeatmapRequest,
    signals: Signals,
    model: nn.Module,
    score_from: str | None,
    scorer: Scorer,
) -> Result:
    technique = TECHNIQUES[request.technique.uses]
    parameters: dict[str, Any] = dict(request.technique.parameters)
    if request.layer:
        parameters["layer"] = request.layer
    more: list[Any] = []
    try:
        with ExitStack() as stack:
            if technique.needs.queries:
                more.append(make_query(model, score_from, signals.weights))
            if technique.needs.network:
                more.append(stack.enter_context(scored_network(model, score_from, signals.weights)))
            computed = technique.compute(signals, *more, **parameters)
        found = _as_declared(technique, computed, len(signals.images))
    except NotApplicable as reason:
        return NoHeatmaps("not_applicable", str(reason))
    except ANY_ERROR as error:  # whatever a technique raises concerns its own cell only
        if is_out_of_memory(error):
            raise  # with a smaller batch it may do
        log.exception("%s failed", request.technique.name)
        return NoHeatmaps("failed", f"{type(error).__name__}: {error}")
    if isinstance(found, Channels) or technique.sees_no_network:
        return found
    # A ReLU's gradient is 0 where it met a NaN: without a score a map may look sound.
    maps = found.maps.where(signals.has_score[:, None, None], torch.nan)
    return replace(found, maps=maps, scorer=scorer)


def _tensors(signals: Signals) -> list[Tensor]:
    found = [signals.images, signals.score, signals.weights]
    for some in (signals.activations, signals.gradients, signals.input_gradients):
        found += some.values()
    if signals.head is not None:
        found += [signals.head.features, signals.head.weights]
    return found


def _network_of(request: HeatmapRequest, model: nn.Module) -> list[Tensor]:
    """Return what the network consists of, if the technique gets hold of it."""
    if not TECHNIQUES[request.technique.uses].needs.network:
        return []
    return [*model.parameters(), *model.buffers()]


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """Return how often each tensor has been written into, as torch counts it."""
    return [tensor._version for tensor in tensors]


def _as_declared(technique: Technique, computed: Any, b: int) -> Heatmaps | Channels:
    """Return what a technique gave of B images; raise an error unless it is what it declares."""
    if technique.gives == "channels":
        return Channels(_checked(computed, b, "BKhw"))
    maps, diagnostics = computed if isinstance(computed, tuple) else (computed, {})
    maps = _checked(maps, b, "Bhw")
    if set(diagnostics) != set(technique.diagnostics):
        expected = ", ".join(technique.diagnostics) or "none"
        raise ValueError(f"it returned the diagnostics {[*diagnostics]}, expected: {expected}")
    h, w = maps.shape[-2:]
    found = {name: _checked(values, b, "B") for name, values in diagnostics.items()}
    return Heatmaps(maps, (h, w), diagnostics=found)


def _checked(returned: Any, b: int, axes: str) -> Tensor:
    """Return a tensor that a technique gave of B images, if it has these axes and is real."""
    expected = f"a tensor ({', '.join(axes)}{',' * (len(axes) == 1)})"
    if not isinstance(returned, Tensor):
        raise TypeError(f"it returned a {type(returned).__name__}, expected: {expected}")
    found = tuple(returned.shape)
    if len(found) != len(axes) or found[0] != b or 0 in found:
        raise ValueError(f"it returned a tensor {found}, expected: {expected} where B is {b}")
    if returned.is_complex():
        raise TypeError("it returned complex numbers, expected: real ones")
    return returned.detach()


def _scorer(signals: Signals, model: nn.Module, score_from: str | None) -> Scorer:
    query = make_query(model, score_from, signals.weights)
    return Scorer(signals.images, lambda variants: query(variants, PassSpec()).score)


def _upsampled(results: Sequence[Result], size: tuple[int, ...]) -> list[Result]:
    """Bring heatmaps to the input's size; those of one grid together, which costs less."""
    alike: dict[tuple[Any, ...], dict[int, Heatmaps]] = {}
    for place, result in enumerate(results):
        if isinstance(result, Heatmaps) and tuple(result.maps.shape[-2:]) != size:
            alike.setdefault((*result.maps.shape, result.maps.dtype), {})[place] = result
    done = list(results)
    for group in alike.values():
        together = upsampled(torch.cat([coarse.maps for coarse in group.values()]), size)
        for (place, coarse), maps in zip(group.items(), together.chunk(len(group)), strict=True):
            done[place] = replace(coarse, maps=maps)
    return done
