"""What a network returns, a tensor or a container of them → the tensor that an entry names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor

from cnnaudit.types import AuditError

_SHOWN = 20  # entries that a message lists


class WrongEntry(AuditError):
    """An output without the entry that is asked of it; the message lists those that there are."""


def entry_of(output: Any, *, entry: str, name: str, key: str) -> Tensor:
    """Return the tensor that `entry` names in what `name` returned; "" stands for the whole.

    An entry is a key, a field or a position, or a path of them through nested containers, such as
    ``logits``, ``0`` or ``heads.0``. Raises WrongEntry, about the config's `key`, for no tensor.
    """
    found = output
    for part in entry.split(".") if entry else ():
        entries = _entries(found)
        if part not in entries and part.isdecimal() and int(part) < len(entries):
            part = list(entries)[int(part)]
        found = entries.get(part)
    if isinstance(found, Tensor):
        return found
    problem = f"{entry!r} names no tensor in it" if entry else "name the one that holds the scores"
    raise WrongEntry(f"{key}: {name} returns a {_describe(output)}; {problem}")


def of_model(entry: str) -> Callable[[Any], Tensor]:
    """Return what takes an entry out of whatever a model returns."""
    return partial(entry_of, entry=entry, name="the model", key="output_entry")


def _describe(output: Any) -> str:
    """Say what an output is and which tensors it holds under what."""
    kind = type(output).__name__
    tensors = [f"{path} {tuple(tensor.shape)}" for path, tensor in _tensors(output) if path]
    if not tensors:
        return f"{kind}, which holds no tensor under a name"
    more = f" and {len(tensors) - _SHOWN} more" * (len(tensors) > _SHOWN)
    return f"{kind} with the entries {', '.join(tensors[:_SHOWN])}{more}"


def _tensors(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
    for name, value in _entries(output).items():
        yield from _tensors(value, f"{path}.{name}" if path else name)


def _entries(output: Any) -> dict[str, Any]:
    """Return what a container holds by name, in its own order; nothing of what is no container."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))  # those of a named tuple
        return dict(zip(map(str, names), output, strict=True))
    return {}
