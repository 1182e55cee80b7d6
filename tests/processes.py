"""Python and the command line in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Process = subprocess.CompletedProcess[str]
RUN = Path(__file__).parent.parent / "run.py"
_WIDE = {"COLUMNS": "200"}  # or what is printed would be broken into lines


def python(*arguments: str, cwd: Path, environment: Mapping[str, str] = _WIDE) -> Process:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


def command(*arguments: str, cwd: Path) -> Process:
    """Run ``cnnaudit`` with these arguments."""
    return python("-c", "from cnnaudit.cli import main; main()", *arguments, cwd=cwd)


def loads(modules: set[str], code: str) -> bool:
    """Say whether code imports any of some modules, or fails."""
    code = f"import sys\n{code}\nsys.exit(bool({modules} & {{*sys.modules}}))"
    return python("-c", code, cwd=RUN.parent).returncode != 0
