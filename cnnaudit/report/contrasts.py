"""The report's forest plots: one per contrast and metric, a table with the plot drawn inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cnnaudit.report.cells import (
    NO_LEVEL,
    interval,
    number,
    percentage,
    place_in,
    probability,
    spaced,
)
from cnnaudit.report.run import Record, Run, variant_of
from cnnaudit.report.tables import variant_label
from cnnaudit.types import POOLED

MOST_STEPS = 4  # of the axis
SLACK = 0.02  # of a step: an interval from −1.001 needs no axis to −2
_OWN_ANSWER = "predicted is each image's own answer: the two sides may explain different classes"
_REFERENCES = "in italics: references, which see no network"
LONG_LABEL = 5  # characters


class Tick(NamedTuple):
    x: str  # percent
    label: str
    minor: bool  # where room is short, it has no label


@dataclass(frozen=True)
class Mark:
    """One difference as it is drawn, in percent of the plot's width."""

    x: str
    ends: tuple[str, str] | None  # of its interval
    hollow: bool
    says: str


@dataclass(frozen=True)
class Line:
    """One difference as it is written."""

    heads: tuple[tuple[str, bool], ...]  # (text, whether the row above says the same)
    begins: bool  # a new group
    is_reference: bool
    effect: str
    levels: tuple[str, str]
    units: str
    p: str
    nets: tuple[str, ...]  # one per reference that differences are shown net of
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Forest:
    """Every difference of one metric."""

    title: str
    meaning: str
    corner: tuple[str, ...]
    ticks: tuple[Tick, ...]
    zero: str
    marks: tuple[Mark | None, ...]  # one per line
    lines: tuple[Line, ...]
    nets: tuple[str, ...]  # what differences are shown net of
    noted: bool  # whether any line has notes
    below: tuple[str, ...]  # what the hollow marks lack, and the notes that all lines share


@dataclass(frozen=True)
class Contrast:
    title: str
    image_set: str
    first: str
    second: str
    said: str  # the difference in words
    units: str  # in the plural
    shown: tuple[Forest, ...]
    folded: tuple[Forest, ...]


def contrasts(run: Run) -> list[Contrast]:
    """Return every contrast with its forest plots, the primary metrics' apart."""
    by_name: dict[str, list[Record]] = {}
    for one in run.contrasts:
        if one["net_of"]:  # it stands after what it is net of
            if not run.is_reference(one["technique"]):
                by_name[one["contrast"]][-1]["nets"].append(one)
        else:
            by_name.setdefault(one["contrast"], []).append({**one, "nets": []})
    return [_contrast(run, name, lines) for name, lines in by_name.items()]


def _contrast(run: Run, name: str, lines: Sequence[Record]) -> Contrast:
    one = lines[0]
    measures = by_measure(run, lines)
    primary = primary_metrics(run, [metric for metric, _ in measures])
    forests = [(metric, forest(run, _in_order(run, own))) for (metric, _), own in measures.items()]
    return Contrast(
        title=spaced(name),
        image_set=one["image_set"],
        first=one["first_level"],
        second=one["second_level"],
        said=run.difference_in_words(one),
        units=f"{run.unit(one['image_set'])}s",
        shown=tuple(drawn for metric, drawn in forests if metric in primary),
        folded=tuple(drawn for metric, drawn in forests if metric not in primary),
    )


def by_measure(run: Run, lines: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Group by metric and region: behaviour before heatmaps, else in the catalogue's order."""
    order = [one for kind in ("behaviour", "overlap", "faithfulness") for one in run.metrics(kind)]
    found: dict[tuple[str, str], list[Record]] = {}
    for one in lines:
        found.setdefault((one["metric"], one["region"]), []).append(one)
    return dict(sorted(found.items(), key=lambda item: (place_in(order, item[0][0]), item[0])))


def primary_metrics(run: Run, metrics: Sequence[str]) -> set[str]:
    """Return the behaviour that findings and checks speak of, and the first overlap metric."""
    told = {one.get("metric") for one in (*run.summary["findings"], *run.judgements)}
    behaviour = [metric for metric in metrics if metric in run.metrics("behaviour")]
    overlap = [metric for metric in metrics if metric in run.metrics("overlap")]
    spoken = [metric for metric in behaviour if metric in told] or behaviour[:1]
    return {*spoken, *overlap[:1]} or set(metrics)


def forest(run: Run, records: Sequence[Record], where: str = "within") -> Forest:
    """Draw differences of one metric below each other; `where` heads the column of their places."""
    one = records[0]
    corner, heads = _heads(run, records, where)
    ticks = _ticks(records)
    notes = [_notes(record) for record in records]
    shared = [note for note in notes[0] if all(note in other for other in notes)]
    own = [
        (*_status(record), *(note for note in found if note not in shared))
        for record, found in zip(records, notes, strict=True)
    ]
    nets = list(dict.fromkeys(net["net_of"] for record in records for net in record["nets"]))
    lines = _lines(run, records, heads, nets, own)
    marks = [_mark(*pair, ticks) for pair in zip(records, lines, strict=True)]
    lacking = dict.fromkeys(r["status"] for r in records if r["status"] != "ok")
    regions = {other["region"] for other in run.contrasts if other["metric"] == one["metric"]}
    title = run.title("metrics", one["metric"])
    return Forest(
        title=f"{title}, on {one['region']}" if len(regions) > 1 else title,
        meaning=run.meaning(one["metric"]),
        corner=corner,
        ticks=tuple(_labelled(ticks)),
        zero=_percent(0.0, ticks),
        marks=tuple(marks),
        lines=tuple(lines),
        nets=tuple(f"net of {spaced(run.title('techniques', name))}" for name in nets),
        noted=any(line.notes for line in lines),
        below=(
            *([_REFERENCES] if any(line.is_reference for line in lines) else ()),
            *(f"hollow: {status}" for status in lacking),
            *(f"every row: {note}" for note in shared),
            *([_OWN_ANSWER] if any(record["target"] == "predicted" for record in records) else ()),
        ),
    )


def _in_order(run: Run, found: Iterable[Record]) -> list[Record]:
    models, techniques = list(run.catalogue["models"]), list(run.catalogue["techniques"])

    def place(one: Record) -> tuple[Any, ...]:
        about = run.about("image_sets", one["image_set"]).get("levels", {})
        declared = about.get(run.factor_of([one["within"]]), ())
        return (
            *(place_in(models, one["model"]), one["model"]),
            *(place_in(techniques, one["technique"]), one["technique"]),
            *(one["target"], one["layer"]),
            *(place_in(declared, one["within"]), one["within"]),
        )

    return sorted(found, key=place)


def _heads(
    run: Run, records: Sequence[Record], where: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the headings of the columns that name a row, and each row's names."""
    kinds = [variant_of(one) for one in records]
    within = ["" if one["within"] == POOLED else one["within"] for one in records]
    models = [one["model"] for one in records]
    labels = [variant_label(run, one, kinds) if one.technique else "" for one in kinds]
    columns = [("technique", labels), (run.factor_of(within) or where, within)]
    columns = [(head, names) for head, names in columns if any(names)]
    if len(set(models)) > 1 or (any(models) and not columns):
        columns.insert(0, ("model", models))
    columns = columns or [("images", ["all"] * len(records))]  # of two models' behaviour
    rows = zip(*(names for _, names in columns), strict=True)
    heads = tuple(head for head, _ in columns)
    return heads, [tuple(name or NO_LEVEL for name in row) for row in rows]


def _lines(
    run: Run,
    records: Sequence[Record],
    heads: Sequence[tuple[str, ...]],
    nets: Sequence[str],
    notes: Sequence[tuple[str, ...]],
) -> list[Line]:
    lines, scale = [], run.scale(records[0]["metric"])
    widths = [one["high"] - one["low"] for one in records]
    widest = max((width for width in widths if math.isfinite(width)), default=0.0)
    for n, (one, names) in enumerate(zip(records, heads, strict=True)):
        above = heads[n - 1] if n else ()
        again = [name == other for name, other in zip(names[:-1], above, strict=False)]
        same = [all(again[: place + 1]) for place in range(len(again))] or [False] * len(names[:-1])
        units = one["units"]
        lines.append(
            Line(
                heads=tuple(zip(names, [*same, False], strict=True)),
                begins=len(names) > 1 and not all(same),
                is_reference=run.is_reference(one["technique"]),
                effect=interval(one["difference"], one["low"], one["high"], scale, widest),
                levels=(number(one["first"], scale), number(one["second"], scale)),
                units=f"{units:.0f}" if math.isfinite(units) else NO_LEVEL,
                p=probability(one["p_holm"]),
                nets=tuple(_net(one, name, scale) for name in nets),
                notes=notes[n],
            )
        )
    return lines


def _status(one: Record) -> list[str]:
    return [] if one["status"] == "ok" else [one["status"].partition(":")[0]]


def _notes(one: Record) -> list[str]:
    """Say what a difference rests on where that is less than everything."""
    notes = []
    for which in ("first", "second"):
        if one[f"dead_{which}"] > 0:
            dead = percentage(one[f"dead_{which}"])
            notes.append(f"{one[f'{which}_level']}: {dead} dead")
    if one["scored"] != one["eligible"]:
        notes.append(f"{one['scored']:.0f} of {one['eligible']:.0f} images")
    return notes


def _net(one: Record, reference: str, scale: tuple[float, float]) -> str:
    """Write what is left of a difference net of a reference's own."""
    found = (net for net in one["nets"] if net["net_of"] == reference)
    return next((interval(n["difference"], n["low"], n["high"], scale) for n in found), NO_LEVEL)


def _mark(one: Record, line: Line, ticks: Sequence[float]) -> Mark | None:
    """Place one difference; none where it has no value."""
    value, low, high = one["difference"], one["low"], one["high"]
    if not math.isfinite(value):
        return None
    known = math.isfinite(low) and math.isfinite(high)
    named = " · ".join(name for name, _ in line.heads)
    return Mark(
        x=_percent(value, ticks),
        ends=(_percent(low, ticks), _percent(high, ticks)) if known else None,
        hollow=one["status"] != "ok",
        says=", ".join([f"{named}: {line.effect}", *line.notes]),
    )


def _ticks(records: Iterable[Record]) -> list[float]:
    """Return the places of an axis that holds zero and every interval, evenly in round steps."""
    known = [one[name] for one in records for name in ("difference", "low", "high")]
    known = [0.0, *(value for value in known if math.isfinite(value))]
    low, high = min(known), max(known)
    if high <= low:
        low, high = -1.0, 1.0
    rough = (1 - SLACK) * (high - low) / MOST_STEPS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * n for n in (1, 2, 5) if power * n >= rough), power * 10)
    first, last = math.floor(low / step + SLACK), math.ceil(high / step - SLACK)
    return [n * step for n in range(first, last + 1)]


def _labelled(ticks: Sequence[float]) -> list[Tick]:
    """Label the axis; where labels are long, every second tick from zero on."""
    labels = [f"{value:z.6g}".replace("-", "−") for value in ticks]
    every = 2 if max(map(len, labels)) > LONG_LABEL else 1
    zero = min(range(len(ticks)), key=lambda n: abs(ticks[n]))
    return [
        Tick(_percent(value, ticks), "" if (n - zero) % every else labels[n], bool((n - zero) % 2))
        for n, value in enumerate(ticks)
    ]


def _percent(value: float, ticks: Sequence[float]) -> str:
    return f"{100 * (value - ticks[0]) / (ticks[-1] - ticks[0]):.2f}"
