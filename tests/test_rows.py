"""The table of all rows, against one that is put together row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cnnaudit.audit import Prepared, compute_rows
from cnnaudit.config import load_specs
from cnnaudit.rows import collect_rows
from cnnaudit.types import EARNED, ROWS_FILE, SORTED_BY

# Two image sets, one of them with factors that the other one's pictures have no level of.
ASKED = ["technique=[saliency,grad_cam]", "metric=[mass_in_mask]", "perturbation=[haze]"]


def _row_by_row(ready: Prepared) -> list[dict[str, Any]]:
    found = []
    for cell in ready.plan.cells:
        content = ready.store.read(cell.key, ROWS_FILE)
        items = {item.id: item for item in cell.image_set.items}
        request = cell.request
        about = {
            "model": cell.model.name,
            "target": request.target.name if request else "",
            "technique": request.technique.name if request else "",
            "layer": request.layer if request else "",
            "image_set": cell.image_set.spec.name,
        }
        for row in pa.ipc.open_file(content).read_all().to_pylist():
            item = items[row["item"]]
            factors = {n: level for n, level in item.factors.items() if n != "scene"}
            found.append({**about, **row, "unit": cell.image_set.unit_of(item), **factors})
    return sorted(found, key=lambda row: [row[name] for name in (*SORTED_BY, "item")])


def test_the_table_is_what_the_cells_hold(overrides: list[str]) -> None:
    ready, rows = compute_rows(load_specs([*overrides, *ASKED]))
    expected = _row_by_row(ready)
    assert len(rows) == len(expected) > 500
    assert {"unit", "colour", "light", "perturbation", "severity"} < {*rows.columns}
    for name in rows.columns:
        if name in EARNED:
            known = np.array([row[name] for row in expected], float)
            np.testing.assert_array_equal(rows[name].to_numpy(), known)
        else:
            assert rows[name].tolist() == [row.get(name, "") for row in expected]
            assert rows[name].cat.categories.is_monotonic_increasing


def test_no_cell_gives_an_empty_table(overrides: list[str]) -> None:
    ready, rows = compute_rows(load_specs([*overrides, *ASKED]))
    empty = collect_rows([], ready.store)
    assert empty.empty
    whole = [name for name in rows.columns if name in empty.columns]
    assert pd.Index(whole).equals(empty.columns)
