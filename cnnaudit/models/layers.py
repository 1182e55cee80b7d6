"""A network's layers in execution order, and which of them a role, a path or an index names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnaudit.sections import near_miss
from cnnaudit.types import AuditError, LayerChoice, layer_name

if TYPE_CHECKING:
    from torch import Tensor, nn


ROLES = ("first_conv", "last_conv", "last_features", "first_pool")


@dataclass(frozen=True)
class Layer:
    """One call of one module in the forward pass."""

    path: str
    kind: str  # the module's class name
    shape: tuple[int, ...] | None  # of its output for one image; None: not a tensor

    @property
    def is_spatial(self) -> bool:
        """Whether its output is (K, h, w)."""
        return self.shape is not None and len(self.shape) == 3


@dataclass(frozen=True)
class Traced:
    """What one forward pass showed."""

    layers: tuple[Layer, ...]  # in execution order
    roles: Mapping[str, str]  # layer role → module path
    outputs: Tensor  # (B, N)
    scores: Tensor  # (B, N)
    places: int  # at which each class has a score: h·w of (B, C, h, w), as of a segmentation


def trace(model: nn.Module, images: Tensor, score_from: str | None) -> Traced:
    """Run a model once on images (B, C, H, W), and note every call of its modules."""
    from cnnaudit import hooks
    from cnnaudit.models.tracing import trace_roles
    from cnnaudit.passes import flat, forward_in_shape

    with hooks.execution_order(model) as calls:
        outputs, scores = forward_in_shape(model, images, score_from)
    layers = tuple(Layer(path, type(module).__name__, _shape(out)) for path, module, out in calls)
    places = scores.shape[2:].numel()
    h, w = images.shape[2:]
    return Traced(layers, trace_roles(calls, (h, w)), flat(outputs), flat(scores), places)


def check_model(model: Any, where: str) -> None:
    """Raise AuditError for what is no network, or none whose parts can be seen at work."""
    from torch import jit, nn
    from torch.nn.parameter import is_lazy

    if not isinstance(model, nn.Module):
        raise AuditError(f"{where}: a {type(model).__name__}; a torch.nn.Module is expected")
    for path, module in model.named_modules():
        named = f"its module {path!r}" if path else "it"
        if isinstance(module, jit.RecursiveScriptModule):  # type: ignore[attr-defined]
            raise AuditError(
                f"{where}: {named} is made by torch.jit.script, and nobody can see inside; "
                "the torch.nn.Module that it was made from is expected"
            )
        # It runs as it was compiled, whatever hooks are put on it later.
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise AuditError(
                f"{where}: {named} is compiled by torch.compile, and nobody can see inside; "
                "the torch.nn.Module that it was made from is expected"
            )
        if any(map(is_lazy, module.parameters(recurse=False))):
            raise AuditError(
                f"{where}: {named} has no weights yet; load them, or run the network once"
            )


def check_score_from(model: nn.Module, score_from: str | None, where: str) -> None:
    """Raise AuditError listing the modules where `score_from` names none."""
    paths = [path for path, _ in model.named_modules() if path]
    path = score_from and str(score_from).partition(":")[0]
    if path is not None and path not in paths:
        raise AuditError(
            f"{where}: {path!r} is no module of the model; allowed are {', '.join(paths) or 'none'}"
        )


def names_of(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return each layer as `layer_name` writes it."""
    calls = Counter(layer.path for layer in layers)
    met: Counter[str] = Counter()
    names = []
    for layer in layers:
        names.append(layer_name(layer.path, met[layer.path], calls[layer.path]))
        met[layer.path] += 1
    return tuple(names)


def say_layers(layers: Sequence[Layer], roles: Mapping[str, str]) -> Iterator[str]:
    """Say of each layer its index, name, kind, shape and the roles that it has."""
    roles_of: dict[str, list[str]] = {}
    for role, path in roles.items():
        roles_of.setdefault(path, []).append(role)
    for index, (name, layer) in enumerate(zip(names_of(layers), layers, strict=True)):
        shape = "no tensor" if layer.shape is None else "×".join(map(str, layer.shape))
        named = ", ".join(roles_of.get(name, ()))
        yield f"{index:>4}  {name:<24} {layer.kind:<20} {shape:<16} {named}".rstrip()


def resolve_layer(
    layers: Sequence[Layer],
    roles: Mapping[str, str],
    choice: LayerChoice,
    where: str,
    model: str = "the model",
) -> str:
    """Return the use of a module that a role, a path or an index names, as `layer_name` writes it.

    An index counts the calls in execution order, as `cnnaudit layers` does. The layer must have a
    spatial output (K, h, w); raises AuditError listing what exists.
    """
    names = names_of(layers)
    spatial = [name for name, known in zip(names, layers, strict=True) if known.is_spatial]
    if not spatial:
        raise AuditError(
            f"{where}: the technique does not apply to {model}, which has no layer with a spatial "
            "output (K, h, w)"
        )
    if isinstance(choice, int):
        if not 0 <= choice < len(layers):
            raise AuditError(
                f"{where}: {choice} is out of range, {model} calls {len(layers)} modules, "
                f"0 to {len(layers) - 1}"
            )
        layer = names[choice]
    else:
        layer = roles.get(choice, choice)
    if layer in spatial:
        return layer
    problem = "has no spatial output" if layer in names else "does not exist"
    if layer in ROLES and layer not in names:
        problem = "is a role that no layer has"
    listed = ", ".join(f"{role} ({path})" for role, path in roles.items()) or "none"
    raise AuditError(
        f"{where}: {choice!r} {problem} in {model}.{near_miss(str(choice), [*roles, *spatial])} "
        f"Allowed are the roles {listed}, "
        f"the modules {', '.join(spatial)}, and their index as `cnnaudit layers` lists them"
    )


def _shape(output: Any) -> tuple[int, ...] | None:
    return tuple(output.shape[1:]) if hasattr(output, "shape") else None
