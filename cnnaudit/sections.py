"""Reading a config key by key, and binding parameters: every mistake is said with its key."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cnnaudit.types import AuditError

_MISSING: Any = object()


class Section:
    """A part of the config that is read key by key; `close` refuses what nobody asked for."""

    def __init__(self, path: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise AuditError(f"{path}: {values!r} is not a set of keys")
        self.path = path
        self.values: dict[str, Any] = {str(key): value for key, value in values.items()}
        self.read: set[str] = set()

    def key(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str, default: Any = _MISSING) -> Any:
        self.read.add(name)
        value = self.values.get(name, default)
        if value is _MISSING:
            raise AuditError(f"{self.key(name)} is missing")
        if value == "???":
            raise AuditError(f"{self.key(name)} must be given a value: {self.key(name)}=…")
        return value

    def text(self, name: str, default: Any = _MISSING) -> str:
        value = self.take(name, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, value, "a text")
        return value

    def file_name(self, name: str) -> str:
        value = self.text(name)
        if value in (".", "..") or "/" in value or "\\" in value or "\0" in value:
            raise self.wrong(name, value, "a name without slashes")
        return value

    def choice(self, name: str, allowed: Iterable[str], default: Any = _MISSING) -> str:
        value, allowed = self.take(name, default), tuple(allowed)
        if value not in allowed:
            raise AuditError(f"{self.key(name)}: {unknown(str(value), allowed)}")
        return str(value)

    def integer(self, name: str, *, minimum: int) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.wrong(name, value, f"a whole number, at least {minimum}")
        return value

    def boolean(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float | None:
        value = self.take(name, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.wrong(name, value, "a number")
        return None if value is None else float(value)

    def texts(self, name: str, default: Any = _MISSING) -> tuple[str, ...]:
        value = self.take(name, default)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(name, value, "a list of texts")
        return tuple(value)

    def numbers(
        self, name: str, length: int, kind: type[int] | type[float] = float
    ) -> tuple[Any, ...]:
        value = self.take(name)
        good = isinstance(value, list) and len(value) == length
        if not good or not all(isinstance(x, int | kind) and x >= 0 for x in value):
            raise self.wrong(name, value, f"a list of {length} numbers, none below 0")
        return tuple(map(kind, value))

    def mapping(self, name: str) -> dict[str, str]:
        value = self.take(name, {})
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "a set of keys")
        return {str(key): str(text) for key, text in value.items()}

    def section(self, name: str, default: Any = _MISSING) -> Section:
        return Section(self.key(name), self.take(name, default))

    def rest(self) -> dict[str, Any]:
        """Return every key that nobody has read yet."""
        names = [name for name in self.values if name not in self.read]
        return {name: self.take(name) for name in names}

    def wrong(self, name: str, value: Any, allowed: str) -> AuditError:
        return AuditError(f"{self.key(name)}: {value!r} is not {allowed}")

    def close(self) -> None:
        for name in self.values:
            if name not in self.read:
                raise AuditError(f"{self.key(name)}: {unknown(name, sorted(self.read), 'key')}")


def unknown(got: str, allowed: Iterable[str], kind: str = "value") -> str:
    """Return what is wrong with a name: what it was, the near miss, what is allowed."""
    allowed = tuple(allowed)
    near = difflib.get_close_matches(got, allowed, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"{got!r} is no allowed {kind}.{guess} Allowed: {', '.join(allowed) or 'none'}"


def bind(function: Callable[..., Any], parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Bind a config's parameters to a function's keyword-only ones, defaults filled in.

    Raises AuditError for a name that the function lacks, a value of another type, or one missing.
    """
    accepted = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in parameters:
        if name not in accepted:
            raise AuditError(f"{where}.{name}: {unknown(name, accepted, 'parameter')}")
    kinds = get_type_hints(function, localns={"Tensor": object})  # torch is not imported for this
    bound = {}
    for name, parameter in accepted.items():
        value = parameters.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise AuditError(f"{where}.{name} is missing")
        if not _fits(value, kinds[name]):
            raise AuditError(f"{where}.{name}: {value!r} is not {_say(kinds[name])}")
        bound[name] = value
    return bound


def _fits(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    kinds = get_args(annotation) or (annotation,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or (isinstance(value, int) and float in kinds)


def _say(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    kinds = get_args(annotation) or (annotation,)
    return " or ".join(words.get(kind, "null") for kind in kinds)
