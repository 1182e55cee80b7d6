"""What is known of a model comes from the store, as it was inspected, and without torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cnnaudit import facts as stored
from cnnaudit.config import load_specs
from cnnaudit.facts import facts_of
from cnnaudit.models import inspect_model, resolve_model
from cnnaudit.specs import AuditSpec, OutputAxis
from cnnaudit.store import Store
from cnnaudit.types import AuditError
from tests.processes import python


@pytest.fixture
def audit(overrides: list[str]) -> AuditSpec:
    audit = load_specs(overrides)
    return replace(audit, models=tuple(map(resolve_model, audit.models)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "facts")


def test_facts_read_back_are_those_of_the_inspection(
    audit: AuditSpec, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec,) = audit.models
    inspected = inspect_model(spec, audit.seed)
    assert facts_of(audit, spec, store) == inspected
    monkeypatch.setattr(stored, "inspect_model", None)
    assert facts_of(audit, spec, store) == inspected


def test_another_declaration_of_the_same_network_is_inspected_again(
    audit: AuditSpec, store: Store
) -> None:
    (spec,) = audit.models
    known = facts_of(audit, spec, store)
    mapped = replace(spec, roles={"last_conv": "encoder.0"})
    assert facts_of(audit, mapped, store) == replace(known, roles={**known.roles, **mapped.roles})
    axes = (OutputAxis("class", ("one", "other")),)
    with pytest.raises(AuditError, match="makes 2 outputs"):
        facts_of(audit, replace(spec, outputs=axes), store)


def test_another_task_of_the_same_network_is_inspected_again(
    audit: AuditSpec, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every task is one of every network: a classification has more than one score."""
    (spec,) = audit.models
    facts_of(audit, spec, store)
    tasks = []
    inspect = stored.inspect_model
    monkeypatch.setattr(
        stored, "inspect_model", lambda one, seed: tasks.append(one.task) or inspect(one, seed)
    )
    for task in ("regression", spec.task, "regression"):
        facts_of(audit, replace(spec, task=task), store)
    assert tasks == ["regression"]


@pytest.mark.parametrize("sanity", ["sanity=[]", "sanity=[randomisation]"])
def test_a_run_that_finds_everything_in_the_store_does_not_load_torch(
    overrides: list[str], tmp_path: Path, sanity: str
) -> None:
    code = """
import sys
from cnnaudit.cli import main
try:
    main(["run"])
except SystemExit as end:
    print("torch" in sys.modules, file=sys.stderr)
    sys.exit(end.code)
"""
    more = ["metric=[mass_in_mask]", "agreement=[techniques]", "sanity.randomisation.items=2"]
    arguments = (*overrides, sanity, *(more if "random" in sanity else ()))
    said = []
    for _ in range(2):
        ran = python("-c", code, *arguments, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        said.append(ran.stderr.split()[-1])
    assert said == ["True", "False"]
    manifests = sorted(tmp_path.rglob("manifest.json"), key=lambda path: path.stat().st_mtime)
    first, second = (json.loads(path.read_text())["hardware"] for path in manifests)
    assert first["device"] == "cpu"
    assert second["device"] is None
