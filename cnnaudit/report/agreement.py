"""The report's agreement: how far two heatmaps of one picture, or of a pair, rank pixels alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnnaudit.report.cells import (
    NO_LEVEL,
    STATUSES,
    Cell,
    Mean,
    cell,
    coverage,
    decimals,
    spaced,
)
from cnnaudit.report.run import Record, Run
from cnnaudit.report.tables import Row, Table
from cnnaudit.types import POOLED

MOST_NAMES = 4  # whose pairs are columns; the pairs of more make a matrix
OPEN_TABLES = 3  # the others are folded
SCALE = (0.0, 1.0)  # of the bars: below 0 heatmaps oppose each other, and the bar is empty
_SIDES = ("technique", "model", "target", "within")
_TITLES = {side: f"Between {side}s" for side in ("target", "model", "technique")}


@dataclass(frozen=True)
class Agreement:
    """What was compared on one image set."""

    title: str
    image_set: str
    tables: tuple[Table, ...]
    folded: tuple[Table, ...]


def agreements(run: Run) -> list[Agreement]:
    """Return every comparison of heatmaps, those of one image set and kind together."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for one in run.agreements:
        groups.setdefault((one["image_set"], one["between"]), []).append(one)
    return [_agreement(run, *names, records) for names, records in groups.items()]


def _agreement(run: Run, image_set: str, between: str, records: Sequence[Record]) -> Agreement:
    maker = _Maker(run, image_set, between, records)
    tables = maker.matrices() if len(maker.names) > MOST_NAMES else [maker.pairs()]
    return Agreement(
        title=_TITLES.get(between, f"Within the pairs of {spaced(between)}"),
        image_set=image_set,
        tables=tuple(tables[:OPEN_TABLES]),
        folded=tuple(tables[OPEN_TABLES:]),
    )


class _Maker:
    """Makes the tables of one kind of comparison."""

    def __init__(self, run: Run, image_set: str, between: str, records: Sequence[Record]) -> None:
        self.run, self.between = run, between
        self.names = list(
            dict.fromkeys(one[side] for side in ("first", "second") for one in records)
        )
        self.unit = run.unit(image_set)
        # What is not compared: it tells tables or rows from each other where it differs.
        found = {side: {one[side] for one in records} for side in _SIDES if side != between}
        self.fixed = [side for side, names in found.items() if len(names) > 1] or [*found][:1]
        said = (self._say(side, one) for side, (one, *_) in found.items()
                if side not in self.fixed and one != POOLED)  # fmt: skip
        self.constant = ", ".join(filter(None, said))
        self.groups: dict[tuple[str, ...], dict[tuple[str, str], Record]] = {}
        order = {side: list(dict.fromkeys(one[side] for one in records)) for side in self.fixed}
        for one in sorted(
            records, key=lambda one: [order[side].index(one[side]) for side in order]
        ):
            key = tuple(one[side] for side in self.fixed)
            self.groups.setdefault(key, {})[(one["first"], one["second"])] = one

    def pairs(self) -> Table:
        """Give each pair a column, and each model, technique and target a row."""
        found = list(dict.fromkeys(pair for group in self.groups.values() for pair in group))
        heads = [tuple((label, "") for label in self._labels(key)) for key in self.groups]
        grid = [[group.get(pair) for pair in found] for group in self.groups.values()]
        columns = [" and ".join(map(self._label, pair)) for pair in found]
        corner = tuple(self._corner(side) for side in self.fixed)
        return self._table("", corner, columns, heads, grid)

    def matrices(self) -> list[Table]:
        """Set the names against each other, in a table for each model, technique and target."""
        down, across = self.names[:-1], self.names[1:]
        heads = [((self._label(name), ""),) for name in down]
        columns = [self._label(name) for name in across]
        return [
            self._table(
                ", ".join(filter(None, self._labels(key))),
                (self.between,),
                columns,
                heads,
                [
                    [group.get((row, column)) or group.get((column, row)) if n <= m else None
                     for m, column in enumerate(across)]
                    for n, row in enumerate(down)
                ],
                triangle=True,
            )
            for key, group in self.groups.items()
        ]  # fmt: skip

    def _table(
        self,
        title: str,
        corner: tuple[str, ...],
        columns: Sequence[str],
        heads: Sequence[tuple[tuple[str, str], ...]],
        grid: Sequence[Sequence[Record | None]],
        *,
        triangle: bool = False,
    ) -> Table:
        means = [mean_of(one) for line in grid for one in line if one is not None]
        rests_on, shared = coverage(means, self.unit)
        statuses = [one["status"] for line in grid for one in line if one is not None]
        lacking = dict.fromkeys(status for status in statuses if status != "ok")
        empty = Cell("" if triangle else NO_LEVEL)
        rows = [
            Row(
                head,
                tuple(correlation_cell(x, self.unit, shared) if x else empty for x in line),
            )
            for head, line in zip(heads, grid, strict=True)
        ]
        return Table(
            title=title,
            meaning=self.constant,
            coverage="; ".join(filter(None, [rests_on, *lacking])),
            corner=corner,
            groups=(),
            columns=tuple((label, False) for label in columns),
            rows=tuple(rows),
        )

    def _corner(self, side: str) -> str:
        levels = [key[self.fixed.index(side)] for key in self.groups]
        return (self.run.factor_of(levels) if side == "within" else "") or side

    def _labels(self, key: Sequence[str]) -> list[str]:
        named = zip(self.fixed, key, strict=True)
        return [self._say(side, name) for side, name in named]

    def _label(self, name: str) -> str:
        return self._say(self.between, name)

    def _say(self, side: str, name: str) -> str:
        if side == "technique":
            return self.run.title("techniques", name)
        if side == "model":
            return self.run.model_label(name)
        return "everywhere" if name == POOLED else name


def mean_of(one: Record) -> Mean:
    """Return a correlation with what it rests on."""
    counts = dict.fromkeys(STATUSES, 0)
    counts |= {name: int(one[name]) for name in ("units", "scored", "total")}
    return Mean(one["correlation"], math.nan, math.nan, math.nan, counts)


def correlation_cell(one: Record, unit: str, shared: set[str]) -> Cell:
    """Return a correlation with its interval as a table shows it."""
    found = cell(mean_of(one), SCALE, unit, shared)
    status = () if one["status"] == "ok" else (one["status"].partition(":")[0],)
    known = math.isfinite(one["low"]) and math.isfinite(one["high"])
    interval = (f"[{decimals(one['low'], 2)}, {decimals(one['high'], 2)}]",) if known else ()
    return replace(found, notes=(*interval, *found.notes, *status))
