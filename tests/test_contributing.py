"""The two recipes of CONTRIBUTING.md, followed to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnaudit.audit import prepare
from cnnaudit.config import load_specs
from cnnaudit.execute import execute, make_reader
from cnnaudit.metrics import OVERLAP
from cnnaudit.models import build_model
from cnnaudit.rows import collect_rows
from cnnaudit.techniques import TECHNIQUES
from tests.processes import loads

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def _block(language: str, kind: str) -> str:
    found = re.search(rf"```{language} {kind}\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"CONTRIBUTING.md has no {language} block for a {kind}"
    return found[1]


@pytest.mark.parametrize(("kind", "registry"), [("technique", TECHNIQUES), ("metric", OVERLAP)])
def test_a_recipe_gives_numbers(
    kind: str,
    registry: dict[str, object],
    overrides: list[str],
    tmp_path: Path,
) -> None:
    assert not loads({"torch"}, f"exec({_block('python', kind)!r})")
    before = set(registry)
    config = tmp_path / "conf" / kind
    config.mkdir(parents=True)
    try:
        exec(compile(_block("python", kind), "CONTRIBUTING.md", "exec"), {"__name__": "recipe"})
        (name,) = set(registry) - before
        (config / f"{name}.yaml").write_text(_block("yaml", kind))
        ready = prepare(load_specs([*overrides, f"{kind}=[{name}]"], tmp_path / "conf"))
        (unit,) = ready.plan.units
        model = build_model(unit.model, 0)
        (_,) = execute(
            [unit],
            model,
            ready.audit.metrics,
            ready.store,
            reader=make_reader(unit.model, ready.audit.metrics, 8, 0),
            batch_size=8,
        )
        rows = collect_rows(ready.plan.cells, ready.store)
    finally:
        for name in set(registry) - before:
            del registry[name]
    scored = rows[(rows[kind] == name) & (rows.region == "mask") & (rows.presence == "obstacle")]
    assert len(scored)
    assert set(scored.status) == {"ok"}
    assert scored.value.between(0, 1).all()
