"""Cells → one table of rows → means per factor level, findings in words, gaps with their reasons.

A mean is the mean over units (scenes) of each unit's mean, so that a unit with more pictures weighs
no more than another.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

import pandas as pd

from cnnaudit.store import Store
from cnnaudit.types import (
    CELL_COLUMNS,
    EARNED,
    RESERVED_COLUMNS,
    ROWS_FILE,
    SUMMARY_COLUMNS,
    Cell,
    ImageSet,
)

POOLED = "*"  # in a factor's column: over all of its levels
STATUSES = ("ineligible", "undefined", "not_applicable", "failed")
_FORMULA = tuple("=+-@\t\r")  # how a cell begins that a spreadsheet would run
_GROUP = (*CELL_COLUMNS, "region", "metric")


def collect_rows(cells: Iterable[Cell], store: Store) -> pd.DataFrame:
    """Return the rows of all cells with their model, technique, unit and factors, sorted."""
    frames = []
    for cell in cells:
        frame = pd.read_parquet(io.BytesIO(store.read(cell.key, ROWS_FILE)))
        for column, value in zip(CELL_COLUMNS, _names(cell), strict=True):
            frame[column] = value
        frames.append(frame.merge(_items(cell.image_set), on="item", validate="many_to_one"))
    rows = pd.concat(frames, ignore_index=True)
    factors = _factor_columns(rows)
    rows[factors] = rows[factors].fillna("")
    order = [*_GROUP, "item"]
    columns = [*CELL_COLUMNS, "item", *[c for c in rows if c not in (*CELL_COLUMNS, "item")]]
    return rows[columns].sort_values(order, ignore_index=True)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return means and counts for each model, technique, metric and combination of factor levels.

    The combinations are: all pooled, each factor, each pair of factors, and all factors together.
    """
    factors = _factor_columns(rows)
    sizes = sorted({0, 1, 2, len(factors)} & set(range(len(factors) + 1)))
    tables = []
    for size in sizes:
        for kept in combinations(factors, size):
            table = _means(rows, [*_GROUP, *kept])
            for factor in factors:
                if factor not in kept:
                    table[factor] = POOLED
            tables.append(table)
    summary = pd.concat(tables, ignore_index=True)
    columns = [*_GROUP, *factors, *SUMMARY_COLUMNS, *STATUSES]
    summary = summary[columns].drop_duplicates([*_GROUP, *factors])
    return summary.sort_values([*_GROUP, *factors], ignore_index=True)


def find_gaps(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return every reason for which items have no value, with how many and which, for example."""
    without = rows[rows.status != "ok"]
    gaps = []
    keys = ["model", "image_set", "technique", "metric", "status", "reason"]
    for values, group in without.groupby(keys, sort=True):
        items = group["item"].unique()
        gap = dict(zip(keys, values, strict=True))
        gaps.append({**gap, "items": len(items), "examples": sorted(items)[:3]})
    return gaps


def worst_items(rows: pd.DataFrame, metric: str) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Return, per model and image set, the items with the lowest lift of a technique, and which."""
    scored = rows[(rows.metric == metric) & (rows.technique != "") & rows.lift.notna()]
    scored = scored.sort_values(["lift", "item"])
    worst: dict[tuple[str, str], dict[str, list[str]]] = {}
    keys = ["model", "image_set", "technique"]
    for (model, image_set, technique), group in scored.groupby(keys, sort=True):
        items = worst.setdefault((str(model), str(image_set)), {})
        items.setdefault(group["item"].iloc[0], []).append(f"worst: {technique}")
    return worst


def find(
    summary: pd.DataFrame, image_sets: Iterable[ImageSet], catalogue: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Say in a sentence each what the declared grids show, behaviour before heatmaps.

    Of a grid's row factor the first two levels are compared, at the column where they differ most.
    """
    findings = []
    for image_set in image_sets:
        for number, grid in enumerate(image_set.spec.grids):
            levels = grid.levels or image_set.levels(grid.rows)
            if len(levels) < 2 or not grid.crosses_factors:
                continue
            table = _grid_table(summary, image_set, grid.rows, grid.cols)
            say = _Words(image_set, grid.rows, grid.cols)
            for finding in _grid_findings(table, levels[:2], grid.rows, grid.cols, say, catalogue):
                findings.append({**finding, "image_set": image_set.spec.name, "grid": str(number)})
    return sorted(findings, key=lambda finding: finding["technique"] != "")


class _Words:
    """How an image set says the levels of a grid's factors, and its units."""

    def __init__(self, image_set: ImageSet, rows: str, cols: str) -> None:
        words = image_set.spec.words
        self._rows, self._cols = words.get(rows, {}), words.get(cols, {})
        self._factors = rows, cols
        self.units = f"{image_set.spec.unit or 'image'}s"

    def row(self, level: str) -> str:
        return self._rows.get(level, f"{self._factors[0]} {level!r}")

    def col(self, level: str) -> str:
        return self._cols.get(level, f"at {self._factors[1]} {level!r}")


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV in which no text can be run by a spreadsheet as a formula."""
    texts = table.select_dtypes(include=["object", "string"]).columns
    return table.assign(**{c: table[c].map(_guarded) for c in texts}).to_csv(index=False).encode()


def unguarded(text: str) -> str:
    """Return a text as it was before `to_csv` put an apostrophe before it."""
    return text[1:] if text[:1] == "'" and text.lstrip("'")[:1] in _FORMULA else text


def _guarded(text: str) -> str:
    return f"'{text}" if text.lstrip("'")[:1] in _FORMULA else text


def _grid_findings(
    table: pd.DataFrame,
    levels: tuple[str, ...],
    rows: str,
    cols: str,
    say: _Words,
    catalogue: Mapping[str, Any],
) -> Iterator[dict[str, str]]:
    metrics = catalogue["metrics"]
    for model in table.model.unique():
        of_model = table[table.model == model]
        for kind in ("behaviour", "overlap"):
            named = [name for name in metrics if metrics[name]["kind"] == kind]
            pairs = {name: _pairs(of_model, name, rows, cols, levels) for name in named}
            found = (
                pairs
                if any(map(len, pairs.values()))
                else {name: _alone(of_model, name, rows, cols, levels) for name in named}
            )
            metric = next((name for name in named if len(found[name])), None)
            if metric is None:
                continue
            for technique, part in found[metric].groupby("technique", sort=False):
                subject = metrics[metric]["title"]
                if catalogue["techniques"].get(technique, {}).get("reference"):
                    continue
                if technique:
                    subject += f" of {catalogue['techniques'][technique]['title']}"
                about = {"model": model, "metric": metric, "technique": str(technique)}
                if found is pairs:
                    yield {**about, "text": _sentence(subject, str(model), part, levels, say)}
                else:
                    yield {**about, "text": _sentence_of_one(subject, str(model), part, say)}


def _sentence_of_one(subject: str, model: str, means: pd.DataFrame, say: _Words) -> str:
    """Say at which column the one level that has a value is highest, and at which lowest."""
    most, least = means.iloc[means["first"].argmax()], means.iloc[means["first"].argmin()]
    where = say.col(most["col"])
    text = (
        f"{where[:1].upper()}{where[1:]} the {subject} is {most['first']:.2f} for "
        f"{say.row(most['level'])} ({model}, {most['units']:.0f} {say.units}"
    )
    if pd.notna(most["chance"]):
        text += f"; by chance {most['chance']:.2f}"
    if most["col"] != least["col"]:
        text += f"); it is lowest {say.col(least['col'])}: {least['first']:.2f}."
    return text if text.endswith(".") else f"{text})."


def _sentence(
    subject: str, model: str, pair: pd.DataFrame, levels: tuple[str, ...], say: _Words
) -> str:
    """Say at which column two levels differ most, and at which least."""
    gap = (pair["first"] - pair["second"]).abs()
    most, least = pair.iloc[gap.argmax()], pair.iloc[gap.argmin()]
    first, second = (say.row(level) for level in levels)
    where = say.col(most["col"])
    text = (
        f"{where[:1].upper()}{where[1:]} the {subject} is {most['first']:.2f} for {first} "
        f"and {most['second']:.2f} for {second} ({model}, {most['units']:.0f} {say.units})"
    )
    if most["col"] != least["col"]:
        text += (
            f"; the difference is smallest {say.col(least['col'])}: "
            f"{least['first']:.2f} and {least['second']:.2f}"
        )
    return text + "."


def _pairs(
    table: pd.DataFrame, metric: str, rows: str, cols: str, levels: tuple[str, ...]
) -> pd.DataFrame:
    """Return the means of two levels side by side, per technique and column level."""
    chosen = table[(table.metric == metric) & table["mean"].notna()]
    first, second = (chosen[chosen[rows] == level] for level in levels)
    keys = ["technique", "target", "region", cols]
    pairs = first.merge(second, on=keys, suffixes=("_1", "_2"))
    return pd.DataFrame(
        {
            "technique": pairs.technique,
            "col": pairs[cols],
            "first": pairs.mean_1,
            "second": pairs.mean_2,
            "units": pairs[["units_1", "units_2"]].min(axis=1),
        }
    )


def _alone(
    table: pd.DataFrame, metric: str, rows: str, cols: str, levels: tuple[str, ...]
) -> pd.DataFrame:
    """Return the means of a region that one of the levels alone has: what only a shadow has."""
    own = table[(table.metric == metric) & table["mean"].notna() & table[rows].isin(levels)]
    renamed = own.rename(columns={cols: "col", "mean": "first", rows: "level"})
    return renamed[["technique", "col", "level", "first", "chance", "units"]]


def _grid_table(summary: pd.DataFrame, image_set: ImageSet, rows: str, cols: str) -> pd.DataFrame:
    """Return the part of the summary that has levels of two factors, the others pooled."""
    others = [f for f in _factor_columns(summary) if f not in (rows, cols)]
    own = summary.image_set == image_set.spec.name
    pooled = (summary[others] == POOLED).all(axis=1)
    varied = (~summary[[rows, cols]].isin([POOLED, ""])).all(axis=1)
    return summary[own & pooled & varied]


def _means(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    ok = rows.status == "ok"
    heatmaps = rows.technique != ""
    by_unit = rows[ok].groupby([*keys, "unit"], sort=False)[[*EARNED]].mean()
    means = by_unit.groupby(keys, sort=False).agg(
        mean=("value", "mean"),
        **{name: (name, "mean") for name in EARNED[1:]},
        units=("value", "count"),
    )
    marks = pd.DataFrame(
        {
            "scored": ok.astype(int),
            "total": 1,
            "dead": (rows.flag == "dead").astype(float).where(ok & heatmaps),
            **{status: (rows.status == status).astype(int) for status in STATUSES},
        }
    )
    counts = pd.concat([rows[keys], marks], axis=1).groupby(keys, sort=False)
    totals = counts.agg(
        {"scored": "sum", "total": "sum", "dead": "mean", **dict.fromkeys(STATUSES, "sum")}
    )
    table = totals.join(means).reset_index()
    table["units"] = table["units"].fillna(0).astype(int)
    return table


def _names(cell: Cell) -> tuple[str, ...]:
    request = cell.request
    of_request = (
        (request.target.name, request.technique.name, request.layer) if request else ("", "", "")
    )
    return (cell.model.name, *of_request, cell.image_set.spec.name)


def _items(image_set: ImageSet) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"item": item.id, "unit": image_set.unit_of(item)}
            | {name: item.factors.get(name, "") for name in _factors(image_set)}
            for item in image_set.items
        ]
    )


def _factors(image_set: ImageSet) -> list[str]:
    """Return the factors that a mean can keep apart: all but the unit itself."""
    return [name for name in image_set.factors if name != image_set.spec.unit]


def _factor_columns(table: pd.DataFrame) -> list[str]:
    return [str(column) for column in table if column not in RESERVED_COLUMNS]
