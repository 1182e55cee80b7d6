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
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.procedures import upsampled
from cnnaudit.types import (
    EARNED,
    ROW_COLUMNS,
    Batch,
    Cell,
    Channels,
    Heatmaps,
    MetricRow,
    MetricSpec,
    ModelSpec,
    NoHeatmaps,
    Status,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Swaps = Mapping[tuple[str, str], Tensor]  # (item id, region) → its partner's mask (H, W)

HEATMAP = "heatmap"  # of a cell that measures nothing: why there is none to be compared
VANISHED_MASK = "vanished_mask"  # by resizing or cropping

_TEXT = pa.dictionary(pa.int32(), pa.string())  # few texts, in many rows
_SCHEMA = pa.schema([(name, pa.float64() if name in EARNED else _TEXT) for name in ROW_COLUMNS])


def rows_of(
    cell: Cell,
    result: Result,
    batch: Batch,
    metrics: Sequence[MetricSpec],
    swaps: Swaps,
    twin: Result | None = None,
) -> list[MetricRow]:
    """Return the rows of one request's heatmaps, or channels, of a batch.

    `twin` has what the same request gave of the untrained network, where that was asked.
    """
    if isinstance(result, NoHeatmaps):
        return without_value(cell, batch.ids, metrics, result.status, result.reason)
    if isinstance(result, Channels):
        scores = measure_channels(result.maps, batch.images)
        return [row for name, column in scores.items() for row in _column(batch, "", name, column)]
    on_masks = [metric for metric in metrics if metric.uses in OVERLAP]
    rows = _overlap_rows(cell, result, batch, on_masks, swaps, twin)
    by_network = [metric for metric in metrics if metric.uses in FAITHFULNESS]
    for name, column in measure_faithfulness(result.maps, result.scorer, by_network).items():
        rows += _column(batch, "", name, column)
    for name, values in result.diagnostics.items():
        rows += _column(batch, "", name, [measured(value) for value in values.tolist()])
    left_out = {batch.ids[index]: reason for index, reason in result.ineligible.items()}
    kept = [row for row in rows if row.item not in left_out]
    for item, reason in left_out.items():
        kept += without_value(cell, [item], metrics, "ineligible", reason)
    return kept


def behaviour_rows(spec: ModelSpec, outputs: Tensor, batch: Batch) -> list[MetricRow]:
    """Return the rows of a model's outputs (B, N) of a batch."""
    rows = []
    answers = outputs.double().cpu().numpy()
    truths = truths_of(spec, batch, outputs.shape[1])
    for item, output, truth in zip(batch.items, answers, truths, strict=True):
        answer = behaviour.answer(spec.task, output, spec.gives)
        scores = measure_behaviour(spec.task, answer, truth)
        rows += [_row(item.id, "", name, score) for name, score in scores.items()]
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
    swaps: Swaps,
    twin: Result | None,
) -> list[MetricRow]:
    rows = []
    for region in dict.fromkeys(metric.region for metric in metrics):
        masks = [batch.masks.get(region, {}).get(item.id) for item in batch.items]
        compared = {"swap": (result.maps, [swaps.get((item.id, region)) for item in batch.items])}
        if isinstance(twin, Heatmaps):
            compared["twin"] = twin.maps, masks
        if cell.request is not None and cell.request.layer:
            compared["ceiling"] = _at_resolution(masks, result), masks
        panel = [metric for metric in metrics if metric.region == region]
        own = measure_overlap(result.maps, masks, panel)
        beside = {name: measure_overlap(*pair, panel) for name, pair in compared.items()}
        for name, scores in own.items():
            reasoned = _with_reasons(scores, batch, region)
            references = {column: found[name] for column, found in beside.items()}
            rows += _column(batch, region, name, reasoned, references)
    return rows


def _at_resolution(masks: Sequence[Tensor | None], result: Heatmaps) -> Tensor:
    """Return masks as the best heatmaps that a layer's grid can give, (B, H, W) in 0–1."""
    import torch

    perfect = torch.zeros_like(result.maps, dtype=torch.float32)
    for place, mask in zip(perfect, masks, strict=True):
        if mask is not None:
            place.copy_(mask)
    coarse = torch.nn.functional.interpolate(perfect[:, None], result.grid, mode="area")[:, 0]
    return upsampled(coarse, tuple(perfect.shape[-2:]))


def _with_reasons(scores: Iterable[Score], batch: Batch, region: str) -> list[Score]:
    """Tell a mask that was empty from one that lost its pixels on the way to the input."""
    return [
        replace(score, reason=VANISHED_MASK)
        if score.reason == EMPTY_MASK and (region, item) in batch.vanished
        else score
        for score, item in zip(scores, batch.ids, strict=True)
    ]


def _column(
    batch: Batch,
    region: str,
    metric: str,
    scores: Sequence[Score],
    references: Mapping[str, Sequence[Score]] | None = None,
) -> list[MetricRow]:
    rows = []
    for index, (item, score) in enumerate(zip(batch.ids, scores, strict=True)):
        earned = {name: column[index].value for name, column in (references or {}).items()}
        rows.append(_row(item, region, metric, score, earned))
    return rows


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
