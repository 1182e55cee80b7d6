"""The only file that registers a hook or touches an autograd node.

Everything here is a context manager that puts the network back as it was, whatever happens inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from cnnaudit.types import LayerCall

_RELU = "Relu"
# Nodes that gate the gradient as a ReLU does but have no guided rule; with one of them in the graph
# a guided gradient would be guided in part only, under the wrong name.
_OTHER_GATES = {
    "Celu",
    "Clamp",
    "ClampMin",
    "Elu",
    "Gelu",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",  # ReLU6 as well
    "LeakyRelu",
    "LogSigmoid",
    "Mish",
    "PreluKernel",
    "RreluWithNoise",
    "Silu",
    "Softplus",
    "Softshrink",
    "Threshold",
}


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode with no parameter asking for a gradient."""
    modes = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes.items():
            module.training = training  # not .train(): that would recurse over the children
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def capture(
    model: nn.Module, paths: Collection[str], *, differentiable: bool
) -> Iterator[dict[LayerCall, Tensor]]:
    """Collect the outputs of the modules at `paths` during the forward passes inside.

    With `differentiable`, every collected output can be differentiated by: where nothing before it
    asks for a gradient, the graph begins there, so that a backward pass ends there too.
    """
    captured: dict[LayerCall, Tensor] = {}
    with ExitStack() as handles:
        for path in paths:
            calls = itertools.count()

            def keep(
                _module: nn.Module,
                _args: Any,
                output: Any,
                path: str = path,
                calls: Iterator[int] = calls,
            ) -> Tensor | None:
                if not isinstance(output, Tensor):
                    return None
                if differentiable and not output.requires_grad:
                    output = output.detach().requires_grad_()
                captured[path, next(calls)] = output
                # An in-place ReLU that follows would overwrite what was captured.
                passed_on: Tensor = output.clone()
                return passed_on

            handle = model.get_submodule(path).register_forward_hook(keep)
            handles.callback(handle.remove)
        yield captured


@contextmanager
def guided(score: Tensor) -> Iterator[str | None]:
    """Apply the guided rule at every ReLU node of the score's graph.

    At a node g_in = g_out · 1[x > 0] · 1[g_out > 0]; the node itself contributes the first factor.
    Nodes, not modules: a functional ReLU is one as well, a ReLU module used twice is two.
    Yields the reason why the rule does not apply to this graph, or None where it does.

    Source: Springenberg et al., "Striving for Simplicity", ICLR Workshop 2015.
    """
    nodes = list(_walk(score))
    gates = sorted({_kind(node) for node in nodes if _is_other_gate(node)})
    relus = [node for node in nodes if _kind(node) == _RELU]
    with ExitStack() as handles:
        if not relus:
            yield "the network has no ReLU"
        elif gates:
            yield f"the network has activations other than ReLU ({', '.join(gates)})"
        else:
            for node in relus:
                handles.callback(node.register_prehook(_keep_positive).remove)
            yield None


@contextmanager
def execution_order(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Any]]]:
    """Record (path, module, output) of every call of a module as the model runs inside.

    A module that holds others comes after them, when its own output is there.
    """
    calls: list[tuple[str, nn.Module, Any]] = []
    with ExitStack() as handles:
        for path, module in model.named_modules():
            if not path:  # the model itself
                continue

            def note(module: nn.Module, _args: Any, output: Any, path: str = path) -> None:
                calls.append((path, module, output))

            handles.callback(module.register_forward_hook(note).remove)
        yield calls


def _keep_positive(gradients: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else torch.clamp(g, min=0) for g in gradients)


def _kind(node: Node) -> str:
    """Return the operation that a node is the gradient of; in-place variants have a number."""
    return node.name().partition("Backward")[0]


def _is_other_gate(node: Node) -> bool:
    # What a user's own autograd function gates, nobody can see.
    return _kind(node) in _OTHER_GATES or isinstance(node, BackwardCFunction)


def _walk(score: Tensor) -> Iterator[Node]:
    """Yield each node of the graph below a score once."""
    pending = [score.grad_fn]
    seen: set[Node] = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        pending.extend(parent for parent, _ in node.next_functions)
