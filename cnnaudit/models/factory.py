"""A user's own network: made by a function that the config names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from cnnaudit.own_code import import_own
from cnnaudit.sections import unknown
from cnnaudit.specs import ModelSpec
from cnnaudit.types import ANY_ERROR, AuditError


def build(spec: ModelSpec) -> nn.Module:
    """Call a spec's factory with its arguments; raise AuditError unless it makes a network."""
    where = f"model.{spec.name}.factory"
    make = find(spec)
    _check_arguments(make, spec)
    try:
        model = make(**spec.arguments)
    except ANY_ERROR as error:  # somebody's function may raise anything
        raise AuditError(
            f"{where}: {spec.factory} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise AuditError(
            f"{where}: {spec.factory} returned a {type(model).__name__}, "
            "a torch.nn.Module is expected"
        )
    return model.cpu()


def find(spec: ModelSpec) -> Callable[..., Any]:
    """Return the function or class that a spec's factory names."""
    where = f"model.{spec.name}.factory"
    module_name, _, name = spec.factory.partition(":")
    module = import_own(module_name, where)
    make = getattr(module, name, None)
    if not callable(make):
        there = [each for each, x in vars(module).items() if callable(x) and each[0] != "_"]
        raise AuditError(f"{where}: in {module_name}, {unknown(name, there, 'function')}")
    found: Callable[..., Any] = make
    return found


def _check_arguments(make: Callable[..., Any], spec: ModelSpec) -> None:
    """Refuse an argument that the function does not have, with the near miss."""
    try:
        accepted = inspect.signature(make).parameters
    except (TypeError, ValueError):  # of something compiled: calling it will tell
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return
    for name in spec.arguments:
        if name not in accepted:
            where = f"model.{spec.name}.arguments.{name}"
            raise AuditError(f"{where}: {unknown(name, accepted, 'argument')}")
