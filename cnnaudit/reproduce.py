"""A stored run once more, from scratch: which of its cells agree, and what else is different."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from cnnaudit import audit as stages
from cnnaudit.provenance import differences
from cnnaudit.report.run import load
from cnnaudit.specs import AuditSpec
from cnnaudit.types import CELL_COLUMNS, EARNED

TOLERANCE = 1e-5  # of a number on the scale of its column, up to which it agrees
_ITEM = ("item", "region", "metric")
_TEXTS = ("flag", "status", "reason")


@dataclass(frozen=True)
class Reproduction:
    lines: tuple[str, ...]  # what was found, in words
    agrees: bool


def reproduce(run_dir: Path, audit: AuditSpec) -> Reproduction:
    """Compute every cell of a run again in a store of its own, and compare; keeps nothing.

    `audit` is the run's own. Raises AuditError if the run directory or its inputs cannot be read.
    """
    before = load(run_dir)
    with TemporaryDirectory(prefix="cnnaudit-") as folder:
        fresh = replace(audit, store_dir=Path(folder) / "store", output_dir=Path(folder) / "runs")
        ready, executed, rows = stages.compute_rows(fresh)
    lines = compare_rows(before.rows, rows)
    about = stages.environment(ready, executed)
    recorded = {key: before.manifest.get(key) for key in about}
    different = [f"{what} is {now}, was {was}" for what, was, now in differences(recorded, about)]
    agrees = all(agreed for agreed, _ in lines)
    return Reproduction(
        (
            *(text for _, text in lines),
            *(f"different now: {text}" for text in different or ["nothing in the environment"]),
        ),
        agrees,
    )


def compare_rows(before: pd.DataFrame, after: pd.DataFrame) -> list[tuple[bool, str]]:
    """Return for each cell of rows, of one model and technique, whether it agrees and how far."""
    first, second = map(_indexed, (before, after))
    index = first.index.union(second.index)
    lonely = pd.Series(~(index.isin(first.index) & index.isin(second.index)), index)
    first, second = first.reindex(index), second.reindex(index)
    texts = (first[[*_TEXTS]].fillna("") != second[[*_TEXTS]].fillna("")).any(axis=1)
    one, other = (side[[*EARNED]].to_numpy(np.float64) for side in (first, second))
    apart = np.abs(one - other) / np.maximum(1, np.abs(one))
    apart[np.isnan(one) & np.isnan(other)] = 0
    furthest = pd.Series(np.nan_to_num(apart, nan=np.inf).max(axis=1), index)
    off = texts | lonely | (furthest > TOLERANCE)
    found = pd.DataFrame({"off": off, "lonely": lonely, "furthest": furthest}).reset_index()
    return [_compared(part) for _, part in found.groupby([*CELL_COLUMNS], sort=True)]


def _indexed(rows: pd.DataFrame) -> pd.DataFrame:
    keys = [*CELL_COLUMNS, *_ITEM]
    texts = rows[[*keys, *_TEXTS]].astype(str)
    return pd.concat([texts, rows[[*EARNED]]], axis=1).set_index(keys)


def _compared(rows: pd.DataFrame) -> tuple[bool, str]:
    cell, off, lonely = rows.iloc[0], int(rows.off.sum()), int(rows.lonely.sum())
    what = " of ".join(filter(None, (cell.technique, cell.target))) or "behaviour"
    furthest = rows.furthest.max()
    if off:
        found = f"{off} of {len(rows)} rows DIFFER"
        found += f", {lonely} are on one side only" if lonely else f", by up to {furthest:.2g}"
    else:
        found = f"{len(rows)} rows agree " + (f"within {furthest:.1g}" if furthest else "exactly")
    return not off, f"{cell.model} on {cell.image_set}, {what}: {found}"
