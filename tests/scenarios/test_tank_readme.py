"""What the README says of the committed networks is what their cards say."""

from __future__ import annotations

import json

import pytest

from scenarios.tank.train import HERE


@pytest.mark.parametrize("name", ["confounded", "clean"])
def test_the_accuracies_are_those_of_the_card(name: str) -> None:
    accuracy = json.loads((HERE / name / "card.json").read_text())["test"]["accuracy"]
    figures = " | ".join(f"{accuracy[k]:.3f}" for k in ("matched", "conflicting", "crossed"))
    lines = (HERE.parent / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{name}`")]
    assert line.endswith(f"| {figures} |")
