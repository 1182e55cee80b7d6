"""The report's matrix: every number over all images together, with its baselines and its gaps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from cnnaudit.report.cells import (
    NO_LEVEL,
    STATUSES,
    count_of,
    number,
    percent,
    percentage,
    place_in,
    plural,
    signed,
    spaced,
)
from cnnaudit.report.run import Record, Run
from cnnaudit.types import CELL_COLUMNS, POOLED, RESERVED_COLUMNS

OPEN_ROWS = 300  # more are folded until somebody asks for them: a browser lays out none of them
MOST_REASONS = 3  # that are named of one status
KINDS = ("behaviour", "overlap", "faithfulness", "diagnostic")  # of metrics; others come after
BEHAVIOUR = "behaviour"
_BASELINES = {
    "chance": "chance",
    "lift": "lift",
    "swap": "image swap",
    "twin": "untrained twin",
    "ceiling": "layer’s ceiling",
}
_LOWER = "lower is better"
_REFERENCE = "sees no network"
_NAMES = ("metric", "technique", "image_set", "model", "target", "layer")
_ALWAYS = ("metric", "technique")


class Column(NamedTuple):
    label: str
    sorts: str  # "text" or "number"
    filters: bool  # whether its texts are few enough names to choose one of


@dataclass(frozen=True)
class Entry:
    """One cell of the matrix."""

    text: str
    key: str = ""  # the number it sorts by; "" where it has none
    bar: str = ""  # width in percent
    tick: str = ""  # place of the chance level in percent
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    names: tuple[Entry, ...]
    numbers: tuple[Entry, ...]
    statuses: str  # what its images came to, words with spaces between: to choose rows by
    begins: bool  # a metric begins here
    is_reference: bool


@dataclass(frozen=True)
class Tally:
    """How many numbers came to one status, and why."""

    label: str
    count: str
    reasons: str


@dataclass(frozen=True)
class Matrix:
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    everywhere: str  # what all rows have in common
    tallies: tuple[Tally, ...]
    rests_on: str  # on how many of their images rows rest
    explained: frozenset[str]  # the baselines that are there
    metrics: tuple[tuple[str, str], ...]  # (title, meaning) of each that has one

    @property
    def folded(self) -> bool:
        return len(self.lines) > OPEN_ROWS


def matrix(run: Run) -> Matrix:
    """Return one row for each metric of each technique on each image set under each model."""
    records = _in_order(run, _pooled(run.means))
    maker = _Maker(run, records)
    return Matrix(
        columns=maker.columns(),
        lines=maker.lines(),
        everywhere=maker.everywhere(),
        tallies=tuple(_tallies(run)),
        rests_on=_rests_on(records),
        explained=frozenset(maker.baselines),
        metrics=tuple(_meanings(run, records)),
    )


class _Maker:
    """Makes the rows, with the columns that tell them apart and the baselines that are there."""

    def __init__(self, run: Run, records: Sequence[Record]) -> None:
        self.run, self.records = run, records
        self.several = {name for name in _NAMES if len({one[name] for one in records} - {""}) > 1}
        self.names = [name for name in _NAMES if name in self.several or name in _ALWAYS]
        if "layer" in self.names and not _has_many_layers(records):
            self.names.remove("layer")  # it stands below its technique
        self.baselines = [
            *(name for name in _BASELINES if any(math.isfinite(one[name]) for one in records)),
            *(["dead"] if any(one["dead"] > 0 for one in records) else []),
        ]
        regions: dict[str, set[str]] = {}
        for one in records:
            regions.setdefault(one["metric"], set()).add(one["region"])
        self.in_regions = {metric for metric, found in regions.items() if len(found) > 1}

    def columns(self) -> tuple[Column, ...]:
        """Head the names, then the numbers."""
        heads = [Column(name.replace("_", " "), "text", name in self.several)
                 for name in self.names]  # fmt: skip
        baselines = (_BASELINES.get(name, name) for name in self.baselines)
        labels = ["value", *baselines, "units", "images", "without a number"]
        return (*heads, *(Column(label, "number", False) for label in labels))

    def lines(self) -> tuple[Line, ...]:
        """Write every row."""
        above = [None, *((one["metric"], one["region"]) for one in self.records)]
        return tuple(
            Line(
                names=tuple(self._name(name, one) for name in self.names),
                numbers=tuple(self._numbers(one)),
                statuses=_statuses(one),
                begins=above[n] not in (None, (one["metric"], one["region"])),
                is_reference=self.run.is_reference(one["technique"]),
            )
            for n, one in enumerate(self.records)
        )

    def everywhere(self) -> str:
        """Say what every row has in common and no column therefore repeats."""
        shared = [name for name in _NAMES if name not in (*self.several, *_ALWAYS, "layer")]
        found = {name: {one[name] for one in self.records} - {""} for name in shared}
        said = [f"{name.replace('_', ' ')} {self._say(name, str(*texts))}"
                for name, texts in found.items() if texts]  # fmt: skip
        return ", ".join(said)

    def _name(self, name: str, one: Record) -> Entry:
        notes: list[str] = []
        if name == "metric":
            lower = self.run.about("metrics", one[name]).get("higher_is_better") is False
            notes = [_LOWER] if lower else []
        if name == "technique":
            notes = [one["layer"]] if one["layer"] and "layer" not in self.names else []
            notes += [_REFERENCE] if self.run.is_reference(one["technique"]) else []
        text = self._say(name, one[name])
        if name == "metric" and one[name] in self.in_regions:
            text = f"{text}, on {one['region']}"
        return Entry(text, notes=tuple(notes))

    def _say(self, name: str, text: str) -> str:
        if name == "metric":
            return self.run.title("metrics", text)
        if name == "technique":
            return self.run.title("techniques", text) if text else BEHAVIOUR
        return self.run.model_label(text) if name == "model" else text or NO_LEVEL

    def _numbers(self, one: Record) -> Iterator[Entry]:
        yield _value(self.run, one)
        for name in self.baselines:
            yield _dead(one) if name == "dead" else _baseline(self.run, name, one)
        yield _units(self.run, one)
        yield _images(one)
        yield _lacking(one, self.run.lacking.get(_where(one), {}))


def _pooled(means: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the summary that pool all factors."""
    factors = [str(column) for column in means if column not in RESERVED_COLUMNS]
    found = means[(means[factors] == POOLED).all(axis=1)].to_dict("records")
    return [{str(key): value for key, value in one.items()} for one in found]


def _in_order(run: Run, records: Sequence[Record]) -> list[Record]:
    """Sort by metric, so that what is to be compared stands together; references come last."""
    kinds = {name: str(about.get("kind")) for name, about in run.catalogue["metrics"].items()}
    techniques = run.catalogue["techniques"]
    orders = {
        "metric": sorted(kinds, key=lambda name: place_in(KINDS, kinds[name])),
        "image_set": [*run.catalogue["image_sets"]],
        "model": [*run.catalogue["models"]],
        "technique": sorted(techniques, key=lambda one: bool(techniques[one].get("reference"))),
        "target": run.targets(),
    }
    places = {name: {one: n for n, one in enumerate(order)} for name, order in orders.items()}
    by = ("metric", "region", "image_set", "model", "technique", "target", "layer")

    def place(one: Record) -> list[tuple[int, str]]:
        return [(places.get(name, {}).get(one[name], len(records)), one[name]) for name in by]

    return sorted(records, key=place)


def _where(one: Record) -> tuple[str, ...]:
    return tuple(one[name] for name in (*CELL_COLUMNS, "region", "metric"))


def _has_many_layers(records: Iterable[Record]) -> bool:
    """Say whether a technique looked at several layers of one model."""
    found: dict[tuple[str, str], set[str]] = {}
    for one in records:
        found.setdefault((one["model"], one["technique"]), set()).add(one["layer"])
    return any(len(layers) > 1 for layers in found.values())


def _value(run: Run, one: Record) -> Entry:
    """Write the mean over a bar; without one where the scale has no end."""
    value, scale = one["mean"], run.scale(one["metric"])
    drawn = math.isfinite(value) and all(map(math.isfinite, scale))
    tick = drawn and math.isfinite(one["chance"])
    return Entry(
        number(value, scale),
        _key(value),
        percent(value, scale) if drawn else "",
        percent(one["chance"], scale) if tick else "",
    )


def _baseline(run: Run, name: str, one: Record) -> Entry:
    value = one[name]
    text = signed(value) if name == "lift" else number(value, run.scale(one["metric"]))
    return Entry(text or NO_LEVEL, _key(value))


def _dead(one: Record) -> Entry:
    known = math.isfinite(one["dead"])
    return Entry(percentage(one["dead"]) if known else NO_LEVEL, _key(one["dead"]))


def _units(run: Run, one: Record) -> Entry:
    count = count_of(one["units"])
    return Entry(plural(count, run.unit(one["image_set"])), str(count))


def _images(one: Record) -> Entry:
    scored, total = count_of(one["scored"]), count_of(one["total"])
    return Entry(f"{scored:,}" if scored == total else f"{scored:,} of {total:,}", str(scored))


def _lacking(one: Record, why: Mapping[str, Mapping[str, int]]) -> Entry:
    """Say how many images have no number, and why."""
    counts = {status: count_of(one[status]) for status in STATUSES}
    notes = [
        f"{counts[status]:,} {said}{_because(why.get(status, {}))}"
        for status, said in STATUSES.items()
        if counts[status]
    ]
    return Entry("" if notes else "none", str(sum(counts.values())), notes=tuple(notes))


def _because(reasons: Mapping[str, int]) -> str:
    said = _listed(reasons)
    return f": {said}" if said else ""


def _listed(reasons: Mapping[str, int]) -> str:
    """Name the most frequent reasons, and say how many more there are."""
    often = sorted(filter(None, reasons), key=lambda one: (-reasons[one], one))
    told = [spaced(one) for one in often[:MOST_REASONS]]
    told += [f"and {len(often) - MOST_REASONS} more"] if len(often) > MOST_REASONS else []
    return ", ".join(told)


def _statuses(one: Record) -> str:
    scored, total = count_of(one["scored"]), count_of(one["total"])
    whole = "all" if scored == total else "some" if scored else "no"
    return " ".join([whole, *(status for status in STATUSES if count_of(one[status]))])


def _meanings(run: Run, records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    for metric in dict.fromkeys(one["metric"] for one in records):
        if meaning := run.meaning(metric):
            yield run.title("metrics", metric), meaning


def _tallies(run: Run) -> Iterator[Tally]:
    """Count every number that was asked for: those that are there, and the others by reason."""
    yield Tally("with a number", f"{run.summary['counts'].get('ok', 0):,}", "")
    for status, said in STATUSES.items():
        reasons: Counter[str] = Counter()
        for found in run.lacking.values():
            reasons.update(found.get(status, {}))
        yield Tally(said, f"{reasons.total():,}", _listed(reasons))


def _rests_on(records: Sequence[Record]) -> str:
    """Say how many rows rest on every image, on some, and on none."""
    found = [_statuses(one).split()[0] for one in records]
    kinds = {"all": "on every image", "some": "on some of them", "no": "on no image"}
    parts = [f"{found.count(key):,} {said}" for key, said in kinds.items() if key in found]
    return f"{plural(len(found), 'row')}: {', '.join(parts)}" if found else ""


def _key(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
