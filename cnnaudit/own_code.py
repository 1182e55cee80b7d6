"""The door through which a user's own code enters: it opens only from the command line.

A config may come from somebody else; that it names code must not be enough for the code to run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnaudit.store import digest_file
from cnnaudit.types import ANY_ERROR, AuditError

_PACKAGE = Path(__file__).parent
_INSTALLED = "site-packages"

KEY = "allow_code"
GIVEN = f"{KEY}=true"
ADDRESS = "executor.address"
_HERE = "auto"  # the cluster of this machine, which its user has started


def given(overrides: Iterable[str]) -> bool:
    """Say whether the command line itself, in its last word on it, allows code to run."""
    values = _said(overrides, KEY)
    return bool(values) and values[-1].lower() == "true"


def _said(overrides: Iterable[str], key: str) -> list[str]:
    """Return what the command line sets a key to, each time that it does."""
    pairs = [text.lstrip("+").partition("=") for text in overrides]
    return [value for name, _, value in pairs if name == key]


def open_door(composed: bool, overrides: Iterable[str]) -> bool:
    """Return whether code may run, and then let modules be found where the command runs.

    Raises AuditError if a config file tries to open the door.
    """
    allowed = given(overrides)
    if composed and not allowed:
        raise AuditError(
            f"{KEY}: true counts only when it is given on the command line, as {GIVEN}; "
            "a config file cannot allow code to run"
        )
    here = str(Path.cwd())
    if composed and here not in sys.path:
        sys.path.insert(0, here)  # as `python` has it and a console script has not
    return composed


def check_open(allowed: bool, where: str, named: str) -> None:
    """Refuse code that a config names unless it is allowed to run."""
    if not allowed:
        raise AuditError(
            f"{where}: {named} is code of your own, which runs only with {GIVEN} "
            "on the command line"
        )


def check_cluster(address: str | None, overrides: Iterable[str]) -> None:
    """Refuse a cluster that only a config names: who runs it can send code back that runs here."""
    if address not in (None, _HERE) and not _said(overrides, ADDRESS):
        raise AuditError(
            f"{ADDRESS}: {address!r} stands in a config file; code of that cluster would run here, "
            f"so name it on the command line, {ADDRESS}={address}"
        )


def import_plugins(names: Iterable[str], allowed: bool) -> None:
    """Import modules that register techniques and metrics of a user's own."""
    for name in names:
        check_open(allowed, "plugins", name)
        import_own(name, "plugins")


def import_own(name: str, where: str) -> ModuleType:
    """Import a user's module; raise AuditError for whatever goes wrong in it."""
    try:
        return import_module(name)
    except ANY_ERROR as error:  # somebody's module may raise anything
        raise AuditError(
            f"{where}: {name} cannot be imported ({type(error).__name__}: {error})"
        ) from error


def sources(name: str) -> list[Path]:
    """Return the file of an imported module, and of all it imports from where it was found.

    What is installed beside it is not followed, nor is cnnaudit itself. Files are found where they
    lie: which of them are loaded may change, as some are only when a function is called.
    """
    named = getattr(sys.modules.get(name), "__file__", None)
    if named is None or Path(named).is_relative_to(_PACKAGE):
        return []
    own = Path(named)
    of_package = own.name == "__init__.py"
    start = own.parents[name.count(".") + of_package]  # where its outermost package lies
    package = own.parents[max(0, name.count(".") - (not of_package))]
    folder = package if start.name == _INSTALLED else start
    found: dict[str, Path] = {}
    pending = [name]
    while pending:
        each = pending.pop()
        file = own if each == name else _file(each, start)
        if each not in found and file is not None and (file == own or _belongs(file, folder)):
            found[each] = file
            pending += _imports(each, file)
    return sorted(set(found.values()))


@cache  # as they were when first asked: what is imported stays, though its file may change
def source_digests(function: Callable[..., Any], named: str = "") -> tuple[str, ...]:
    """Return the digests of the sources of a user's own function, and of the module that has it."""
    return tuple(map(digest_file, sorted({*sources(function.__module__), *sources(named)})))


def _file(name: str, start: Path) -> Path | None:
    """Return the file of a module that lies below a folder, imported or not."""
    spec = PathFinder.find_spec(name, [str(start.joinpath(*name.split(".")[:-1]))])
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _belongs(file: Path, folder: Path) -> bool:
    """Say whether a file lies in a folder of a user's own, and is not installed there."""
    if folder.name == _INSTALLED or file.is_relative_to(_PACKAGE):
        return False
    return file.is_relative_to(folder) and _INSTALLED not in file.relative_to(folder).parts


def _imports(name: str, file: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it, and the packages they are in."""
    if file.suffix != ".py":
        return set()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # it leads out of the package, and so would fail
                start = resolve_name("." * node.level + (node.module or ""), package)
                found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    split = [each.split(".") for each in found]
    return {".".join(parts[: n + 1]) for parts in split for n in range(len(parts))}
