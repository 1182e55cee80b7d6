"""The report's tables by level: behaviour per factor combination, overlap per technique."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cnnaudit.report.cells import (
    NO_LEVEL,
    Cell,
    Mean,
    cell,
    count_of,
    coverage,
    is_known,
    levels_label,
    place_in,
)
from cnnaudit.report.run import COUNTS, Record, Run, Subject, Variant, variant_of
from cnnaudit.types import POOLED

MOST_ROWS = 40  # of a table by every combination of factors; above it, one factor at a time
Levels = tuple[str, ...]  # one per factor of the image set


class Measure(NamedTuple):
    """A metric on a region of the picture; behaviour has no region."""

    metric: str
    region: str


@dataclass(frozen=True)
class Row:
    heads: tuple[tuple[str, str], ...]  # (label, small print below it)
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    title: str
    meaning: str
    coverage: str  # what all its cells have in common
    corner: tuple[str, ...]  # headings of the columns that hold row headings
    groups: tuple[tuple[str, int], ...]  # (label, columns under it); may be empty
    columns: tuple[tuple[str, bool], ...]  # (label, whether a group begins here)
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class SubjectTables:
    """The tables by factor level about one model on one image set."""

    subject: Subject
    words: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # factor → (level, how to say it)
    behaviour: tuple[Table, ...]
    overlap: tuple[Table, ...]  # the primary metric over the first declared grid
    more: tuple[Table, ...]  # the other grids and metrics, and each factor alone


Index = Mapping[tuple[Variant, Measure, Levels], Record]


def subject_tables(run: Run, subject: Subject) -> SubjectTables | None:
    """Prepare the tables about one model on one image set; none where nothing sets levels apart."""
    maker = _Maker(run, subject)
    kinds = ("overlap", "faithfulness") if maker.variants else ()
    measures = [measure for kind in kinds for measure in maker.measures(kind)]
    known = [one for one in measures if one in maker.measured]
    behaviour = [one for one in maker.measures("behaviour") if one in maker.measured]
    by_grid = [maker.by_grid(measure, grid) for measure in known for grid in maker.grids]
    singly = [maker.singly(measure) for measure in known]
    tables = [table for table in (*by_grid, *singly) if table is not None]
    if not (maker.factors and (behaviour or tables)):
        return None
    return SubjectTables(
        subject=subject,
        words=_words(run, subject.image_set),
        behaviour=tuple(maker.behaviour(measure) for measure in behaviour),
        overlap=tuple(tables[:1]),
        more=tuple(tables[1:]),
    )


def variants(run: Run, subject: Subject) -> list[Variant]:
    """Return the kinds of heatmap that the summary has of a subject, in the catalogue's order."""
    measured = {variant_of(record) for record in run.subject_means(subject) if record["technique"]}
    found = {one for one in measured if run.gives(one.technique) == "heatmap"}
    order, targets = list(run.catalogue["techniques"]), run.targets()
    return sorted(
        found, key=lambda one: (place_in(order, one.technique), place_in(targets, one.target), one)
    )


def variant_label(run: Run, variant: Variant, among: Iterable[Variant]) -> str:
    """Name a kind of heatmap, its target and layer only where they tell it from another."""
    same = [other for other in among if other.technique == variant.technique]
    parts = [run.title("techniques", variant.technique)]
    parts += [variant.target] if len({one.target for one in same}) > 1 else []
    parts += [variant.layer] if len({one.layer for one in same}) > 1 else []
    return ", ".join(parts)


def overall(run: Run, subject: Subject, variant: Variant, metric: str) -> Mean | None:
    """Return a subject's mean over all items of a metric that needs no region."""
    factors = run.factors(subject.image_set)
    wanted = {"metric": metric, "region": "", **dict.fromkeys(factors, POOLED)}
    for one in run.subject_means(subject):
        if all(one[name] == level for name, level in wanted.items()) and variant_of(one) == variant:
            return _mean(one)
    return None


class _Maker:
    """Makes the tables of one subject from its means."""

    def __init__(self, run: Run, subject: Subject) -> None:
        about = run.about("image_sets", subject.image_set)
        self.run, self.subject = run, subject
        self.factors = run.factors(subject.image_set)
        self.order = {name: list(about.get("levels", {}).get(name, ())) for name in self.factors}
        self.unit = run.unit(subject.image_set)
        self.index = _index(run.subject_means(subject), self.factors)
        self.asked = {measure for _, measure, _ in self.index}
        self.measured = {one for (_, one, _), it in self.index.items() if math.isfinite(it["mean"])}
        self.places = {levels for _, _, levels in self.index}
        self.variants = variants(run, subject)
        self.grids = [  # a unit has no means of its own
            one
            for one in run.grids(subject.image_set)
            if {one["rows"], one["cols"]} <= {*self.factors}
        ]

    def measures(self, kind: str) -> list[Measure]:
        """Return the metrics of a kind that the summary has, each with its regions."""
        order = self.run.metrics(kind)
        mine = [measure for measure in self.asked if measure.metric in order]
        return sorted(mine, key=lambda one: (order.index(one.metric), one.region))

    def behaviour(self, measure: Measure) -> Table:
        """Cross the column factor with every combination of the others."""
        across = self.grids[0]["cols"] if self.grids else self.factors[-1]
        down = [name for name in self.factors if name != across]
        rows = self._combinations(down)
        if len(rows) > MOST_ROWS:
            first = [name for name in down if self.grids and name == self.grids[0]["rows"]]
            down = first or down[:1]
            rows = self._combinations(down)
        columns = [*self._levels(across), POOLED]
        places = [[{**row, across: one} for one in columns] for row in rows]
        grid = [[self._at(Variant(), measure, at) for at in line] for line in places]
        columns, grid = _without_empty_end(columns, grid)
        heads = [tuple((row[name] or NO_LEVEL, "") for name in down) for row in rows]
        labels = [(_column(one, across), False) for one in columns]
        kept = [place for place, line in enumerate(grid) if any(map(is_known, line))]
        table = self._table(
            measure,
            tuple(down),
            (),
            labels,
            [heads[place] for place in kept],
            [grid[place] for place in kept],
        )
        without = [row for place, row in enumerate(rows) if place not in kept]
        lacking = [levels_label(row.values()) or "the rest" for row in without]
        without_value = f"no value for {', '.join(lacking)}" if lacking else ""
        return replace(table, coverage="; ".join(filter(None, (table.coverage, without_value))))

    def by_grid(self, measure: Measure, declared: Mapping[str, Any]) -> Table | None:
        """Put the levels of a grid's rows side by side under each level of its columns."""
        inner, outer = declared["rows"], declared["cols"]
        # An item without a level (an empty place has no colour) has no place in the grid.
        within = [level for level in declared.get("levels") or self._levels(inner) if level]
        groups = [*(level for level in self._levels(outer) if level), POOLED]
        places = [{outer: group, inner: level} for group in groups for level in within]
        # Not every two levels have pictures: of perturbations, each has severities of its own.
        places = [at for at in places if any(self._at(one, measure, at) for one in self.variants)]
        grid = [[self._at(one, measure, at) for at in places] for one in self.variants]
        if not any(is_known(mean) for line in grid for mean in line):
            return None
        sizes, labels = _grouped([(at[outer], at[inner]) for at in places])
        heads = [(_column(group, outer), size) for group, size in sizes]
        return self._table(measure, ("technique",), heads, labels, self._technique_heads(), grid)

    def singly(self, measure: Measure) -> Table | None:
        """Give each level of each factor a column, pooled over the other factors."""
        columns = [
            (name, level)
            for name in self.factors
            for level in self._levels(name)
            if level
            and any(is_known(self._at(one, measure, {name: level})) for one in self.variants)
        ]
        if not columns:
            return None
        grid = [
            [self._at(one, measure, {name: level}) for name, level in columns]
            for one in self.variants
        ]
        heads, labels = _grouped(columns)
        table = self._table(measure, ("technique",), heads, labels, self._technique_heads(), grid)
        return replace(table, title=f"{table.title}, each factor alone")

    def _table(
        self,
        measure: Measure,
        corner: tuple[str, ...],
        groups: Sequence[tuple[str, int]],
        labels: Sequence[tuple[str, bool]],
        heads: Sequence[tuple[tuple[str, str], ...]],
        grid: Sequence[Sequence[Mean | None]],
    ) -> Table:
        means = [mean for line in grid for mean in line if mean is not None]
        scale = self._scale(measure, means)
        rests_on, shared = coverage(means, self.unit)
        rows = [
            Row(head, tuple(cell(mean, scale, self.unit, shared) for mean in line))
            for head, line in zip(heads, grid, strict=True)
        ]
        return Table(
            title=self.title(measure),
            meaning=self.run.meaning(measure.metric),
            coverage=rests_on,
            corner=corner,
            groups=tuple(groups),
            columns=tuple(labels),
            rows=tuple(rows),
        )

    def _technique_heads(self) -> list[tuple[tuple[str, str], ...]]:
        return [
            ((variant_label(self.run, one, self.variants), one.layer),) for one in self.variants
        ]

    def title(self, measure: Measure) -> str:
        """Name a metric, and its region where it has several."""
        title = self.run.title("metrics", measure.metric)
        regions = {one.region for one in self.asked if one.metric == measure.metric}
        return f"{title}, on {measure.region}" if len(regions) > 1 else title

    def _scale(self, measure: Measure, means: Sequence[Mean]) -> tuple[float, float]:
        limits = self.run.about("metrics", measure.metric).get("range") or (None, None)
        known = [one.mean for one in means if math.isfinite(one.mean)]
        low = limits[0] if limits[0] is not None else min([0.0, *known])
        high = limits[1] if limits[1] is not None else max([0.0, *known])
        return (float(low), float(high))

    def _levels(self, factor: str) -> list[str]:
        place = self.factors.index(factor)
        found = {levels[place] for levels in self.places} - {POOLED}
        return sorted(found, key=lambda level: _level_place(self.order[factor], level))

    def _combinations(self, factors: Sequence[str]) -> list[dict[str, str]]:
        """Return the combinations of these factors' levels that the full cross has."""
        places = [self.factors.index(name) for name in factors]
        crossed = [levels for levels in self.places if POOLED not in levels]
        found = {tuple(levels[place] for place in places) for levels in crossed}
        ordered = sorted(
            found or {()},
            key=lambda one: [
                _level_place(self.order[name], level)
                for name, level in zip(factors, one, strict=True)
            ],
        )
        return [dict(zip(factors, one, strict=True)) for one in ordered]

    def _at(self, variant: Variant, measure: Measure, levels: Mapping[str, str]) -> Mean | None:
        where = tuple(levels.get(name, POOLED) for name in self.factors)
        record = self.index.get((variant, measure, where))
        return None if record is None else _mean(record)


def _index(records: Iterable[Record], factors: Sequence[str]) -> Index:
    found: dict[tuple[Variant, Measure, Levels], Record] = {}
    for record in records:
        measure = Measure(record["metric"], record["region"])
        levels = tuple(record[name] for name in factors)
        found.setdefault((variant_of(record), measure, levels), record)
    return found


def _mean(record: Record) -> Mean:
    counts = {name: count_of(record[name]) for name in COUNTS}
    value, chance, lift, dead = (float(record[x]) for x in ("mean", "chance", "lift", "dead"))
    return Mean(value, chance, lift, dead, counts)


def _without_empty_end(
    columns: list[str], grid: list[list[Mean | None]]
) -> tuple[list[str], list[list[Mean | None]]]:
    """Drop the pooled column where the summary has no such combination."""
    if len(columns) > 1 and all(line[-1] is None for line in grid):
        return columns[:-1], [line[:-1] for line in grid]
    return columns, grid


def _grouped(
    columns: Sequence[tuple[str, str]],
) -> tuple[list[tuple[str, int]], list[tuple[str, bool]]]:
    """Return how many columns each group has, and each one's label and whether a group begins."""
    sizes, first = Counter(group for group, _ in columns), dict(reversed(columns))
    return list(sizes.items()), [(label, first[group] == label) for group, label in columns]


def _column(level: str, factor: str) -> str:
    return "all together" if level == POOLED else level or f"no {factor}"


def _words(run: Run, image_set: str) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    words = run.words(image_set).items()
    return tuple((factor, tuple(said.items())) for factor, said in words if said)


def _level_place(order: Sequence[str], level: str) -> tuple[bool, int, str]:
    """Sort levels as declared; items without a level of the factor come last."""
    return (level == "", place_in(order, level), level)
