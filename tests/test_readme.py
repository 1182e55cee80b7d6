"""What the README says was found is what the committed example found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "scenarios/README.md",
    "reports/proof/README.md",
    "tests/benchmarks/README.md",
]
EXAMPLE = ROOT / "reports/example"
LIGHTS = {
    "overhead light": "overhead",
    "against the light": "backlight",
    "hard light from the left": "left",
    "soft light from the left": "soft_left",
}


def _contrasts(model: str = "perception", contrast: str = "colour") -> pd.DataFrame:
    numbers = ["difference", "low", "high", "first", "second", "dead_first"]
    table = pd.read_csv(EXAMPLE / "contrasts.csv", keep_default_na=False)
    table = table[(table.contrast == contrast) & (table.model == model) & (table.net_of == "")]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    return table.set_index(["metric", "technique", "within"])


def _said(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def test_the_table_is_the_examples() -> None:
    found = _contrasts()
    for words, light in LIGHTS.items():
        row = found.loc["true_cell_probability", "", light]
        difference = f"{_said(row.difference)} [{_said(row.low)}, {_said(row.high)}]"
        line = f"| {words} | {_said(row['first'])} | {_said(row['second'])} | {difference} |"
        assert line in README


def test_the_table_of_the_repair_is_the_examples() -> None:
    after = _contrasts("perception_mixed")
    alarms = [_contrasts(model, "shadow") for model in ("perception", "perception_mixed")]
    for words, light in LIGHTS.items():
        row = after.loc["true_cell_probability", "", light]
        shadow = [found.loc["strongest_false_alarm", "", light]["first"] for found in alarms]
        cells = [words, *map(_said, (row["first"], row["second"], *shadow))]
        assert f"| {' | '.join(cells)} |" in README
    card = json.loads((ROOT / "scenarios/robot/mixed/card.json").read_text())
    assert f"(AUC {card['held_out']['auc']:.3f} after" in README


def test_the_sentences_are_the_examples() -> None:
    found = _contrasts()
    hires = found.loc["mass_in_mask", "hires_cam", "overhead"]
    less = f"{-hires.difference:.2f} [{-hires.high:.2f}, {-hires.low:.2f}] less"
    assert less in README
    dead = float(found.loc["mass_in_mask", "grad_cam", "overhead"].dead_first)
    assert f"{dead:.0%}".replace("%", " %") in README
    card = json.loads((ROOT / "scenarios/robot/card.json").read_text())
    assert f"AUC {card['held_out']['auc']:.3f}" in README


def test_the_example_is_one_audit() -> None:
    summary = json.loads((EXAMPLE / "summary.json").read_text())
    assert (summary["status"], summary["verdict"]) == ("COMPLETE", "FAIL")
    page = (EXAMPLE / "report.html").read_text(encoding="utf-8")
    assert "FAIL" in page.partition("</title>")[0]


def _anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    text = here.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        there = here.parent / path if path else here
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there.read_text(encoding="utf-8")), target
