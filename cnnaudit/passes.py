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
    with hooks.capture(model, layers, differentiable=graph) as captured:
        if score_from is None:
            outputs = _as_scores(model(images), "the model")
            return outputs, outputs, captured
        with hooks.capture(model, {score_from}, differentiable=False) as scored:
            outputs = _as_scores(model(images), "the model")
        if not scored:
            raise AuditError(f"score_from: {score_from!r} took no part in the forward pass")
        last = max(scored, key=lambda call: call[1])
        return outputs, _as_scores(scored[last], score_from), captured


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
        gradients = dict(zip(activations, found, strict=False)) if spec.gradients else {}
        if spec.input_gradient:
            input_gradients["plain"] = found[-1]
        if spec.guided_input_gradient:
            with hooks.guided(score) as reason:
                if reason is None:
                    input_gradients["guided"] = _gradients(score, [images])[0]
                else:
                    inapplicable["guided"] = reason
    return Signals(
        images=images.detach(),
        activations={call: out.detach() for call, out in activations.items()},
        gradients=gradients,
        input_gradients=input_gradients,
        inapplicable=inapplicable,
    )


def _gradients(score: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    if not inputs:
        return []
    found = torch.autograd.grad(score, inputs, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(x) if g is None else g.detach() for x, g in zip(inputs, found, strict=True)
    ]


def _as_scores(output: Any, name: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise AuditError(f"{name} returns a {type(output).__name__}, a tensor (B, …) is expected")
    return output.flatten(1)
