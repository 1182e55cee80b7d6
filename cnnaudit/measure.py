"""What was computed of a batch → rows: a number about each image, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
from torch import Tensor

from cnnaudit.heatmaps import Result
from cnnaudit.metrics import (
    CHANNELS,
    EMPTY_MASK,
    FAITHFULNESS,
    OVERLAP,
    Columns,
    Score,
    behaviour,
    behaviour_of,
    measure_behaviour,
    measure_channels,
    measure_faithfulness,
    measure_overlap,
    measured,
)
from cnnaudit.metrics.truths import truth_array
from cnnaudit.specs import MetricSpec, ModelSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.procedures import upsampled
from cnnaudit.types import (
    EARNED,
    ROW_COLUMNS,
    Batch,
    Cell,
    Channels,
    Heatmaps,
    Masks,
    MetricRow,
    NoHeatmaps,
    Status,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cnnaudit.metrics.readout import Later, Readout

HEATMAP = "heatmap"  # of a cell that measures nothing: why there is none to be compared
VANISHED_MASK = "vanished_mask"  # by resizing or cropping

_TEXT = pa.dictionary(pa.int32(), pa.string())  # few texts, in many rows
_SCHEMA = pa.schema([(name, pa.float64() if name in EARNED else _TEXT) for name in ROW_COLUMNS])


def rows_of(
    cell: Cell,
    result: Result,
    batch: Batch,
    metrics: Sequence[MetricSpec],
    readout: Readout,
    twin: Result | None = None,
) -> Later[list[MetricRow]]:
    """Return the rows of one request's heatmaps, or channels, of a batch on its device.

    `twin` has what the same request gave of the untrained network, where that was asked.
    """
    if isinstance(result, NoHeatmaps):
        refused = without_value(cell, batch.ids, metrics, result.status, result.reason)
        return lambda: refused
    if isinstance(result, Channels):
        columns = measure_channels(result.maps, batch.images, readout)
        return lambda: _rows(batch, "", columns(), {})
    on_masks = _overlap_rows(cell, result, batch, metrics, readout, twin)
    by_network = [metric for metric in metrics if metric.uses in FAITHFULNESS]
    asked = measure_faithfulness(result.maps, result.scorer, by_network, readout)
    said = {name: readout.later(values) for name, values in result.diagnostics.items()}

    def rows() -> list[MetricRow]:
        diagnostics = {name: [*map(measured, values().tolist())] for name, values in said.items()}
        found = [*on_masks(), *_rows(batch, "", {**asked(), **diagnostics}, {})]
        left_out = {batch.ids[index]: reason for index, reason in result.ineligible.items()}
        kept = [row for row in found if row.item not in left_out]
        for item, reason in left_out.items():
            kept += without_value(cell, [item], metrics, "ineligible", reason)
        return kept

    return rows


def behaviour_rows(
    spec: ModelSpec, outputs: Tensor, batch: Batch, readout: Readout
) -> Later[list[MetricRow]]:
    """Return the rows of a model's outputs (B, N) of a batch."""
    answers, truths = readout.later(outputs), truths_of(spec, batch, outputs.shape[1])

    def rows() -> list[MetricRow]:
        found = []
        for item, output, truth in zip(batch.ids, answers(), truths, strict=True):
            answer = behaviour.answer(spec.task, output, spec.gives)
            scores = measure_behaviour(spec.task, answer, truth)
            found += [_row(item, "", name, score) for name, score in scores.items()]
        return found

    return rows


def without_value(
    cell: Cell, items: Iterable[str], metrics: Sequence[MetricSpec], status: Status, reason: str
) -> list[MetricRow]:
    """Return the rows of items of which a cell has no number."""
    score = Score(None, None, "", status, reason)
    return [
        _row(item, region, name, score)
        for item in items
        for region, name in _measured_in(cell, metrics)
    ]


def truths_of(spec: ModelSpec, batch: Batch, outputs: int) -> list[NDArray[np.float64] | None]:
    """Return the truth (N,) of each of a batch's images for a model with N outputs."""
    return [truth_array(spec, batch.truths.get(item.id), outputs) for item in batch.items]


def rows_file(rows: Iterable[MetricRow]) -> bytes:
    """Return rows as an Arrow file, in an order of their own: an audit has thousands to read."""
    ordered = sorted(rows, key=lambda row: (row.item, row.region, row.metric))
    columns = ([getattr(row, name) for row in ordered] for name in ROW_COLUMNS)
    table = pa.table(dict(zip(ROW_COLUMNS, columns, strict=True)), schema=_SCHEMA)
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, _SCHEMA) as file:
        file.write_table(table)
    return bytes(content.getvalue())


def _measured_in(cell: Cell, metrics: Sequence[MetricSpec]) -> list[tuple[str, str]]:
    """Return the (region, metric) of which a cell has a row for each item."""
    if cell.request is None:
        return [("", name) for name in behaviour_of(cell.model.task)]
    technique = TECHNIQUES[cell.request.technique.uses]
    if technique.gives == "channels":
        return [("", name) for name in CHANNELS]
    panel = [(metric.region, metric.name) for metric in metrics] or [("", HEATMAP)]
    return [*panel, *(("", name) for name in technique.diagnostics)]


def _overlap_rows(
    cell: Cell,
    result: Heatmaps,
    batch: Batch,
    metrics: Sequence[MetricSpec],
    readout: Readout,
    twin: Result | None,
) -> Later[list[MetricRow]]:
    measured_in: dict[str, dict[str, Later[Columns]]] = {}  # region → column of a row → its scores
    for region in dict.fromkeys(metric.region for metric in metrics if metric.uses in OVERLAP):
        panel = [metric for metric in metrics if metric.uses in OVERLAP and metric.region == region]
        masks, swaps = (_each(kind, region, batch) for kind in (batch.masks, batch.swaps))
        compared = {"value": (result.maps, masks), "swap": (result.maps, swaps)}
        if isinstance(twin, Heatmaps):
            compared["twin"] = twin.maps, masks
        if cell.request is not None and cell.request.layer and region in batch.masks:
            compared["ceiling"] = _at_resolution(batch.masks[region], result), masks
        measured_in[region] = {
            name: measure_overlap(*pair, panel, readout) for name, pair in compared.items()
        }

    def rows() -> list[MetricRow]:
        found = []
        for region, columns in measured_in.items():
            beside = {name: scores() for name, scores in columns.items()}
            own = _with_reasons(beside.pop("value"), batch, region)
            found += _rows(batch, region, own, beside)
        return found

    return rows


def _each(masks: Mapping[str, Masks], region: str, batch: Batch) -> Sequence[Tensor | None]:
    return masks[region].each() if region in masks else [None] * len(batch)


def _at_resolution(masks: Masks, result: Heatmaps) -> Tensor:
    """Return masks as the best heatmaps that a layer's grid can give, (B, H, W) in 0–1."""
    import torch

    perfect = masks.pixels.to(result.maps.device).float()[:, None]
    coarse = torch.nn.functional.interpolate(perfect, result.grid, mode="area")[:, 0]
    return upsampled(coarse, tuple(perfect.shape[-2:]))


def _with_reasons(columns: Columns, batch: Batch, region: str) -> Columns:
    """Tell a mask that was empty from one that lost its pixels on the way to the input."""
    return {
        name: [
            replace(score, reason=VANISHED_MASK)
            if score.reason == EMPTY_MASK and (region, item) in batch.vanished
            else score
            for score, item in zip(scores, batch.ids, strict=True)
        ]
        for name, scores in columns.items()
    }


def _rows(
    batch: Batch,
    region: str,
    columns: Columns,
    beside: Mapping[str, Columns],
) -> list[MetricRow]:
    """Return a row for each metric and image; `beside` has what references earned."""
    return [
        _row(
            item,
            region,
            metric,
            score,
            {name: found[metric][index].value for name, found in beside.items()},
        )
        for metric, column in columns.items()
        for index, (item, score) in enumerate(zip(batch.ids, column, strict=True))
    ]


def _row(
    item: str,
    region: str,
    metric: str,
    score: Score,
    earned: Mapping[str, float | None] | None = None,
) -> MetricRow:
    beside = earned if earned and score.status == "ok" else {}
    return MetricRow(
        item,
        region,
        metric,
        score.value,
        score.chance,
        score.lift,
        beside.get("swap"),
        beside.get("twin"),
        beside.get("ceiling"),
        score.flag,
        score.status,
        score.reason,
    )
