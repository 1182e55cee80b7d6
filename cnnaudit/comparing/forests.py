"""Differences of two runs as forest plots, both runs' numbers beside each mark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from cnnaudit.comparing import Comparison
from cnnaudit.comparing.changes import (
    BETTER,
    CHANGED,
    NARROWER,
    NOT_MEASURED,
    SAME,
    WIDER,
    WORSE,
    records_of,
)
from cnnaudit.comparing.findings import told_apart
from cnnaudit.report.cells import interval, percentage, spaced
from cnnaudit.report.contrasts import Forest, Line, by_measure, forest, primary_metrics
from cnnaudit.report.run import Record
from cnnaudit.types import POOLED

EVERYWHERE = "all images"

KINDS = {  # of an outcome: the name of its symbol and colour
    BETTER: "better",
    WORSE: "worse",
    CHANGED: "changed",
    NARROWER: "narrower",
    WIDER: "wider",
    SAME: "same",
    NOT_MEASURED: "lacking",
}


class Outcome(NamedTuple):
    text: str
    kind: str


@dataclass(frozen=True)
class Row:
    """One difference: how it is written and drawn, both sides, and what it means."""

    line: Line
    before: str
    after: str
    outcome: Outcome
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """One metric: a forest plot with both runs' numbers beside it."""

    anchor: str  # its address in the page; "" for none
    forest: Forest
    rows: tuple[Row, ...]
    noted: bool  # whether any row has notes
    caveats: tuple[str, ...]  # what is not quite the same in both runs


@dataclass(frozen=True)
class Part:
    """What is told of one image set, or of one contrast."""

    title: str
    by: str
    said: str
    alarms: tuple[str, ...]  # why it is not comparable
    units: str
    shown: tuple[Measured, ...]
    folded: tuple[Measured, ...]


def anchors_of(found: Comparison) -> dict[tuple[str, ...], str]:
    """Return the address of each metric on each image set; names are not fit for those."""
    keys = found.changes[["image_set", "metric", "region"]].drop_duplicates()
    return {tuple(map(str, key)): f"change-{n}" for n, key in enumerate(keys.to_numpy(), start=1)}


def parts_of(found: Comparison) -> list[Part]:
    anchors, by_set = anchors_of(found), found.changes.groupby("image_set", sort=False)
    return [_part(found, own, _means, anchors, title=str(name)) for name, own in by_set]


def _part(
    found: Comparison,
    own: pd.DataFrame,
    sides_of: Sides,
    anchors: Mapping[tuple[str, ...], str],
    *,
    title: str,
    by: str = "",
    said: str = "",
) -> Part:
    run, image_set = found.after, str(own["image_set"].iloc[0])
    measures = by_measure(run, [_record(one) for one in _in_order(found, own)])
    primary = primary_metrics(run, [metric for metric, _ in measures])
    made = [
        (metric, _measured(found, mine, sides_of, anchors.get((image_set, metric, region), "")))
        for (metric, region), mine in measures.items()
    ]
    return Part(
        title=title,
        by=by,
        said=said,
        alarms=_alarms(found, image_set),
        units=f"{run.unit(image_set)}s",
        shown=tuple(one for metric, one in made if metric in primary),
        folded=tuple(one for metric, one in made if metric not in primary),
    )


def _alarms(found: Comparison, image_set: str) -> tuple[str, ...]:
    said = [says for pair in found.models for says in found.concerns(image_set, pair.label)]
    return tuple(dict.fromkeys(said))


def _in_order(found: Comparison, table: pd.DataFrame) -> list[Record]:
    """Sort by model and technique as they are declared, places staying as they are."""
    models = [pair.label for pair in found.models]
    techniques = ["", *found.after.catalogue["techniques"]]
    targets = list(dict.fromkeys(table["target"]))
    return sorted(
        records_of(table),
        key=lambda one: (
            models.index(one["model"]),
            techniques.index(one["technique"]),
            targets.index(one["target"]),
        ),
    )


def _record(one: Record) -> dict[str, Any]:
    """Write a difference down as a forest plot reads it."""
    return {
        **one,
        "within": EVERYWHERE if one["within"] == POOLED else one["within"],
        "first": one["after"],
        "second": one["before"],
        "first_level": "after",
        "second_level": "before",
        "dead_first": one["dead_after"],
        "dead_second": one["dead_before"],
        "scored": one["paired"],
        "eligible": one["items"],
        "nets": [],
    }


def _measured(
    found: Comparison, records: Sequence[Record], sides_of: Sides, anchor: str
) -> Measured:
    scale = found.after.scale(records[0]["metric"])
    drawn = forest(found.after, records, "images")
    rows = tuple(
        Row(line, *sides_of(one, scale), _outcome(one), _notes(line, one))
        for line, one in zip(drawn.lines, records, strict=True)
    )
    noted = any(row.notes for row in rows)
    return Measured(anchor, drawn, rows, noted, _caveats(found, records))


def _notes(line: Line, one: Record) -> tuple[str, ...]:
    """Return a line's notes without its status, which is its outcome."""
    return line.notes if one["status"] == "ok" else line.notes[1:]


Sides = Callable[[Record, tuple[float, float]], tuple[str, str]]


def _means(one: Record, scale: tuple[float, float]) -> tuple[str, str]:
    before, after = told_apart(one["before"], one["after"], scale=scale)
    return before, after


def _effects(one: Record, scale: tuple[float, float]) -> tuple[str, str]:
    before, after = (
        interval(one[side], one[f"{side}_low"], one[f"{side}_high"], scale)
        for side in ("before", "after")
    )
    return before, after


def _outcome(one: Record) -> Outcome:
    """Say what a difference means, and how much of an effect went."""
    text = str(one["outcome"])
    if text == NARROWER:
        text += f" by {percentage(1 - one['after'] / one['before'])}"
    return Outcome(text, KINDS[one["outcome"]])


def _caveats(found: Comparison, records: Iterable[Record]) -> tuple[str, ...]:
    """Say what about the metric or the techniques is not the same in both runs."""
    names = [
        key
        for one in records
        for key in (("metrics", one["metric"]), ("techniques", one["technique"]))
    ]
    return tuple(
        f"{found.after.title(*key)} is not the same in both runs: {found.definitions[key]}"
        for key in dict.fromkeys(names)
        if key in found.definitions
    )


def effects_of(found: Comparison) -> list[Part]:
    """Return each contrast with its effects in both runs."""
    parts = []
    for name, own in found.effects.groupby("contrast", sort=False):
        one = records_of(own)[0]
        title, said = spaced(str(name)), f"the gap is {found.after.difference_in_words(one)}"
        parts.append(_part(found, own, _effects, {}, title=title, by=one["image_set"], said=said))
    return parts
