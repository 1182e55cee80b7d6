"""The arrows of the design: who may import what."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import cnnaudit
from tests.processes import loads

PACKAGE = Path(cnnaudit.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "_shipped" not in p.parts)
NEUTRAL = (
    "plan",
    "execute",
    "illustrate",
    "illustrations",
    "executors",
    "store",
    "summary",
    "audit",
    "results",
)


def _imports(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_hooks_and_configs_have_one_home_each(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if path.name != "hooks.py":
        assert not re.search(r"register_\w*hook", source)
        assert "grad_fn" not in source
    if path.name not in ("config.py", "jobs.py", "untold.py"):
        assert not {name for name in _imports(path) if name.startswith(("omegaconf", "hydra"))}


@pytest.mark.parametrize(("module", "local"), [("specs", set()), ("types", {"cnnaudit.specs"})])
def test_records_import_nothing_but_what_a_config_says(module: str, local: set[str]) -> None:
    imported = {name for name in _imports(PACKAGE / f"{module}.py") if name.startswith("cnnaudit")}
    assert {name for name in imported if name.count(".") < 2} == local


@pytest.mark.parametrize("stage", NEUTRAL)
def test_stages_name_no_technique_metric_or_model(stage: str) -> None:
    from cnnaudit.metrics import BEHAVIOUR, metrics_of_heatmaps
    from cnnaudit.models import BUILDERS
    from cnnaudit.techniques import TECHNIQUES

    source = (PACKAGE / f"{stage}.py").read_text(encoding="utf-8")
    texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    assert not texts & {*TECHNIQUES, *metrics_of_heatmaps(), *BEHAVIOUR, *BUILDERS}


@pytest.mark.parametrize(
    "module",
    [
        *("cnnaudit.cli", "cnnaudit.jobs", "cnnaudit.config", "cnnaudit.plan", "cnnaudit.summary"),
        *("cnnaudit.comparing", "cnnaudit.comparing.findings", "cnnaudit.comparing.page"),
        *("cnnaudit.report", "cnnaudit.asking", "cnnaudit.starting", "cnnaudit.importing"),
    ],
)
def test_what_needs_no_torch_does_not_import_it(module: str) -> None:
    assert not loads({"torch"}, f"import {module}")


def test_a_report_of_one_run_knows_nothing_of_comparisons() -> None:
    for path in sorted((PACKAGE / "report").rglob("*.py")):
        assert not {name for name in _imports(path) if name.startswith("cnnaudit.comparing")}


def test_nothing_is_called_utils() -> None:
    names = {part for path in MODULES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "helpers", "base", "manager", "common", "misc"}
