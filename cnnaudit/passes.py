"""Runs the passes that a group of requests needs: one forward, then one or two backwards a target.

No gradient of a parameter is ever computed, and nothing of the network is left changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnaudit import hooks
from cnnaudit.types import AuditError, LayerCall, PassSpec, Signals

Score = Callable[[Tensor], Tensor]  # scores (B, N) → weights (B, N)


def forward(model: nn.Module, images: Tensor, score_from: str | None) -> tuple[Tensor, Tensor]:
    """Return a model's outputs (B, N) and the scores behind them (B, N), without a graph."""
    with hooks.frozen(model), torch.no_grad():
        outputs, scores, _ = _forward(model, images, score_from, frozenset(), graph=False)
    return outputs, scores


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
    with hooks.frozen(model), torch.set_grad_enabled(graph):
        leaf = images.detach().requires_grad_(by_input)
        outputs, scores, captured = _forward(model, leaf, score_from, layers, graph=graph)
        signals = {
            name: _backward(leaf, scores, weigh(scores.detach()), captured, specs[name])
            for name, weigh in targets.items()
        }
    return outputs.detach(), signals


def _forward(
    model: nn.Module,
    images: Tensor,
    score_from: str | None,
    layers: frozenset[str],
    *,
    graph: bool,
) -> tuple[Tensor, Tensor, dict[LayerCall, Tensor]]:
    # The clones: a model that begins with an in-place operation neither changes the caller's
    # images nor writes into a leaf of the graph.
    with hooks.capture(model, layers, differentiable=graph) as captured:
        if score_from is None:
            outputs = _as_scores(model(images.clone()), "the model", len(images))
            return outputs, outputs, captured
        with hooks.capture(model, {score_from}, differentiable=False) as scored:
            outputs = _as_scores(model(images.clone()), "the model", len(images))
        if not scored:
            raise AuditError(f"score_from: {score_from!r} gave no tensor in the forward pass")
        last = max(scored, key=lambda call: call[1])
        return outputs, _as_scores(scored[last], score_from, len(images)), captured


def _backward(
    images: Tensor,
    scores: Tensor,
    weights: Tensor,
    captured: Mapping[LayerCall, Tensor],
    spec: PassSpec,
) -> Signals:
    activations = {call: out for call, out in captured.items() if call[0] in spec.layers}
    gradients: dict[LayerCall, Tensor] = {}
    input_gradients: dict[str, Tensor] = {}
    inapplicable: dict[str, str] = {}
    if spec.gradients or spec.input_gradient or spec.guided_input_gradient:
        score = (scores * weights).sum()  # images do not mix, so one sum serves the whole batch
        asked = list(activations.values()) if spec.gradients else []
        if spec.input_gradient:
            asked.append(images)
        found = _gradients(score, asked)
        if spec.gradients:
            for (path, call), gradient in zip(activations, found, strict=False):
                if gradient is None:
                    inapplicable[path] = f"the score does not depend on the output of {path}"
                else:
                    gradients[path, call] = gradient
                    inapplicable.pop(path, None)  # the last call decides
        if spec.input_gradient:
            _note("plain", found[-1], input_gradients, inapplicable)
        if spec.guided_input_gradient:
            with hooks.guided(score) as reason:
                if reason is None:
                    (gradient,) = _gradients(score, [images])
                    _note("guided", gradient, input_gradients, inapplicable)
                else:
                    inapplicable["guided"] = reason
    return Signals(
        images=images.detach(),
        activations={call: out.detach() for call, out in activations.items()},
        gradients=gradients,
        input_gradients=input_gradients,
        inapplicable=inapplicable,
    )


def _gradients(score: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
    """Return the gradient by each input; None: the graph does not lead there, which is no zero."""
    if not inputs or not score.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(score, inputs, retain_graph=True, allow_unused=True))


def _note(
    kind: str, gradient: Tensor | None, found: dict[str, Tensor], inapplicable: dict[str, str]
) -> None:
    if gradient is None:
        inapplicable[kind] = "the score does not depend on the input by way of gradients"
    else:
        found[kind] = gradient


def _as_scores(output: Any, name: str, b: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise AuditError(f"{name} returns a {type(output).__name__}, a tensor (B, …) is expected")
    if output.ndim == 0 or len(output) != b:
        raise AuditError(
            f"{name} returns a tensor of shape {tuple(output.shape)} for {b} images, "
            f"({b}, …) is expected"
        )
    return output.reshape(b, -1)
