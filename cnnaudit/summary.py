"""Rows → means per factor level.

A mean is the mean over units (scenes) of each unit's mean, so that a unit with more pictures weighs
no more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from cnnaudit.statistics import Ints, means_of
from cnnaudit.types import EARNED, POOLED, RESERVED_COLUMNS, SORTED_BY, SUMMARY_COLUMNS

STATUSES = ("ineligible", "undefined", "not_applicable", "failed")
_FORMULA = tuple("=+-@\t\r")  # how a cell begins that a spreadsheet would run


def summarise(rows: pd.DataFrame, factors: Sequence[str] | None = None) -> pd.DataFrame:
    """Return means and counts for each model, technique, metric and combination of factor levels.

    The combinations are: all pooled, each factor, each pair of factors, and all factors together;
    `factors` are all that rows have, if no others are named.
    """
    factors = factor_columns(rows) if factors is None else [*factors]
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
    return _categorical(table, [*SORTED_BY, *factor_columns(table)])


def to_csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV in which no text can be run by a spreadsheet as a formula."""
    texts = table.select_dtypes(include=["object", "string", "category"]).columns
    table = table.assign(**{name: mapped(table[name], guarded) for name in texts})
    return table.rename(columns=guarded).to_csv(index=False).encode()  # factors are columns


def mapped(texts: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """Return a column of texts changed, each different one once: there are few in many rows."""
    return texts.map({text: change(text) for text in texts.dropna().unique()})


def unguarded(text: str) -> str:
    """Return a text as it was before `to_csv` put an apostrophe before it."""
    return text[1:] if text[:1] == "'" and text.lstrip("'")[:1] in _FORMULA else text


def guarded(text: str) -> str:
    """Return a text with an apostrophe before what a spreadsheet would run as a formula."""
    return f"'{text}" if text.lstrip("'")[:1] in _FORMULA else text


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


def factor_columns(table: pd.DataFrame) -> list[str]:
    return [str(column) for column in table if column not in RESERVED_COLUMNS]
