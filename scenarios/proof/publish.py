"""Write what was found: tables as CSV, figures as SVG, and a page of Markdown that shows both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from scenarios.proof import figures, tables
from scenarios.proof.evidence import ALIKE, CROSSED
from scenarios.proof.plan import HERE, Proof
from scenarios.proof.tables import BETWEEN, CLEAN, FAULTY, Records

MAIN = "weather"  # the arm by which techniques are set side by side
WEAKER = "weather_90"  # and one that few of them see
PANELS = ((MAIN, CROSSED), (MAIN, ALIKE), (WEAKER, CROSSED))
MASS = "mass_in_mask"  # and the metric
INSENSITIVE = (
    0.5  # rank correlation with itself under random weights: conf/sanity/randomisation.yaml
)
DETECTED, FALSE_ALARMS = 0.95, 0.05  # what is aimed at

Line = Mapping[str, Any]


def publish(proof: Proof, records: Records, robot: pd.DataFrame) -> Path:
    """Write the report of the proof into its folder; return the page."""
    write_tables(proof, records, robot)
    return write_page(proof)


def write_tables(proof: Proof, records: Records, robot: pd.DataFrame) -> None:
    """Write what was found as the tables that the page is made of."""
    found = {
        "networks": tables.networks_table(records),
        "evidence": tables.evidence_table(records),
        "techniques": tables.techniques_table(records),
        "areas": tables.areas_table(records),
        "strengths": tables.strengths_table(records, proof),
        "randomisation": tables.randomisation_table(records),
        "robot": robot,
    }
    proof.report.mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        table.to_csv(proof.report / f"{name}.csv", index=False, float_format="%.6g")


def write_page(proof: Proof) -> Path:
    """Write the figures and the page from the tables in the report's folder; return the page."""
    found = {path.stem: _read(path) for path in proof.report.glob("*.csv")}
    figures.draw_strengths(found["strengths"], proof.report / "strengths.svg")
    figures.draw_areas(
        found["areas"], list(found["randomisation"].technique), PANELS, proof.report / "areas.svg"
    )
    page = proof.report / "README.md"
    page.write_text(_page(proof, found), encoding="utf-8")
    return page


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).fillna({"technique": ""})  # behaviour has none


def _page(proof: Proof, found: Mapping[str, pd.DataFrame]) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=False,  # noqa: S701  it is Markdown, of our own words and numbers
    )
    kinds = list(proof.evidence)
    text = environment.get_template("page.md.j2").render(
        proof=proof,
        aims={"detected": DETECTED, "false_alarms": FALSE_ALARMS, "insensitive": INSENSITIVE},
        networks=_networks(found["networks"]),
        evidence=_evidence(found["evidence"], kinds),
        graded=_graded(found),
        techniques=_techniques(found),
        robot=_robot(found["robot"]),
        shortfalls=_shortfalls(found["evidence"]),
    )
    return text.rstrip() + "\n"


def _networks(table: pd.DataFrame) -> str:
    lines = []
    for arm, part in table.groupby("arm", sort=False):
        labels = [(part.label == label).sum() for label in (CLEAN, BETWEEN, FAULTY)]
        spans = [_span(part[name]) for name in ("matched", "conflicting")]
        lines.append([f"`{arm}`", len(part), *spans, *labels])
    accuracies = ["accuracy, cue and tank agree", "they conflict"]
    return _markdown(["arm", "networks", *accuracies, CLEAN, BETWEEN, FAULTY], lines)


def _evidence(table: pd.DataFrame, kinds: Sequence[str]) -> str:
    """Return the rates of FAIL among the clean networks, and among each arm's faulty ones."""
    lines = []
    for arm, label, part in _arms(table):
        what = "clean (a FAIL is a false alarm)" if label == CLEAN else f"`{arm}`"
        by_kind = part.set_index("evidence")
        lines.append([what, *(_rate(by_kind.loc[kind]) for kind in kinds)])
    return _markdown(["networks", *kinds], lines)


def _graded(found: Mapping[str, pd.DataFrame]) -> str:
    """Return what the audit says of the networks that learnt the weather to some degree."""
    strengths = found["strengths"]
    graded = strengths[["arm", "strength"]].drop_duplicates()
    networks = found["networks"].merge(graded, on="arm")
    lines = []
    for strength, part in networks.groupby("strength"):
        verdicts = part["default checks"]
        counts = [int((verdicts == verdict).sum()) for verdict in ("FAIL", "PASS")]
        counts.insert(1, len(part) - sum(counts))
        of = strengths[strengths.strength == strength]
        gap = -of[of.metric == "weather_difference"].score
        lines.append([strength, len(part), _span(part.conflicting), _span(gap), *counts])
    head = ["strength", "networks", "accuracy where they conflict", "largest effect of the weather"]
    return _markdown([*head, "FAIL", "undecided", "PASS"], lines)


def _techniques(found: Mapping[str, pd.DataFrame]) -> str:
    """Return the techniques, the best first, with how often each alone is right."""
    rates, areas = found["techniques"], found["areas"]
    random = dict(found["randomisation"][["technique", "correlation"]].itertuples(index=False))
    areas = areas[areas.metric == MASS]
    of = {(line.technique, line.pictures, line.arm): line for line in areas.itertuples()}
    names = dict.fromkeys(rates.technique)
    lines = []
    for name in sorted(names, key=lambda name: -of[name, CROSSED, MAIN].area):
        mine = rates[rates.technique == name]
        shown = [
            _rate(_one(mine, arm, pictures))
            for pictures in (CROSSED, ALIKE)
            for arm in (MAIN, CLEAN)
        ]
        apart = [_area(of.get((name, CROSSED, arm))) for arm in (MAIN, WEAKER)]
        correlation = random.get(name)
        if correlation is None:
            about = "sees no network"
        else:
            about = _share(correlation) + (
                ", **not about it**" if correlation >= INSENSITIVE else ""
            )
        lines.append([f"`{name}`", *shown, *apart, about])
    head = ["technique", "crossed: found", "false alarms", "alike: found", "false alarms"]
    return _markdown([*head, "ROC area", f"of `{WEAKER}`", "random weights"], lines)


def _robot(table: pd.DataFrame) -> str:
    checks = [name for name in table if name not in ("arm", "label", "matched", "conflicting")]
    lines = [
        [f"`{line.arm}`", _share(line.matched), _share(line.conflicting), line.label]
        + [getattr(line, name) for name in checks]
        for line in table.itertuples()
    ]
    accuracies = ["right, cue and obstacle agree", "they do not"]
    return _markdown(["network", *accuracies, "it is", *(f"`{name}`" for name in checks)], lines)


def _shortfalls(table: pd.DataFrame) -> list[str]:
    """Say of each kind of evidence what it misses, and where it cries wolf."""
    said = []
    for arm, label, part in _arms(table):
        for line in part.itertuples():
            if label == FAULTY and line.rate < DETECTED:
                said.append(f"{line.evidence} finds {line.fail} of {line.networks} of `{arm}`")
            if label == CLEAN and line.rate > FALSE_ALARMS:
                said.append(f"{line.evidence} fails {line.fail} of {line.networks} clean networks")
    return said


def _arms(table: pd.DataFrame) -> Iterable[tuple[str, str, pd.DataFrame]]:
    """Return the lines of the clean arm's clean networks, and of each arm's faulty ones."""
    for (arm, label), part in table.groupby(["arm", "label"], sort=False):
        if (arm == CLEAN and label == CLEAN) or (arm != CLEAN and label == FAULTY):
            yield str(arm), str(label), part


def _one(table: pd.DataFrame, arm: str, pictures: str) -> Line:
    label = CLEAN if arm == CLEAN else FAULTY
    chosen = table[(table.arm == arm) & (table.label == label) & (table.pictures == pictures)]
    return dict(chosen.iloc[0])


def _rate(line: Line) -> str:
    return f"{line['fail']}/{line['networks']} ({_share(line['low'])}–{_share(line['high'])})"


def _area(line: Any) -> str:
    if line is None:
        return "–"
    return f"{_share(line.area)} ({_share(line.low)}–{_share(line.high)})"


def _share(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _span(values: pd.Series) -> str:
    return f"{values.mean():.2f} ({values.min():.2f}–{values.max():.2f})"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
