"""What a stranger needs to repeat an audit: code, versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnaudit import shipped
from cnnaudit.types import Device


def packages() -> dict[str, str]:
    """Return the version of this package and of each one that it requires."""
    required = importlib.metadata.requires("cnnaudit") or []
    names = [
        "cnnaudit",
        *(re.split(r"[^\w.-]", text)[0] for text in required if "extra" not in text),
    ]
    versions = {"python": platform.python_version()}
    for name in names:
        versions[name] = importlib.metadata.version(name)
    return versions


def git_state() -> dict[str, Any]:
    """Return the commit that a checkout stands at and whether it was changed, or None for both."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain")
    return {"commit": commit, "dirty": None if commit is None else bool(status)}


def hardware(devices: Collection[Device]) -> dict[str, Any]:
    """Return what the audit ran on; no device where nothing had to be computed."""
    found = [{device for device, _ in devices}, {gpu for _, gpu in devices if gpu}]
    device, gpu = (", ".join(sorted(names)) or None for names in found)
    return {
        "device": device,
        "gpu": gpu,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def differences(
    before: Any, after: Any, absent: Any = None, path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what parts two trees of facts: its path, what it was, and what it is."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            was, now = before.get(key, absent), after.get(key, absent)
            yield from differences(was, now, absent, f"{path}.{key}".lstrip("."))
    elif before != after:
        yield path, before, after


def _git(*arguments: str) -> str | None:
    # Of the checkout that the package runs from; an installed wheel has none.
    if not (shipped.ROOT / ".git").exists():
        return None
    try:
        ran = subprocess.run(
            ["git", "-C", str(shipped.ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()
