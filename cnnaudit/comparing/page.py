"""The report of two runs: what changed, verdicts and tiles side by side, and what else differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cnnaudit import figures
from cnnaudit.comparing import Comparison
from cnnaudit.comparing.changes import (
    BETTER,
    CHANGED,
    NOT_MEASURED,
    SAME,
    WORSE,
    counts,
    is_exactly_equal,
    records_of,
    why_not_measured,
)
from cnnaudit.comparing.findings import MIXED, Change
from cnnaudit.comparing.forests import KINDS, Outcome, anchors_of, effects_of, parts_of
from cnnaudit.comparing.judged import badge_of, checks_of
from cnnaudit.comparing.side_by_side import tiles_of_both
from cnnaudit.report.cells import NO_LEVEL, plural
from cnnaudit.report.contrasts import primary_metrics
from cnnaudit.report.findings import Finding, figured
from cnnaudit.report.page import asset, date_text, policy, templates
from cnnaudit.report.prediction import inline
from cnnaudit.report.run import Run
from cnnaudit.store import write_atomically, write_json
from cnnaudit.summary import to_csv
from cnnaudit.types import AuditError

SCHEMA = 1  # of comparison.json
MOST_FINDINGS = 20  # at the head of the page
_NEWS = {WORSE: 0, MIXED: 0, BETTER: 1, CHANGED: 2, SAME: 3}  # in what order they are told
MOST_LONG = 300  # characters of a value that differs


@dataclass(frozen=True)
class Overview:
    """One line of what got better and worse."""

    image_set: str
    what: str
    outcome: Outcome
    counts: tuple[str, ...]  # one per column
    evidence: str


def write_comparison(
    found: Comparison, findings: Sequence[Change], page: Path
) -> tuple[Path, Path, Path]:
    """Write the page, and the table and the sentences beside it; return the three paths."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AuditError(f"--output: cannot make {page.parent} ({error.strerror})") from error
    table, sentences = page.with_suffix(".csv"), page.with_suffix(".json")
    write_atomically(page, render(found, findings).encode("utf-8", "backslashreplace"))
    write_atomically(table, to_csv(_table(found)))
    write_json(sentences, _told(found, findings))
    return page, table, sentences


def told(found: Comparison, findings: Sequence[Change]) -> list[str]:
    """Say in lines of text what the head of the page says."""
    verdicts = [
        f"verdict{f' of {label}' if len(found.verdicts) > 1 else ''}: "
        f"{before or NO_LEVEL} → {after or NO_LEVEL}"
        for label, (before, after) in found.verdicts.items()
        if before or after
    ]
    return [
        *(f"INCOMPLETE: in {which} something could not be computed" for which in found.incomplete),
        *(f"NOT COMPARABLE: {one.says}" for one in found.mismatches),
        *(one.text for one in _primary(found, findings)),
        *_unmeasured(found).values(),
        _counted(found),
        *(f"not compared: {one}" for one in found.left_out),
        *verdicts,
    ]


def render(found: Comparison, findings: Sequence[Change]) -> str:
    """Return the page of a comparison; the same runs always give the same text."""
    return templates().get_template("comparison.html.j2").render(_page(found, findings))


def _page(found: Comparison, findings: Sequence[Change]) -> dict[str, Any]:
    style = asset("report.css")
    anchors = anchors_of(found)
    known = [one for one in findings if one.outcome != NOT_MEASURED]
    return {
        "policy": policy(style),
        "style": style,
        "name": found.after.manifest["name"],
        "runs": tuple(run.folder.resolve().name for run in (found.before, found.after)),
        "incomplete": found.incomplete,
        "alarms": [one.says for one in found.mismatches],
        "verdicts": [
            (
                pair.label if len(found.models) > 1 or pair.before != pair.after else "",
                *map(badge_of, found.verdicts[pair.label]),
            )
            for pair in found.models
        ],
        "counted": _counted(found),
        "binary": found.after.binary_titles(records_of(found.changes)),
        "findings": _findings(found, findings, anchors),
        "facts": _facts(found),
        "left_out": found.left_out,
        "overview": _overview(found, known, anchors),
        "unmeasured": _overview(found, (one for one in findings if one not in known), anchors),
        "columns": _COUNTED,
        "parts": parts_of(found),
        "checks": checks_of(found),
        "contrasts": effects_of(found),
        "pictures": tiles_of_both(found),
        "scale": inline(figures.colour_bar(figures.ALPHA), "", None),
        "environment": [_differing(one) for one in found.environment],
        "config": [_differing(one) for one in found.config],
        "commands": [
            ("before", str(found.before.manifest["command"])),
            ("after", str(found.after.manifest["command"])),
        ],
    }


# --- the head ------------------------------------------------------------------------------------


def _counted(found: Comparison) -> str:
    """Say how many differences came out how, and why some were not measured."""
    if found.changes.empty:
        return "There is no difference: no image has what is measured, such as a mask or a truth."
    why = why_not_measured(found.changes, found.after.unit)
    counted, every = counts(found.changes["outcome"]), plural(len(found.changes), "difference")
    if counted.keys() == {NOT_MEASURED}:
        return f"None of {every} could be measured ({why})."
    equal = is_exactly_equal(found.changes)
    if equal and NOT_MEASURED not in counted:
        return f"All {every} are exactly 0."
    said = {
        BETTER: "better",
        WORSE: "worse",
        CHANGED: "changed, in what is neither better nor worse",
        SAME: "exactly 0" if equal else "show no change",
        NOT_MEASURED: f"could not be measured ({why})",
    }
    parts = [f"{count:,} {said[name]}" for name, count in counted.items()]
    return f"Of {every}: {'; '.join(parts)}."


def _findings(
    found: Comparison, findings: Sequence[Change], anchors: Mapping[tuple[str, ...], str]
) -> list[Finding]:
    """Return the sentences of the primary metrics, what was not measured in one for all."""
    shown = []
    for one in _primary(found, findings):
        clause, _, rest = one.text.partition("; ")
        anchor = anchors.get((one.image_set, one.metric, one.region), "")
        shown.append(Finding(figured(clause), figured(rest), anchor))
    for image_set, text in _unmeasured(found).items():
        shown.append(Finding(figured(text), (), _first_anchor(anchors, image_set)))
    return shown


def _unmeasured(found: Comparison) -> dict[str, str]:
    """Say of each image set on which nothing was measured why that is."""
    by_set, unit_of = found.changes.groupby("image_set", sort=False), found.after.unit
    return {
        str(name): f"On {name} nothing could be compared ({why_not_measured(own, unit_of)})."
        for name, own in by_set
        if {*own["outcome"]} == {NOT_MEASURED}
    }


def _primary(found: Comparison, findings: Sequence[Change]) -> list[Change]:
    """Return what was measured of the metrics that the audit itself speaks of, the worse first."""
    primary = primary_metrics(found.after, list(dict.fromkeys(one.metric for one in findings)))
    measured = [one for one in findings if one.metric in primary and one.outcome != NOT_MEASURED]
    return sorted(measured, key=lambda one: _NEWS[one.outcome])[:MOST_FINDINGS]


def _first_anchor(anchors: Mapping[tuple[str, ...], str], image_set: str) -> str:
    return next((anchor for key, anchor in anchors.items() if key[0] == image_set), "")


def _facts(found: Comparison) -> list[tuple[str, str]]:
    sides = (("before", found.before, 0), ("after", found.after, 1))
    facts = [
        (
            label,
            ", ".join(
                (
                    run.folder.resolve().name,
                    date_text(str(run.manifest["created"])),
                    *(_model(run, pair[place]) for pair in found.models),
                )
            ),
        )
        for label, run, place in sides
    ]
    most = found.changes.groupby("image_set", sort=False)[["paired", "items"]].max().astype(int)
    pairs = (f"{name}, {_pairs(*counted)}" for name, *counted in most.itertuples())
    return [(label, text) for label, text in (*facts, ("images", "; ".join(pairs))) if text]


def _pairs(paired: int, items: int) -> str:
    return plural(items, "pair") if paired == items else f"{paired:,} of {items:,} images paired"


def _model(run: Run, model: str) -> str:
    weights = run.about("models", model).get("weights")
    known = {None: "", "none": "untrained"}.get(weights, str(weights))
    return f"{model} ({known})" if known else model


_COUNTED = (BETTER, WORSE, CHANGED, SAME, NOT_MEASURED)


def _overview(
    found: Comparison, findings: Iterable[Change], anchors: Mapping[tuple[str, ...], str]
) -> list[Overview]:
    """Return a line for each metric of each technique."""
    several = len(found.models) > 1
    return [
        Overview(
            image_set=one.image_set,
            what=", ".join(
                filter(
                    None,
                    (
                        one.model if several else "",
                        _titled(found, one.metric, one.region),
                        found.after.title("techniques", one.technique) if one.technique else "",
                        one.target if _targets(found) > 1 else "",
                    ),
                )
            ),
            outcome=Outcome(one.outcome, KINDS.get(one.outcome, "changed")),
            counts=tuple(str(one.counts.get(name, "") or "") for name in _COUNTED),
            evidence=anchors.get((one.image_set, one.metric, one.region), ""),
        )
        for one in findings
    ]


def _targets(found: Comparison) -> int:
    return int(found.changes.loc[found.changes["technique"] != "", "target"].nunique())


def _titled(found: Comparison, metric: str, region: str) -> str:
    title = found.after.title("metrics", metric)
    regions = found.changes.loc[found.changes["metric"] == metric, "region"].nunique()
    return f"{title}, on {region}" if regions > 1 else title


# --- files ---------------------------------------------------------------------------------------


def _differing(one: tuple[str, Any, Any]) -> tuple[str, str, str]:
    path, before, after = one
    return path, _brief(before), _brief(after)


def _brief(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= MOST_LONG else f"{text[:MOST_LONG]}…"


def _table(found: Comparison) -> pd.DataFrame:
    """Return every difference, then what contrasts' effects changed by; `contrast` tells which.

    `mismatch` is why a line is not comparable; "" where it is.
    """
    tables = [one for one in (found.changes, found.effects) if len(one)] or [found.changes]
    table = pd.concat(tables, ignore_index=True).drop(columns="levels")
    about = zip(table["image_set"], table["model"], strict=True)
    return table.assign(mismatch=["; ".join(found.concerns(*one)) for one in about])


def _told(found: Comparison, findings: Iterable[Change]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        **{
            side: {
                "run": run.folder.resolve().name,
                "name": run.manifest["name"],
                "created": run.manifest["created"],
                "status": run.summary["status"],
                "verdict": run.summary["verdict"],
            }
            for side, run in (("before", found.before), ("after", found.after))
        },
        "models": [pair._asdict() for pair in found.models],
        "mismatches": [asdict(one) for one in found.mismatches],
        "left_out": list(found.left_out),
        "counts": counts(found.changes["outcome"]),
        "verdicts": [
            {"model": model, "before": before, "after": after}
            for model, (before, after) in found.verdicts.items()
        ],
        "checks": [
            {"check": one.check, "model": one.model, "before": one.before, "after": one.after}
            for one in found.checks
        ],
        "findings": [asdict(one) for one in findings],
    }
