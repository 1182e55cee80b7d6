"""The table of all rows, against one that is put together row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnaudit import rows as rows_module
from cnnaudit.audit import Invocation, Prepared, compute_rows, run_audit
from cnnaudit.config import load_specs
from cnnaudit.report.run import load
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
    ready, _, rows = compute_rows(load_specs([*overrides, *ASKED]))
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


CHECK = "{contrast: colour, metric: mass_in_mask, technique: [grad_cam, smooth_random]"
COMPARED = [
    "model=[perception,perception_mixed]",
    "technique=[saliency,grad_cam,edges,smooth_random,hires_cam,layer_cam]",
    *("metric=[overlap]", "perturbation=[haze]", "contrast=[colour,shadow,models,techniques]"),
    *("check=[robot]", f"+check.both={CHECK}, require: {{lift: {{min: 0.1}}}}}}"),
    *(f"contrast.{name}.image_set=robot_lighting" for name in ("colour", "models", "techniques")),
    *("contrast.models.levels=[perception,perception_mixed]", "contrast.models.within=[light]"),
    "contrast.techniques.levels=[saliency,grad_cam]",
]


def test_a_run_says_the_same_if_its_rows_come_in_pieces(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in memory at a time: every table, and what the report shows of them."""

    def run() -> Path:
        audit = load_specs([*overrides, *COMPARED])
        return run_audit(audit, Invocation("run", [], config="")).run_dir

    whole = run()
    assert pq.ParquetFile(whole / "results/rows.parquet").num_row_groups == 1
    table = pd.read_csv(whole / "results/contrasts.csv")
    assert len(table) > 20
    hits = table[(table.metric == "pointing_game") & table.difference.notna()]
    assert len(hits) > 5
    assert (hits.high - hits.low > 0.1).all()  # of images that score 0 or 1 nothing is certain
    rows, shown = pd.read_parquet(whole / "results/rows.parquet").astype(object), load(whole)
    pictured = {one["item"] for one in shown.pictures}
    assert {*shown.rows_shown["item"]} == pictured < {*shown.rows["item"]}
    assert shown.lacking
    for items_at_once, rows_at_once in ((1, 1), (60, 10**6), (10**6, 100)):
        monkeypatch.setattr(rows_module, "ITEMS_AT_ONCE", items_at_once)
        monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", rows_at_once)
        pieces = run()
        assert pq.ParquetFile(pieces / "results/rows.parquet").num_row_groups > 3
        results = [f"results/{name}.csv" for name in ("contrasts", "summary", "checks")]
        for name in (*results, "results/illustrations.json", "summary.json"):
            assert (pieces / name).read_bytes() == (whole / name).read_bytes()
        own = pd.read_parquet(pieces / "results/rows.parquet")
        pd.testing.assert_frame_equal(own.astype(object), rows)
        again = load(pieces)
        assert again.lacking == shown.lacking
        assert len(again.rows_shown) == len(shown.rows_shown)


def test_no_cell_gives_an_empty_table(overrides: list[str]) -> None:
    ready, _, rows = compute_rows(load_specs([*overrides, *ASKED]))
    empty = collect_rows([], ready.store)
    assert empty.empty
    whole = [name for name in rows.columns if name in empty.columns]
    assert pd.Index(whole).equals(empty.columns)
