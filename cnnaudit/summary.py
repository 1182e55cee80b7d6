"""Rows → means per factor level, findings in words.

A mean is the mean over units (scenes) of each unit's mean, so that a unit with more pictures weighs
no more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cnnaudit.statistics import Ints, means_of
from cnnaudit.types import EARNED, POOLED, RESERVED_COLUMNS, SORTED_BY, SUMMARY_COLUMNS, ImageSet

STATUSES = ("ineligible", "undefined", "not_applicable", "failed")
_FORMULA = tuple("=+-@\t\r")  # how a cell begins that a spreadsheet would run


def summarise(rows: pd.DataFrame, factors: Sequence[str] | None = None) -> pd.DataFrame:
    """Return means and counts for each model, technique, metric and combination of factor levels.

    The combinations are: all pooled, each factor, each pair of factors, and all factors together;
    `factors` are all that rows have, if no others are named.
    """
    factors = _factor_columns(rows) if factors is None else [*factors]
    rows = rows.assign(unit=rows["unit"].astype("category"))  # of which the order does not matter
    rows = _categorical(_categorical(rows, SORTED_BY), factors, [POOLED])
    sizes = sorted({0, 1, 2, len(factors)} & set(range(len(factors) + 1)))
    scores = _Scores(rows)
    tables = []
    for size in sizes:
        for kept in combinations(factors, size):
            table = scores.means(kept)
            for factor in factors:
                if factor not in kept:
                    levels = rows[factor].cat.categories
                    table[factor] = pd.Categorical([POOLED] * len(table), levels)
            tables.append(table)
    summary = pd.concat(tables, ignore_index=True)
    columns = [*SORTED_BY, *factors, *SUMMARY_COLUMNS, *STATUSES]
    return summary[columns].sort_values([*SORTED_BY, *factors], ignore_index=True)


def united(summaries: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the summaries of pieces of rows, in the order of their subjects, as one."""
    if len(summaries) == 1:
        return summaries[0]
    table = pd.concat(summaries, ignore_index=True)
    return _categorical(table, [*SORTED_BY, *_factor_columns(table)])


def find(
    summary: pd.DataFrame, image_sets: Iterable[ImageSet], catalogue: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Say in a sentence each what the declared grids show, behaviour before heatmaps.

    Of a grid's row factor the first two levels are compared, at the column where they differ most;
    where behaviour differs most comes first.
    """
    found = []
    for image_set in image_sets:
        for number, grid in enumerate(image_set.spec.grids):
            levels = grid.levels or image_set.levels(grid.rows)
            if len(levels) < 2 or not grid.crosses_factors:
                continue
            table = _grid_table(summary, image_set, grid.rows, grid.cols)
            say = _Words(image_set, grid.rows, grid.cols)
            told = _grid_findings(table, levels, grid.rows, grid.cols, say, catalogue)
            for finding, gap in told:
                place = {"image_set": image_set.spec.name, "grid": str(number)}
                found.append(({**finding, **place}, gap))
    findings = [finding for finding, _ in sorted(found, key=lambda one: -one[1])]
    return [
        *(one for one in findings if not one["technique"]),
        *(one for one, _ in found if one["technique"]),
    ]


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
    texts = table.select_dtypes(include=["object", "string", "category"]).columns
    guarded = {name: mapped(table[name], _guarded) for name in texts}
    return table.assign(**guarded).to_csv(index=False).encode()


def mapped(texts: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """Return a column of texts changed, each different one once: there are few in many rows."""
    return texts.map({text: change(text) for text in texts.dropna().unique()})


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
) -> Iterator[tuple[dict[str, str], float]]:
    """Yield findings, each with how far its two levels are apart."""
    metrics = catalogue["metrics"]
    for model in table.model.unique():
        of_model = table[(table.model == model) & table["mean"].notna()]
        measured = {*of_model["metric"].unique()}
        for kind in ("behaviour", "overlap"):
            named = [n for n in metrics if metrics[n]["kind"] == kind and n in measured]
            for gather in (_pairs, _alone):
                tables = ((name, gather(of_model, name, rows, cols, levels)) for name in named)
                metric, found = next((one for one in tables if len(one[1])), ("", None))
                if found is not None:
                    break
            else:
                continue
            several = found["target"].nunique() > 1
            keys = ["technique", "target"]
            for (technique, target), part in found.groupby(keys, sort=False, observed=True):
                subject = metrics[metric]["title"]
                if catalogue["techniques"].get(technique, {}).get("reference"):
                    continue
                if technique:
                    subject += f" of {catalogue['techniques'][technique]['title']}"
                    subject += f" for the target {target!r}" * several
                about = {"model": model, "metric": metric, "technique": str(technique)}
                if gather is _pairs:
                    text = _sentence(subject, str(model), part, levels, say)
                    yield {**about, "text": text}, (part["first"] - part["second"]).abs().max()
                else:
                    yield {**about, "text": _sentence_of_one(subject, str(model), part, say)}, 0.0


def _sentence_of_one(subject: str, model: str, means: pd.DataFrame, say: _Words) -> str:
    """Say where what has no counterpart at another level is highest, and where lowest."""
    most, least = means.iloc[means["first"].argmax()], means.iloc[means["first"].argmin()]
    where = say.col(most["col"])
    text = (
        f"{where[:1].upper()}{where[1:]} the {subject} is {most['first']:.2f} for "
        f"{say.row(most['level'])} ({model}, {most['units']:.0f} {say.units}"
    )
    if pd.notna(most["chance"]):
        text += f"; by chance {most['chance']:.2f}"
    if most.name != least.name:
        other = f" for {say.row(least['level'])}" * (most["level"] != least["level"])
        text += f"); it is lowest {say.col(least['col'])}{other}: {least['first']:.2f}."
    return text if text.endswith(".") else f"{text})."


def _sentence(
    subject: str, model: str, pair: pd.DataFrame, levels: tuple[str, ...], say: _Words
) -> str:
    """Say at which column two levels differ most, and at which least."""
    gap = (pair["first"] - pair["second"]).abs()
    most, least = pair.iloc[gap.argmax()], pair.iloc[gap.argmin()]
    first, second = (say.row(level) for level in levels[:2])
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
    """Return the means of two levels side by side, per technique, target and column level."""
    chosen = table[table.metric == metric]
    first, second = (chosen[chosen[rows] == level] for level in levels[:2])
    keys = ["technique", "target", "region", cols]
    pairs = first.merge(second, on=keys, suffixes=("_1", "_2"))
    return pd.DataFrame(
        {
            "technique": pairs.technique,
            "target": pairs.target,
            "col": pairs[cols],
            "first": pairs.mean_1,
            "second": pairs.mean_2,
            "units": pairs[["units_1", "units_2"]].min(axis=1),
        }
    )


def _alone(
    table: pd.DataFrame, metric: str, rows: str, cols: str, levels: tuple[str, ...]
) -> pd.DataFrame:
    """Return the means that have none beside them: of a region that only a shadow has."""
    own = table[(table.metric == metric) & table[rows].isin(levels)]
    renamed = own.rename(columns={cols: "col", "mean": "first", rows: "level"})
    return renamed[["technique", "target", "col", "level", "first", "chance", "units"]]


def _grid_table(summary: pd.DataFrame, image_set: ImageSet, rows: str, cols: str) -> pd.DataFrame:
    """Return the part of the summary that has levels of two factors, the others pooled."""
    others = [f for f in _factor_columns(summary) if f not in (rows, cols)]
    own = summary.image_set == image_set.spec.name
    pooled = (summary[others] == POOLED).all(axis=1)
    varied = (~summary[[rows, cols]].isin([POOLED, ""])).all(axis=1)
    return summary[own & pooled & varied]


class _Scores:
    """The numbers of rows as arrays, to be averaged by one choice of columns after another."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows
        self._ok = ok = (rows["status"] == "ok").to_numpy()
        dead = (rows["flag"] == "dead").to_numpy()
        is_heatmap = (rows["technique"] != "").to_numpy()
        self._dead = np.where(ok & is_heatmap, dead, np.nan)
        self._marks = {"scored": ok, "total": np.ones(len(rows), bool)}
        self._marks |= {one: (rows["status"] == one).to_numpy() for one in STATUSES}
        self._every = self._within(np.zeros(len(rows), np.int64), SORTED_BY)

    def means(self, factors: Iterable[str]) -> pd.DataFrame:
        """Return the means and counts of each group of rows, of which some factors are equal."""
        factors = [*factors]
        group = self._within(self._every, factors)
        table = (
            self._rows[[*SORTED_BY, *factors]].iloc[_first_of_each(group)].reset_index(drop=True)
        )
        for name, marked in self._marks.items():
            table[name] = np.bincount(group[marked], minlength=len(table))
        table["dead"] = means_of(group, self._dead, len(table))
        cell = self._within(group, ["unit"])
        group_of_cell = group[_first_of_each(cell)]
        for name in EARNED:
            values = np.where(self._ok, self._rows[name].to_numpy(np.float64), np.nan)
            of_units = means_of(cell, values, len(group_of_cell))
            column = "mean" if name == "value" else name
            table[column] = means_of(group_of_cell, of_units, len(table))
            if name == "value":
                scored = group_of_cell[~np.isnan(of_units)]
                table["units"] = np.bincount(scored, minlength=len(table))
        return table

    def _within(self, group: Ints, columns: Iterable[str]) -> Ints:
        """Divide groups of rows by columns; numbers go up in the order in which groups begin."""
        for column in columns:
            codes = self._rows[column].cat
            parts = group * max(len(codes.categories), 1) + codes.codes.to_numpy(np.int64)
            group = np.asarray(pd.factorize(parts)[0], np.int64)
        return group


def _first_of_each(group: Ints) -> Ints:
    """Return where each of the groups that `_within` numbers begins."""
    highest = np.maximum.accumulate(group)
    return np.flatnonzero(np.diff(highest, prepend=-1))


def _categorical(
    table: pd.DataFrame, columns: Iterable[str], more: Iterable[str] = ()
) -> pd.DataFrame:
    """Return a table with some columns as categories in sorted order, `more` among them."""
    made: dict[str, Any] = {}
    for column in columns:
        texts = table[column]
        if not isinstance(texts.dtype, pd.CategoricalDtype):
            made[column] = pd.Categorical(texts, sorted({*texts, *more}))
            continue
        known = list(texts.cat.categories)
        if known != (wanted := sorted({*known, *more})):
            made[column] = texts.cat.set_categories(wanted)
    return table.assign(**made)


def _factor_columns(table: pd.DataFrame) -> list[str]:
    return [str(column) for column in table if column not in RESERVED_COLUMNS]
