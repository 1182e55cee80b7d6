"""Runs the passes that a group of requests needs: one forward, then one or two backwards a target.

No gradient of a parameter is ever computed, and nothing of the network is left changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnaudit import hooks
from cnnaudit.outputs import entry_of
from cnnaudit.types import AuditError, Head, LayerCall, PassSpec, Signals, path_of

Score = Callable[[Tensor], Tensor]  # scores (B, N) → weights (B, N)

_SAME = 1e-3  # relative: what rounding may put between averages and a linear layer's input
_SMALLEST = 1e-30


def forward(model: nn.Module, images: Tensor, score_from: str | None) -> tuple[Tensor, Tensor]:
    """Return a model's outputs (B, N) and the scores behind them (B, N), without a graph."""
    outputs, scores = forward_in_shape(model, images, score_from)
    return flat(outputs), flat(scores)


def forward_in_shape(
    model: nn.Module, images: Tensor, score_from: str | None
) -> tuple[Tensor, Tensor]:
    """Return a model's outputs and scores as `forward` does, (B, …) as the model shapes them."""
    with hooks.frozen(model), torch.no_grad():
        return _forward(model, images, score_from)


def flat(scores: Tensor) -> Tensor:
    """Return scores (B, …) as (B, N)."""
    return scores.reshape(len(scores), -1)


def weighted_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """Return y (B,) of scores and weights (B, N); an infinite score of weight 0 is left out."""
    unasked = (weights == 0) & scores.isinf()  # such as −∞ of a class that is ruled out
    return (scores.masked_fill(unasked, 0) * weights).sum(dim=1)


def scores_of(model: nn.Module, images: Tensor, score_from: str | None) -> Tensor:
    """Return a model's scores (B, N) within the graph that the caller keeps."""
    return flat(_forward(model, images, score_from)[1])


def run_passes(
    model: nn.Module,
    images: Tensor,
    score_from: str | None,
    targets: Mapping[str, Score],
    specs: Mapping[str, PassSpec],
) -> tuple[Tensor, dict[str, Signals]]:
    """Run one forward pass, and per target the backward passes that its `PassSpec` asks for.

    Returns the model's outputs (B, N) and the signals of each target. Images are (B, C, H, W) in
    input coordinates; `specs` has the keys of `targets`.
    """
    layers = frozenset().union(*(spec.layers for spec in specs.values()))
    by_input = any(s.input_gradient or s.guided_input_gradient for s in specs.values())
    graph = by_input or any(spec.gradients for spec in specs.values())
    with hooks.frozen(model), torch.set_grad_enabled(graph), ExitStack() as stack:
        # A copy: techniques get it, and somebody's may write into it.
        leaf = images.detach().clone().requires_grad_(by_input)
        record = partial(
            _recorded,
            model,
            leaf,
            score_from,
            set(map(path_of, layers)),
            differentiable=graph,
            with_head=any(spec.head for spec in specs.values()),
        )
        passed = stack.enter_context(record())
        is_guided = any(spec.guided_input_gradient for spec in specs.values())
        if is_guided and hooks.hides_gates(passed.scores):
            stack.close()
            passed = stack.enter_context(record(gates_as_nodes=True))
        signals: dict[str, Signals] = {}
        for name, weigh in targets.items():
            weights, last = weigh(passed.scores.detach()), len(signals) == len(targets) - 1
            found = _backward(
                leaf, passed.scores, weights, passed.captured, specs[name], retain=not last
            )
            if passed.head is not None and specs[name].head:
                found = _with_head(found, passed.head, passed.scores.detach())
            signals[name] = found
    return passed.outputs.detach(), signals


class _Passed(NamedTuple):
    """What a forward pass gave."""

    outputs: Tensor  # (B, N)
    scores: Tensor  # (B, N)
    captured: Mapping[LayerCall, Tensor]
    head: hooks.HeadTrace | None


@contextmanager
def _recorded(
    model: nn.Module,
    images: Tensor,
    score_from: str | None,
    paths: Collection[str],
    *,
    differentiable: bool,
    with_head: bool,
    gates_as_nodes: bool = False,
) -> Iterator[_Passed]:
    """Run a forward pass and yield what it gave, hooked as long as backward passes follow.

    A network that checkpoints its activations runs again in a backward pass, under the same hooks.
    What they capture then is not among what is yielded.
    """
    with ExitStack() as stack:
        head = stack.enter_context(hooks.head(model)) if with_head else None
        if gates_as_nodes:
            stack.enter_context(hooks.gates_as_nodes())
        captured = stack.enter_context(hooks.capture(model, paths, differentiable=differentiable))
        outputs, scores = map(flat, _forward(model, images, score_from))
        yield _Passed(outputs, scores, dict(captured), head)


def _forward(model: nn.Module, images: Tensor, score_from: str | None) -> tuple[Tensor, Tensor]:
    # The clones: a model that begins with an in-place operation neither changes the caller's
    # images nor writes into a leaf of the graph.
    if score_from is None:
        outputs = _as_scores(model(images.clone()), "the model", len(images))
        return outputs, outputs
    path, _, entry = score_from.partition(":")
    pick = partial(entry_of, entry=entry, name=path, key="score_from")
    with hooks.picked(model, path, pick) as scored:
        outputs = _as_scores(model(images.clone()), "the model", len(images))
    if not scored:
        raise AuditError(f"score_from: {path!r} gave no tensor in the forward pass")
    return outputs, _as_scores(scored[-1], path, len(images))


def _backward(
    images: Tensor,
    scores: Tensor,
    weights: Tensor,
    captured: Mapping[LayerCall, Tensor],
    spec: PassSpec,
    *,
    retain: bool,
) -> Signals:
    paths = set(map(path_of, spec.layers))
    activations = {call: out for call, out in captured.items() if call[0] in paths}
    gradients: dict[LayerCall, Tensor] = {}
    input_gradients: dict[str, Tensor] = {}
    inapplicable: dict[str, str] = {}
    by_image = weighted_sum(scores, weights)
    if spec.gradients or spec.input_gradient or spec.guided_input_gradient:
        score = by_image.sum()  # images do not mix, so one sum serves the whole batch
        asked = list(activations.values()) if spec.gradients else []
        if spec.input_gradient:
            asked.append(images)
        # Where no other pass follows, each part of the graph is freed as this one leaves it.
        found = _gradients(score, asked, retain=retain or spec.guided_input_gradient)
        if spec.gradients:
            of_call = dict(zip(activations, found, strict=False))
            gradients = {call: g for call, g in of_call.items() if g is not None}
        if spec.input_gradient:
            _note("plain", found[-1], input_gradients, inapplicable)
        if spec.guided_input_gradient:
            with hooks.guided(scores) as reason:
                if reason is None:
                    (gradient,) = _gradients(score, [images], retain=retain)
                    _note("guided", gradient, input_gradients, inapplicable)
                else:
                    inapplicable["guided"] = reason
    signals = Signals(
        images=images.detach(),
        score=by_image.detach(),
        weights=weights,
        activations={call: out.detach() for call, out in activations.items()},
        gradients=gradients,
        input_gradients=input_gradients,
        inapplicable=inapplicable,
    )
    if spec.gradients:
        for layer in spec.layers:
            call = signals.call_of(layer)
            if call is not None and call not in gradients:
                inapplicable[layer] = f"the score does not depend on the output of {layer}"
    return signals


def _with_head(signals: Signals, trace: hooks.HeadTrace, scores: Tensor) -> Signals:
    """Add the network's linear end, once it is seen to give the scores."""
    linear = [
        (module, given)
        for module, given, output in trace.linear
        if output.numel() == scores.numel() and _same(output.reshape(scores.shape), scores)
    ]
    if not linear:
        return _without_head(signals, "no linear layer gives the scores")
    module, given = linear[-1]
    matrix = module.weight
    fitting = [features for features in trace.pooled if features.shape[1] == matrix.shape[1]]
    if not fitting:
        return _without_head(signals, "no global average pool comes before the last linear layer")
    features = fitting[-1].detach()
    # What goes in, not what comes out, where a large bias would hide any difference.
    if not _agree(given.detach(), features.mean(dim=(2, 3))):
        return _without_head(signals, "more than a linear layer comes after the average pool")
    return replace(signals, head=Head(features, signals.weights @ matrix))


def _without_head(signals: Signals, reason: str) -> Signals:
    return replace(signals, inapplicable={**signals.inapplicable, "head": reason})


def _agree(given: Tensor, pooled: Tensor) -> bool:
    """Say whether a layer was given these averages (B, K), but for rounding."""
    if given.numel() != pooled.numel():
        return False
    errors = (given.reshape(pooled.shape) - pooled).abs().amax(dim=1)
    errors = errors / pooled.abs().amax(dim=1).clamp(min=_SMALLEST)
    # A NaN is its own image's matter.
    return bool(errors.where(errors.isfinite(), 0).max() <= _SAME)


def _same(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def _gradients(score: Tensor, inputs: list[Tensor], *, retain: bool) -> list[Tensor | None]:
    """Return the gradient by each input; None: the graph does not lead there, which is no zero."""
    if not inputs or not score.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(score, inputs, retain_graph=retain, allow_unused=True))


def _note(
    kind: str, gradient: Tensor | None, found: dict[str, Tensor], inapplicable: dict[str, str]
) -> None:
    if gradient is None:
        inapplicable[kind] = "the score does not depend on the input by way of gradients"
    else:
        found[kind] = gradient


def _as_scores(output: Any, name: str, b: int) -> Tensor:
    scores = entry_of(output, entry="", name=name, key="output_entry")
    if scores.ndim == 0 or len(scores) != b:
        raise AuditError(
            f"{name} returns a tensor of shape {tuple(scores.shape)} for {b} images, "
            f"({b}, …) is expected"
        )
    return scores
