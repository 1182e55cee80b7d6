"""A stored run once more, from scratch: which of its numbers agree, and what else is different."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd

from cnnaudit import audit as stages
from cnnaudit.agreement import agreement_table, to_compare
from cnnaudit.environment import environment
from cnnaudit.provenance import differences
from cnnaudit.randomisation import randomisation_table, to_randomise
from cnnaudit.report.run import load
from cnnaudit.specs import AuditSpec
from cnnaudit.totals import died_of
from cnnaudit.types import CELL_COLUMNS, EARNED

TOLERANCE = 1e-5  # of a number on the scale of its column, up to which it agrees


class Kind(NamedTuple):
    """A kind of table: the columns that tell its cells apart, and what is compared within one."""

    title: str
    cell: tuple[str, ...]
    place: tuple[str, ...]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]


_CORRELATION = ("correlation", "low", "high", "scored")
_SUBJECT = ("image_set", "model", "target", "technique")
ROWS = Kind(
    title="",
    cell=tuple(CELL_COLUMNS),
    place=("item", "region", "metric"),
    numbers=tuple(EARNED),
    texts=("flag", "status", "reason"),
)
CURVES = Kind(
    title="randomised, ",
    cell=("sanity", *_SUBJECT),
    place=("step",),
    numbers=_CORRELATION,
    texts=("layers", "status"),
)
AGREEMENT = Kind(
    title="agreement, ",
    cell=("between", *_SUBJECT),
    place=("within", "first", "second"),
    numbers=_CORRELATION,
    texts=("status",),
)


_INCOMPLETE = "the run is INCOMPLETE: what failed in it is compared as what failed"


@dataclass(frozen=True)
class Reproduction:
    lines: tuple[str, ...]  # what was found, in words
    agrees: bool


def reproduce(run_dir: Path, audit: AuditSpec) -> Reproduction:
    """Compute every number of a run again in a store of its own, and compare; keeps nothing.

    `audit` is the run's own. Raises AuditError if the run directory or its inputs cannot be read.
    """
    before = load(run_dir)
    with TemporaryDirectory(prefix="cnnaudit-") as folder:
        fresh = replace(audit, store_dir=Path(folder) / "store", output_dir=Path(folder) / "runs")
        ready, executed, rows = stages.compute_rows(fresh)
        compared = to_compare(ready.audit, ready.image_sets, ready.plan.cells)
        tables = (
            (ROWS, before.rows, rows),
            (CURVES, pd.DataFrame(before.randomisations), _randomised(ready, rows)),
            (AGREEMENT, pd.DataFrame(before.agreements), agreement_table(compared, ready.store)),
        )
        lines = [line for kind, *both in tables for line in compare(kind, *both)]
    about = environment(ready, executed)
    recorded = {key: before.manifest.get(key) for key in about}
    different = [f"{what} is {now}, was {was}" for what, was, now in differences(recorded, about)]
    agrees = all(agreed for agreed, _ in lines)
    return Reproduction(
        (
            *(text for _, text in lines),
            *[_INCOMPLETE] * (not before.is_complete),
            *(f"different now: {text}" for text in different or ["nothing in the environment"]),
        ),
        agrees,
    )


def _randomised(ready: stages.Prepared, rows: pd.DataFrame) -> pd.DataFrame:
    curves = to_randomise(ready.audit, ready.requests, ready.image_sets, died_of(rows))
    errands = [errand for one in curves for errand in one.errands(ready.store)]
    stages.EXECUTORS[ready.audit.executor.uses].make(ready.audit, errands, ready.store)
    return randomisation_table(curves, ready.store)


def compare(kind: Kind, before: pd.DataFrame, after: pd.DataFrame) -> Iterator[tuple[bool, str]]:
    """Yield of each cell of two tables whether it agrees, and how far."""
    first, second = (_indexed(kind, table) for table in (before, after))
    index = first.index.union(second.index)
    lonely = pd.Series(~(index.isin(first.index) & index.isin(second.index)), index)
    first, second = first.reindex(index), second.reindex(index)
    texts = first[[*kind.texts]].fillna("") != second[[*kind.texts]].fillna("")
    one, other = (side[[*kind.numbers]].to_numpy(np.float64) for side in (first, second))
    apart = np.abs(one - other) / np.maximum(1, np.abs(one))
    apart[np.isnan(one) & np.isnan(other)] = 0
    furthest = pd.Series(np.nan_to_num(apart, nan=np.inf).max(axis=1), index)
    off = texts.any(axis=1) | lonely | (furthest > TOLERANCE)
    found = pd.DataFrame({"off": off, "lonely": lonely, "furthest": furthest}).reset_index()
    for _, part in found.groupby([*kind.cell], sort=True):
        yield _compared(kind, part)


def _indexed(kind: Kind, table: pd.DataFrame) -> pd.DataFrame:
    keys = [*kind.cell, *kind.place]
    if table.empty:  # it may come without columns
        table = pd.DataFrame(columns=[*keys, *kind.numbers, *kind.texts])
    steps = {name: float for name in keys if pd.api.types.is_numeric_dtype(table[name])}
    texts = table[[*keys, *kind.texts]].astype(steps).astype(str)  # 1 is 1.0
    return pd.concat([texts, table[[*kind.numbers]]], axis=1).set_index(keys)


def _compared(kind: Kind, rows: pd.DataFrame) -> tuple[bool, str]:
    cell, off, lonely = rows.iloc[0], int(rows.off.sum()), int(rows.lonely.sum())
    what = " of ".join(filter(None, (cell.technique, cell.target))) or "behaviour"
    furthest = rows.furthest.max()
    number = f"{len(rows)} row{'s' * (len(rows) != 1)}"
    if off:
        found = f"{off} of {number} DIFFER"
        by = f"by up to {furthest:.2g}" if furthest > TOLERANCE else "in what is said of them"
        found += f", {lonely} are on one side only" if lonely else f", {by}"
    else:
        found = f"{number} agree " + (f"within {furthest:.1g}" if furthest else "exactly")
    model = cell.model or "models"
    return not off, f"{model} on {cell.image_set}, {kind.title}{what}: {found}"
