"""A run directory → the audit that it is of, composed again from what it keeps of its config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnaudit.audit import Invocation
from cnnaudit.config import stored_specs
from cnnaudit.specs import AuditSpec
from cnnaudit.store import check_no_link
from cnnaudit.types import AuditError

CONFIG_FILE = "config.yaml"
SHARDS = "shards"  # the folder of a run directory that shards write into, a file each


def stored_audit(
    run_dir: Path, overrides: Sequence[str] = (), by: str = "reproduce"
) -> tuple[AuditSpec, Invocation]:
    """Return the audit of a run directory, keys of it set anew, and how it was called.

    `by` is the command that asks for it. Code of a user's own is allowed by these `overrides`
    alone, never by what a file says. Raises AuditError if it is no run directory, or if what its
    config names is no longer there.
    """
    check_no_link(run_dir)
    try:
        text = (run_dir / CONFIG_FILE).read_text(encoding="utf-8")
        before = _call_of(run_dir)
        command, recorded = str(before["command"]), [str(text) for text in before["overrides"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AuditError(
            f"{run_dir} is no run directory: it has no {CONFIG_FILE} with a manifest.json or shards"
        ) from error
    audit, config = stored_specs(
        text, overrides, shlex.join(["cnnaudit", by, str(run_dir), *overrides])
    )
    return audit, Invocation(command, [*recorded, *overrides], config)


def _call_of(run_dir: Path) -> Any:
    """Return what a run's manifest, or any of its shards, says about how it was called."""
    shards = sorted((run_dir / SHARDS).glob("*.json"))
    files = [*(path for path in (run_dir / "manifest.json",) if path.exists()), *shards]
    return json.loads(files[0].read_bytes()) if files else {}
