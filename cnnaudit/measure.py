"""What was computed of a batch → rows: a number about each image, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
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
from cnnaudit.metrics.readout import Readout
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

    from cnnaudit.metrics.readout import Later

HEATMAP = "heatmap"  # the metric of rows that say why an audit without metrics has no heatmap
VANISHED_MASK = "vanished_mask"  # by resizing or cropping

_TEXT = pa.dictionary(pa.int32(), pa.string())  # few texts, in many rows
_SCHEMA = pa.schema([(name, pa.float64() if name in EARNED else _TEXT) for name in ROW_COLUMNS])


class Measuring:
    """What is measured of a batch on its device; rows come when all of it has been computed."""

    def __init__(self, batch: Batch, metrics: Sequence[MetricSpec]) -> None:
        self._batch, self._metrics, self._readout = batch, metrics, Readout()
        self._ceilings: dict[tuple[str, tuple[int, int]], Later[Columns]] = {}

    def heatmap_rows(
        self, cell: Cell, result: Result, twin: Result | None = None
    ) -> Later[list[MetricRow]]:
        """Return the rows of one request's heatmaps, or channels.

        `twin` has what the same request gave of the untrained network, where that was asked.
        """
        batch, metrics, readout = self._batch, self._metrics, self._readout
        if isinstance(result, NoHeatmaps):
            refused = without_value(cell, batch.ids, metrics, result.status, result.reason)
            return lambda: refused
        if isinstance(result, Channels):
            columns = measure_channels(result.maps, batch.images, readout)
            return lambda: _rows(batch, "", columns(), {})
        on_masks = self._overlap_rows(cell, result, twin)
        by_network = [metric for metric in metrics if metric.uses in FAITHFULNESS]
        asked = measure_faithfulness(result.maps, result.scorer, by_network, readout)
        said = {name: readout.later(values) for name, values in result.diagnostics.items()}

        def rows() -> list[MetricRow]:
            told = {name: [*map(measured, values().tolist())] for name, values in said.items()}
            found = [*on_masks(), *_rows(batch, "", {**asked(), **told}, {})]
            left_out = {batch.ids[index]: reason for index, reason in result.ineligible.items()}
            kept = [row for row in found if row.item not in left_out]
            for item, reason in left_out.items():
                kept += without_value(cell, [item], metrics, "ineligible", reason)
            return kept

        return rows

    def behaviour_rows(self, spec: ModelSpec, outputs: Tensor) -> Later[list[MetricRow]]:
        """Return the rows of a model's outputs (B, N)."""
        batch, answers = self._batch, self._readout.later(outputs)
        truths = truths_of(spec, batch, outputs.shape[1])

        def rows() -> list[MetricRow]:
            found = []
            for item, output, truth in zip(batch.ids, answers(), truths, strict=True):
                answer = behaviour.answer(spec.task, output, spec.gives)
                scores = measure_behaviour(spec.task, answer, truth)
                found += [_row(item, "", name, score) for name, score in scores.items()]
            return found

        return rows

    def _overlap_rows(
        self, cell: Cell, result: Heatmaps, twin: Result | None
    ) -> Later[list[MetricRow]]:
        batch = self._batch
        to_come: dict[str, dict[str, Later[Columns]]] = {}  # region → column of a row → its scores
        for region in dict.fromkeys(one.region for one in self._metrics if one.uses in OVERLAP):
            to_come[region] = columns = {
                "value": self._measure(result.maps, batch.masks, region),
                "swap": self._measure(result.maps, batch.swaps, region),
            }
            if isinstance(twin, Heatmaps):
                columns["twin"] = self._measure(twin.maps, batch.masks, region)
            if cell.request is not None and cell.request.layer and region in batch.masks:
                columns["ceiling"] = self._ceiling(region, result.grid)

        def rows() -> list[MetricRow]:
            found = []
            for region, columns in to_come.items():
                beside = {name: scores() for name, scores in columns.items()}
                own = _with_reasons(beside.pop("value"), batch, region)
                found += _rows(batch, region, own, beside)
            return found

        return rows

    def _measure(self, maps: Tensor, masks: Mapping[str, Masks], region: str) -> Later[Columns]:
        panel = [one for one in self._metrics if one.uses in OVERLAP and one.region == region]
        each = masks[region].each() if region in masks else [None] * len(self._batch)
        return measure_overlap(maps, each, panel, self._readout)

    def _ceiling(self, region: str, grid: tuple[int, int]) -> Later[Columns]:
        """Measure the masks themselves at a resolution, once for all layers that have it."""
        from torch.nn.functional import interpolate

        if (region, grid) not in self._ceilings:
            perfect = self._batch.masks[region].pixels.float()[:, None]
            coarse = interpolate(perfect, grid, mode="area")[:, 0]
            best = upsampled(coarse, tuple(perfect.shape[-2:]))
            scores = self._measure(best, self._batch.masks, region)
            self._ceilings[region, grid] = cache(scores)
        return self._ceilings[region, grid]


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
    batch: Batch, region: str, columns: Columns, beside: Mapping[str, Columns]
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
