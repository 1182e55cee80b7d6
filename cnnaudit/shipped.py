"""Where the files that come with cnnaudit lie: in the checkout, or inside the installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cnnaudit.types import AuditError

# In a config: a path among the files that come with cnnaudit, or with an installed package.
SHIPPED, PACKAGE = "shipped:", "package:"

_EXTRAS = {"skimage": "journey"}  # packages that shipped configs name → our extra that brings them

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "_shipped"  # where the wheel puts them
ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent


def locate(relative: str) -> Path:
    """Return the absolute path of a shipped file or folder; raise AuditError if it is not there."""
    path = ROOT / relative
    if not path.exists():
        raise AuditError(f"{relative} is not among the files that come with cnnaudit ({ROOT})")
    return path


def resolve(text: str) -> Path:
    """Turn a path of a config into an absolute one: shipped, or relative to where we run."""
    if text.startswith(SHIPPED):
        return locate(text.removeprefix(SHIPPED))
    if text.startswith(PACKAGE):
        return _in_package(text.removeprefix(PACKAGE))
    return Path(text).expanduser().absolute()


def from_here(path: Path) -> str:
    """Say of a path that is not there where it began, if it may have been relative."""
    here = Path.cwd()
    return f"; relative paths begin where the command runs, {here}" * path.is_relative_to(here)


def _in_package(text: str) -> Path:
    name, _, relative = text.partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        extra = _EXTRAS.get(name)
        cure = f"; it is an extra: pip install 'cnnaudit[{extra}]'" if extra else ""
        raise AuditError(f"{PACKAGE}{text}: the package {name!r} is not installed{cure}")
    return Path(found.submodule_search_locations[0]) / relative
