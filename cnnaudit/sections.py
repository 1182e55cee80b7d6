"""Reading a config key by key, and binding parameters: every mistake is said with its key."""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from getopt import GetoptError, gnu_getopt
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from cnnaudit.types import ANY_ERROR, AuditError

_MISSING: Any = object()


@dataclass(frozen=True)
class Within:
    """The range of a number, both ends in it unless `above` says that the lower one is not."""

    low: float
    high: float
    says: str
    above: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high


_ANY = float("inf")
MOST_SEED = 2**63 - 1  # that torch takes
# What the parameters of techniques and metrics are, beside their types.
Count = Annotated[int, Within(1, _ANY, "a whole number, at least 1")]
Seed = Annotated[int, Within(0, MOST_SEED, "a whole number, at least 0")]
Share = Annotated[float, Within(0, 1, "a share, above 0 and at most 1", above=True)]
Probability = Share
NotNegative = Annotated[float, Within(0, _ANY, "a number, at least 0")]
Positive = Annotated[float, Within(0, _ANY, "a number above 0", above=True)]


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
        allowed = tuple(allowed)
        if default is _MISSING and name not in self.values:
            raise AuditError(f"{self.key(name)} is missing. Allowed: {', '.join(allowed)}")
        value = self.take(name, default)
        if value not in allowed:
            raise AuditError(f"{self.key(name)}: {unknown(str(value), allowed)}")
        return str(value)

    def integer(
        self, name: str, *, minimum: int, maximum: int | None = None, default: Any = _MISSING
    ) -> int:
        value = self.take(name, default)
        most = value if maximum is None else maximum
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= most:
            bound = "" if maximum is None else f", at most {maximum}"
            raise self.wrong(name, value, f"a whole number, at least {minimum}{bound}")
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
            raise self.wrong(name, value, "a list of texts (numbers, true and false in quotes)")
        return tuple(value)

    def numbers(
        self, name: str, length: int, kind: type[int] | type[float] = float
    ) -> tuple[Any, ...]:
        value = self.take(name)
        good = isinstance(value, list) and len(value) == length
        if not good or not all(isinstance(x, int | kind) and x >= 0 for x in value):
            count = "1 number, not" if length == 1 else f"{length} numbers, none"
            raise self.wrong(name, value, f"a list of {count} below 0")
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


def check_no_alias(text: str, where: str) -> None:
    """Refuse a stored config with aliases, of which a few lines can stand for billions of values.

    None is written with one. Raises YAMLError for what is no YAML.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise AuditError(f"{where} has an alias (*name), which no run writes; it was altered since")


def unknown(got: str, allowed: Iterable[str], kind: str = "value") -> str:
    """Return what is wrong with a name: what it was, the near miss, what is allowed."""
    allowed = tuple(allowed)
    listed = ", ".join(allowed) or "none"
    return f"{got!r} is no allowed {kind}.{near_miss(got, allowed)} Allowed: {listed}"


def near_miss(got: str, allowed: Iterable[str]) -> str:
    """Return the question whether the name nearest to a wrong one was meant, if one is near."""
    near = difflib.get_close_matches(got, tuple(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def read_options(
    command: str,
    rest: Sequence[str],
    takes: Mapping[str, bool],
    *,
    several: Container[str] = (),
    hint: str = "",
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of each option, and every other argument; AuditError if they are off.

    `takes` says of each option whether it has a value, `several` which may be given again; "help"
    is always one. What is said of an unknown one ends with the `hint`.
    """
    takes = {**takes, "help": False}
    try:
        pairs, words = gnu_getopt(list(rest), "h", [n + "=" * value for n, value in takes.items()])
    except GetoptError as error:
        if error.opt in takes:
            raise AuditError(f"{command}: {error}") from error
        given = (text for text in rest if text.lstrip("-").startswith(error.opt))
        name = next(given, f"-{error.opt}").partition("=")[0]  # of -hx it is the x
        said = unknown(name, [f"--{one}" for one in takes], "option")
        raise AuditError(f"{command}: {said}{hint}") from error
    options: dict[str, list[str]] = {}
    for option, value in pairs:
        options.setdefault("help" if option == "-h" else option[2:], []).append(value)
    for name, values in options.items():
        if len(values) > 1 and name not in several:
            raise AuditError(f"{command}: --{name} is given twice")
    return options, words


def bind(function: Callable[..., Any], parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Bind a config's parameters to a function's keyword-only ones, defaults filled in.

    Raises AuditError for a name that the function lacks, a value of another type, or one missing.
    """
    accepted = parameters_of(function)
    for name in parameters:
        if name not in accepted:
            said = unknown(name, accepted, "parameter")
            if name in inspect.signature(function).parameters:
                said += f"; of {function.__name__} it must stand after a * to be one"
            raise AuditError(f"{where}.{name}: {said}")
    kinds = _types(function, where)
    bound = {}
    for name, parameter in accepted.items():
        value = parameters.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            raise AuditError(f"{where}.{name} is missing")
        if name not in kinds:
            raise AuditError(
                f"{where}: the parameter {name!r} of {function.__name__} has no annotation; its "
                f"code must say of which type it is, as in {name}: float"
            )
        check_value(value, kinds[name], f"{where}.{name}")
        bound[name] = value
    return bound


def check_value(value: Any, kind: Any, where: str) -> None:
    """Raise AuditError for a value that is not of an annotated type."""
    if not _fits(value, kind):
        raise AuditError(f"{where}: {value!r} is not {_say(kind)}")


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a function's keyword-only parameters, those that a config may set."""
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _types(function: Callable[..., Any], where: str) -> dict[str, Any]:
    """Return the types of what a config may set; of the others torch would be imported."""
    accepted = parameters_of(function).items()
    said = {name: p.annotation for name, p in accepted if p.annotation is not p.empty}
    known = inspect.unwrap(function).__globals__
    try:
        return get_type_hints(types.SimpleNamespace(__annotations__=said), known, None, True)
    except ANY_ERROR as error:  # somebody's annotation may be anything
        raise AuditError(
            f"{where}: the annotations of {function.__name__} cannot be read "
            f"({type(error).__name__}: {error})"
        ) from error


def _fits(value: Any, annotation: Any) -> bool:
    """Say whether a value that YAML can hold is of an annotated type."""
    kind, parts = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Any:
        return True
    if kind is Annotated:
        return _fits(value, parts[0]) and all(part.holds(value) for part in parts[1:])
    if kind is Literal:
        return value in parts
    if kind in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is list and parts:
        return isinstance(value, list) and all(_fits(one, *parts) for one in value)
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, float) and not math.isfinite(value):
        return False  # no key of the store can hold it, and no metric or technique means it
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
_WORDS |= {dict: "a set of keys", list: "a list", type(None): "null"}


def _say(annotation: Any) -> str:
    kind, parts = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Annotated:
        return str(parts[1].says)
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind in (Union, types.UnionType):
        return " or ".join(map(_say, parts))
    if kind is list and parts:
        return f"a list, each {_say(parts[0])}"
    return _WORDS.get(kind, f"of the type {kind.__name__}")
