"""One unit of work → the rows of its cells, in shared passes; a failure stays where it happened."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from cnnaudit.image_sets.batches import batches
from cnnaudit.image_sets.files import read_mask
from cnnaudit.metrics import Score, behaviour_of, measure_behaviour, measure_overlap
from cnnaudit.metrics.truths import truth_array
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.passes import forward, run_passes
from cnnaudit.targets import TARGETS
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.types import (
    ROWS_FILE,
    AuditError,
    Batch,
    Cell,
    HeatmapRequest,
    Heatmaps,
    MetricRow,
    MetricSpec,
    ModelSpec,
    NoHeatmaps,
    PassSpec,
    Signals,
    Unit,
)

if TYPE_CHECKING:
    from cnnaudit.store import Store

Swaps = dict[tuple[str, str], Tensor]  # (item id, region) → its partner's mask (H, W)

log = logging.getLogger(__name__)

_NUMBERS = ("value", "chance", "lift", "swap")
_SCHEMA = pa.schema(
    [
        (field.name, pa.float64() if field.name in _NUMBERS else pa.string())
        for field in fields(MetricRow)
    ]
)


def execute(
    unit: Unit,
    model: nn.Module,
    metrics: Sequence[MetricSpec],
    store: Store,
    *,
    batch_size: int,
    workers: int,
) -> None:
    """Compute the cells of a unit with its model, which lies on its device, and store them."""
    preprocessing = unit.model.preprocessing
    swaps = _swap_masks(unit, metrics)
    rows: dict[str, list[MetricRow]] = {cell.key: [] for cell in unit.cells}
    for batch in batches(
        unit.chunk,
        partial(prepare_image, preprocessing=preprocessing),
        partial(prepare_mask, preprocessing=preprocessing),
        batch_size,
        workers,
    ):
        for cell in unit.cells:
            for item, reason in batch.failures.items():
                rows[cell.key] += _without_value(cell, item, metrics, "failed", reason)
        if batch.items:
            _execute_batch(unit, model, batch, metrics, swaps, rows)
    for cell in unit.cells:
        failed = any(row.status == "failed" for row in rows[cell.key])
        store.write(cell.key, {ROWS_FILE: _parquet(rows[cell.key])}, cell.fields, again=failed)


def compute_heatmaps(
    model: nn.Module,
    score_from: str | None,
    images: Tensor,
    requests: Iterable[HeatmapRequest],
) -> tuple[Tensor, list[Heatmaps | NoHeatmaps]]:
    """Return the outputs (B, N) and each request's heatmaps in input coordinates, in their order.

    One forward pass serves all requests, and one or two backward passes all of one target.
    """
    requests = list(requests)
    if not requests:
        return forward(model, images, score_from)[0], []
    targets = {request.target.name: request.target for request in requests}
    outputs, signals = run_passes(
        model,
        images,
        score_from,
        {name: partial(TARGETS[t.uses], **t.parameters) for name, t in targets.items()},
        {name: _pass_spec(r for r in requests if r.target.name == name) for name in targets},
    )
    return outputs, [_heatmaps(request, signals[request.target.name]) for request in requests]


def _pass_spec(requests: Iterable[HeatmapRequest]) -> PassSpec:
    """Return the union of what requests on one target need."""
    requests = list(requests)
    needs = [TECHNIQUES[request.technique.uses].needs for request in requests]
    return PassSpec(
        layers=frozenset(request.layer for request in requests if request.layer),
        gradients=any(need.gradients for need in needs),
        input_gradient=any(need.input_gradient for need in needs),
        guided_input_gradient=any(need.guided_input_gradient for need in needs),
    )


def _heatmaps(request: HeatmapRequest, signals: Signals) -> Heatmaps | NoHeatmaps:
    technique = TECHNIQUES[request.technique.uses]
    parameters: dict[str, Any] = dict(request.technique.parameters)
    if request.layer:
        parameters["layer"] = request.layer
    try:
        maps = _upsampled(technique.compute(signals, **parameters), signals.images.shape[-2:])
    except NotApplicable as reason:
        return NoHeatmaps("not_applicable", str(reason))
    except Exception as error:  # whatever a technique raises concerns its own cell only
        log.exception("%s failed", request.technique.name)
        return NoHeatmaps("failed", f"{type(error).__name__}: {error}")
    return Heatmaps(maps)


def _upsampled(maps: Tensor, size: torch.Size) -> Tensor:
    """Return maps (B, h, w) in input coordinates, (B, H, W)."""
    if maps.shape[-2:] == size:
        return maps
    return nn.functional.interpolate(
        maps[:, None], size=size, mode="bilinear", align_corners=False
    )[:, 0]


def _execute_batch(
    unit: Unit,
    model: nn.Module,
    batch: Batch,
    metrics: Sequence[MetricSpec],
    swaps: Swaps,
    rows: dict[str, list[MetricRow]],
) -> None:
    """Add a batch's rows, halving it as often as the memory asks for."""
    heatmap_cells = [cell for cell in unit.cells if cell.request is not None]
    requests = [cell.request for cell in heatmap_cells if cell.request is not None]
    try:
        images = batch.images.to(next(model.parameters()).device, non_blocking=True)
        outputs, computed = compute_heatmaps(model, unit.model.score_from, images, requests)
    except torch.OutOfMemoryError as error:
        if len(batch) > 1:
            log.warning("out of memory with a batch of %d; halving it", len(batch))
            torch.cuda.empty_cache()
            for half in _halves(batch):
                _execute_batch(unit, model, half, metrics, swaps, rows)
            return
        _fail(unit, batch, metrics, rows, error)
        return
    except AuditError:
        raise
    except Exception as error:  # a model that cannot take this batch fails it, not the audit
        log.exception("the passes of %s failed", unit.model.name)
        _fail(unit, batch, metrics, rows, error)
        return
    for cell, result in zip(heatmap_cells, computed, strict=True):
        rows[cell.key] += _heatmap_rows(cell, result, batch, metrics, swaps)
    for cell in unit.cells:
        if cell.request is None:
            rows[cell.key] += _behaviour_rows(unit.model, outputs, batch)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch) // 2
    parts = []
    for part in (slice(None, middle), slice(middle, None)):
        parts.append(
            Batch(batch.items[part], batch.images[part], batch.masks, batch.truths, failures={})
        )
    return parts[0], parts[1]


def _fail(
    unit: Unit,
    batch: Batch,
    metrics: Sequence[MetricSpec],
    rows: dict[str, list[MetricRow]],
    error: Exception,
) -> None:
    reason = f"{type(error).__name__}: {error}"
    for cell in unit.cells:
        for item in batch.items:
            rows[cell.key] += _without_value(cell, item.id, metrics, "failed", reason)


def _heatmap_rows(
    cell: Cell,
    result: Heatmaps | NoHeatmaps,
    batch: Batch,
    metrics: Sequence[MetricSpec],
    swaps: Swaps,
) -> list[MetricRow]:
    if isinstance(result, NoHeatmaps):
        return [
            row
            for item in batch.items
            for row in _without_value(cell, item.id, metrics, result.status, result.reason)
        ]
    rows = []
    for region in dict.fromkeys(metric.region for metric in metrics):
        masks = [batch.masks.get(region, {}).get(item.id) for item in batch.items]
        others = [swaps.get((item.id, region)) for item in batch.items]
        panel = [metric for metric in metrics if metric.region == region]
        own, swapped = (measure_overlap(result.maps, some, panel) for some in (masks, others))
        for name, scores in own.items():
            rows += [
                _row(item.id, region, name, score, swap)
                for item, score, swap in zip(batch.items, scores, swapped[name], strict=True)
            ]
    return rows


def _swap_masks(unit: Unit, metrics: Sequence[MetricSpec]) -> Swaps:
    """Return the masks of each item's partner, in input coordinates, each file read once."""
    prepared: dict[Path, Tensor] = {}
    swaps: Swaps = {}
    for item in unit.chunk:
        partner = unit.partners.get(item.id)
        for region in {metric.region for metric in metrics}:
            path = partner.regions.get(region) if partner else None
            if path is not None:
                if path not in prepared:
                    prepared[path] = prepare_mask(read_mask(path), unit.model.preprocessing)
                swaps[item.id, region] = prepared[path]
    return swaps


def _behaviour_rows(spec: ModelSpec, outputs: Tensor, batch: Batch) -> list[MetricRow]:
    rows = []
    for item, output in zip(batch.items, outputs.double().cpu().numpy(), strict=True):
        truth = truth_array(spec, batch.truths.get(item.id), len(output))
        scores = measure_behaviour(spec.task, output, truth)
        rows += [_row(item.id, "", name, score) for name, score in scores.items()]
    return rows


def _without_value(
    cell: Cell, item: str, metrics: Sequence[MetricSpec], status: Any, reason: str
) -> list[MetricRow]:
    score = Score(None, None, "", status, reason)
    if cell.request is None:
        return [_row(item, "", name, score) for name in behaviour_of(cell.model.task)]
    return [_row(item, metric.region, metric.name, score) for metric in metrics]


def _row(item: str, region: str, metric: str, score: Score, swap: Score | None = None) -> MetricRow:
    ok = score.status == "ok"
    return MetricRow(
        item,
        region,
        metric,
        score.value,
        score.chance,
        score.lift,
        swap.value if swap and ok else None,
        score.flag,
        score.status,
        score.reason,
    )


def _parquet(rows: list[MetricRow]) -> bytes:
    ordered = sorted(rows, key=lambda row: (row.item, row.region, row.metric))
    content = io.BytesIO()
    table = pa.Table.from_pylist([asdict(row) for row in ordered], schema=_SCHEMA)
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()
