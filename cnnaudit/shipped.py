"""Where the files that come with cnnaudit lie: in the checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from cnnaudit.types import AuditError

PREFIX = "shipped:"  # in a config: a path among the files that come with cnnaudit

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
    if text.startswith(PREFIX):
        return locate(text.removeprefix(PREFIX))
    return Path(text).expanduser().absolute()
