"""The only file that registers a hook or touches an autograd node.

Everything here is a context manager that puts the network back as it was, whatever happens inside;
but what `pick_output` does lasts until the handle that it returns is removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils.hooks import RemovableHandle

from cnnaudit.types import LayerCall

_RELU = "Relu"
# Nodes that gate the gradient as a ReLU does but have no guided rule; with one of them in the graph
# a guided gradient would be guided in part only, under the wrong name.
_OTHER_GATES = {
    *("Celu", "Clamp", "ClampMax", "ClampMin", "Elu", "Gelu", "Glu", "Hardshrink", "Hardsigmoid"),
    *("Hardswish", "Hardtanh"),  # the latter ReLU6 as well
    *("LeakyRelu", "LogSigmoid", "MaskedFill", "MaskedScatter", "Mish", "PreluKernel"),
    *("RreluWithNoise", "Silu", "Softplus", "Softshrink", "Threshold", "Where"),
    *("Fmax", "Fmin", "Maximum", "Minimum"),  # of two tensors, such as an input and zeros
}
# Functions that may write a gate into a view, of which the graph then tells nothing but that.
_GATE_FUNCTIONS = {
    *("celu", "clamp", "clamp_max", "clamp_min", "clip", "elu", "hardsigmoid", "hardswish"),
    *("hardtanh", "leaky_relu", "masked_fill", "mish", "relu", "relu6", "rrelu", "selu", "silu"),
    "threshold",
}


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode with no parameter asking for a gradient.

    The mode is set and restored, not asked for: `eval` and `train` of somebody's own may do more,
    such as merge weights, and an exported network refuses them. Nothing is checkpointed in torch's
    re-entrant way, whose graph ends before each checkpoint.
    """
    modes = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    names = vars(checkpoint)
    checkpointing = names["CheckpointFunction"]
    try:
        names["CheckpointFunction"] = _NoCheckpoint
        for module, training in modes.items():
            if training:
                module.training = False
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        if checkpointing is not _NoCheckpoint:  # it was another model's, held at the same time
            names["CheckpointFunction"] = checkpointing
        for module, training in modes.items():
            if module.training != training:
                module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put back the buffers that a network's own forward pass writes into, such as a count."""
    own = [(module, dict(module.named_buffers(recurse=False))) for module in model.modules()]
    kept = [b for _, buffers in own for b in buffers.values() if not b.is_inference()]
    before = [(buffer, buffer._version, buffer.clone()) for buffer in kept]
    try:
        yield
    finally:
        for module, buffers in own:
            for name, buffer in buffers.items():
                if getattr(module, name, None) is not buffer:
                    setattr(module, name, buffer)
        with torch.no_grad():
            for buffer, version, content in before:
                if buffer._version != version:
                    buffer.copy_(content)


class _NoCheckpoint:
    """Stands in for torch's function of this name, and runs what is given to it."""

    @staticmethod
    def apply(run: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        return run(*args)


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
def shielded(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """Let the module at `path` pass on a copy of its output, after all that other hooks do to it.

    An in-place operation that follows would write into what a library's hook keeps or puts there.
    """
    module, last = model.get_submodule(path), ExitStack()

    def copy(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
        return output.clone() if isinstance(output, Tensor) else None

    def come_last(module: nn.Module, _args: Any) -> None:
        last.close()  # as the module is called, when the library has registered its hooks
        last.callback(module.register_forward_hook(copy).remove)

    handle = module.register_forward_pre_hook(come_last)
    try:
        yield module
    finally:
        handle.remove()
        last.close()


@contextmanager
def apart(model: nn.Module) -> Iterator[None]:
    """Give each module a copy of its input, so that a hook on it concerns no other module."""

    def copy(_module: nn.Module, args: Any) -> Any:
        return tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)

    with ExitStack() as handles:
        for module in model.modules():
            if module is not model:
                handles.callback(module.register_forward_pre_hook(copy).remove)
        yield


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Undo what a library leaves behind on the modules of a network: hooks, and attributes."""
    before = []
    for module in model.modules():
        attributes = dict(vars(module))
        tables = [(table, table.copy()) for name, table in attributes.items() if "_hooks" in name]
        before.append((module, attributes, tables))
    try:
        yield
    finally:
        for module, attributes, tables in before:
            vars(module).clear()
            vars(module).update(attributes)
            for table, hooks in tables:
                table.clear()
                table.update(hooks)


@contextmanager
def picked(model: nn.Module, path: str, pick: Callable[[Any], Tensor]) -> Iterator[list[Tensor]]:
    """Collect what `pick` finds in each output of the module at `path` during the passes inside."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
        tensor = pick(output)
        copy: Tensor = tensor.clone()  # as above: what follows may write into it
        if tensor is output:
            found.append(tensor)
            return copy
        found.append(copy)
        return None

    handle = model.get_submodule(path).register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def pick_output(model: nn.Module, pick: Callable[[Any], Tensor]) -> RemovableHandle:
    """Let a model return what `pick` finds in its output, until the handle is removed."""
    return model.register_forward_hook(lambda _module, _args, output: pick(output))


@contextmanager
def guided(score: Tensor) -> Iterator[str | None]:
    """Apply the guided rule at every ReLU node of the score's graph.

    At a node g_in = g_out · 1[x > 0] · 1[g_out > 0]; the node itself contributes the first factor.
    Nodes, not modules: a functional ReLU is one as well, a ReLU module used twice is two. If the
    graph hides some, the forward pass must have run within `gates_as_nodes`.
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


def hides_gates(score: Tensor) -> bool:
    """Say whether a score's graph has nodes that only tell that something was written into a view.

    It may have been a gate.
    """
    return any(node.name().endswith("CopySlices") for node in _walk(score))


@contextmanager
def gates_as_nodes() -> Iterator[None]:
    """Give each gate of the forward pass inside a node of its own, also one in place on a view."""
    with _GateRecorder():
        yield


class _GateRecorder(TorchFunctionMode):
    """Computes a gate on a copy of a view, which is written back if the gate is in place."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_gate = getattr(func, "__name__", "").rstrip("_") in _GATE_FUNCTIONS
        if not (is_gate and args and args[0]._is_view()):
            return func(*args, **(kwargs or {}))
        view, *others = args
        copy = view.clone()
        output = func(copy, *others, **(kwargs or {}))
        return view.copy_(output) if output is copy else output


@dataclass
class HeadTrace:
    """What a network's end may consist of, as it was met in the forward pass."""

    pooled: list[Tensor] = field(default_factory=list)  # (B, K, h, w), averaged over all places
    # with its input and its output
    linear: list[tuple[nn.Linear, Tensor, Tensor]] = field(default_factory=list)


@contextmanager
def head(model: nn.Module) -> Iterator[HeadTrace]:
    """Record what goes into a global average pool, functional or a module, and linear layers."""
    trace = HeadTrace()

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        assert isinstance(module, nn.Linear)
        trace.linear.append((module, args[0] if args else kwargs["input"], output))

    with ExitStack() as stack:
        for module in model.modules():
            # A subclass may do anything with its weight.
            if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
                handle = module.register_forward_hook(note, with_kwargs=True)
                stack.callback(handle.remove)
        stack.enter_context(_PoolRecorder(trace.pooled))
        yield trace


class _PoolRecorder(TorchFunctionMode):
    """Notes the input of every call that leaves one number of each channel's places."""

    _AVERAGES = (
        nn.functional.adaptive_avg_pool2d,
        nn.functional.avg_pool2d,
        torch.mean,
        Tensor.mean,
    )

    def __init__(self, pooled: list[Tensor]) -> None:
        super().__init__()
        self._pooled = pooled

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in self._AVERAGES and args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            b, k, _, _ = args[0].shape
            if output.numel() == b * k:
                self._pooled.append(args[0])
        return output


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
