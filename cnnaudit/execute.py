"""Units of work → the rows of their cells, in shared passes; a failure stays where it happened."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cnnaudit.heatmaps import Result, compute_heatmaps
from cnnaudit.image_sets.batches import batches
from cnnaudit.image_sets.perturbed import read_mask_of
from cnnaudit.kept import kept_maps, maps_files
from cnnaudit.measure import behaviour_rows, rows_of, to_parquet, truths_of, without_value
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import (
    ROWS_FILE,
    AuditError,
    Batch,
    Cell,
    Heatmaps,
    MetricRow,
    MetricSpec,
    Perturbed,
    Region,
    Unit,
)

if TYPE_CHECKING:
    from cnnaudit.kept import Kept
    from cnnaudit.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A unit whose cells are in the store."""

    unit: Unit
    batch_size: int  # the largest batch that the memory took


def execute(
    units: Iterable[Unit],
    model: nn.Module,
    metrics: Sequence[MetricSpec],
    store: Store,
    *,
    batch_size: int,
    workers: int,
    twin: nn.Module | None = None,
) -> Iterator[Finished]:
    """Compute the cells of units of one model, which lies on its device, and store them.

    Yields each unit when all of it is stored. With its untrained `twin` every heatmap of the
    network is set beside the twin's.
    """
    for unit in units:
        _execute(unit, model, metrics, store, twin, batch_size, workers)
        yield Finished(unit, batch_size)


def _execute(
    unit: Unit,
    model: nn.Module,
    metrics: Sequence[MetricSpec],
    store: Store,
    twin: nn.Module | None,
    batch_size: int,
    workers: int,
) -> None:
    preprocessing = unit.model.preprocessing
    work = _Work(unit, model, metrics, twin)
    for batch in batches(
        unit.chunk,
        partial(prepare_image, preprocessing=preprocessing),
        partial(prepare_mask, preprocessing=preprocessing),
        batch_size,
        workers,
    ):
        for item, reason in batch.failures.items():
            work.fail([item], reason)
        if batch.items:
            work.run(batch)
    for cell in unit.cells:
        rows = work.rows[cell.key]
        failed = any(row.status == "failed" for row in rows)
        files = {ROWS_FILE: to_parquet(rows)}
        if cell.keeps_maps:
            files |= maps_files(work.maps[cell.key])
        store.write(cell.key, files, cell.fields, again=failed)


class _Work:
    """The rows of a unit's cells, gathered batch by batch."""

    def __init__(
        self, unit: Unit, model: nn.Module, metrics: Sequence[MetricSpec], twin: nn.Module | None
    ) -> None:
        self.unit, self.model, self.metrics, self.twin = unit, model, metrics, twin
        self.swaps = _swap_masks(unit, metrics)
        self.rows: dict[str, list[MetricRow]] = {cell.key: [] for cell in unit.cells}
        self.maps: dict[str, dict[str, Kept]] = {cell.key: {} for cell in unit.cells}

    def run(self, batch: Batch) -> None:
        """Add a batch's rows, halving it as often as the memory asks for."""
        try:
            self._add(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                self.fail(batch.ids, f"{type(error).__name__}: {error}")
                return
            log.warning("out of memory with a batch of %d; halving it", len(batch))
        except AuditError:
            raise
        except Exception as error:  # a model that cannot take this batch fails it, not the audit
            log.exception("the passes of %s failed", self.unit.model.name)
            self.fail(batch.ids, f"{type(error).__name__}: {error}")
            return
        else:
            return
        torch.cuda.empty_cache()
        for half in _halves(batch):
            self.run(half)

    def fail(self, items: Sequence[str], reason: str) -> None:
        """Add rows that say why items have no number in any of the cells."""
        for cell in self.unit.cells:
            self.rows[cell.key] += without_value(cell, items, self.metrics, "failed", reason)

    def _add(self, batch: Batch) -> None:
        spec, cells = self.unit.model, self.unit.cells
        images = batch.images.to(next(self.model.parameters()).device, non_blocking=True)
        outputs, results = self._compute(self.model, cells, batch, images)
        beside: dict[str, Result] = {}
        if self.twin is not None:
            explaining = [
                cell
                for cell in cells
                if cell.request and TECHNIQUES[cell.request.technique.uses].explains_network
            ]
            _, beside = self._compute(self.twin, explaining, batch, images)
        found = {}
        for cell in cells:
            if cell.request is None:
                found[cell.key] = behaviour_rows(spec, outputs, batch)
                continue
            result, twin = results[cell.key], beside.get(cell.key)
            found[cell.key] = rows_of(cell, result, batch, self.metrics, self.swaps, twin)
            if cell.keeps_maps and isinstance(result, Heatmaps):
                self.maps[cell.key] |= kept_maps(result, batch)
        for key, rows in found.items():  # all or none of a batch: it may come again in halves
            self.rows[key] += rows

    def _compute(
        self, model: nn.Module, cells: Sequence[Cell], batch: Batch, images: Tensor
    ) -> tuple[Tensor, dict[str, Result]]:
        """Return a model's outputs (B, N) and what each cell's request gives of it."""
        spec = self.unit.model
        asked = {cell.key: cell.request for cell in cells if cell.request is not None}
        outputs, computed = compute_heatmaps(
            model, spec.score_from, images, asked.values(), partial(truths_of, spec, batch)
        )
        return outputs, dict(zip(asked, computed, strict=True))


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch) // 2
    first, second = (
        replace(batch, items=batch.items[part], images=batch.images[part], failures={})
        for part in (slice(None, middle), slice(middle, None))
    )
    return first, second


def _swap_masks(unit: Unit, metrics: Sequence[MetricSpec]) -> dict[tuple[str, str], Tensor]:
    """Return the masks of each item's partner, in input coordinates, each read once."""
    prepared: dict[tuple[Region, Perturbed | None], Tensor] = {}
    swaps = {}
    for item in unit.chunk:
        partner = unit.partners.get(item.id)
        for name in {metric.region for metric in metrics}:
            if partner is not None and name in partner.regions:
                key = partner.regions[name], partner.perturbed
                if key not in prepared:
                    mask = read_mask_of(partner, name)
                    prepared[key] = prepare_mask(mask, unit.model.preprocessing)
                swaps[item.id, name] = prepared[key]
    return swaps
