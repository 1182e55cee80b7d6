"""Units of work → the rows of their cells, in shared passes; a failure stays where it happened."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cnnaudit.fitting import Fitting
from cnnaudit.heatmaps import Result, compute_heatmaps
from cnnaudit.image_sets.batches import Reader
from cnnaudit.kept import kept_maps, maps_files
from cnnaudit.measure import Measuring, rows_file, truths_of, without_value
from cnnaudit.models import device_of
from cnnaudit.models.preprocessing import preparing
from cnnaudit.numerics import named, release_memory, seldom
from cnnaudit.plan import stored_fields
from cnnaudit.specs import AuditSpec, MetricSpec, ModelSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import ROWS_FILE, Batch, Cell, Device, Heatmaps, MetricRow, ProcessDied, Unit

if TYPE_CHECKING:
    from cnnaudit.kept import Kept
    from cnnaudit.store import Store

_CPU = torch.device("cpu")
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # by which a process is asked to end

# What is given back is asked for again: after each unit, that took a tenth of a run's time.
_release_memory = seldom(release_memory, seconds=10)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A unit whose cells are in the store."""

    unit: Unit
    batch_size: int  # the largest batch that the memory took
    device: Device | None  # where they were computed; None: they could not be


def execute(
    units: Iterable[Unit],
    model: nn.Module,
    metrics: Sequence[MetricSpec],
    store: Store,
    *,
    reader: Reader,
    batch_size: int,
    twin: nn.Module | None = None,
) -> Iterator[Finished]:
    """Compute the cells of units of one model, which lies on its device, and store them.

    `reader` reads for that model. Yields each unit when all of it is stored. With its untrained
    `twin` every heatmap of the network is set beside the twin's. An interrupt waits for the batch
    in work, a second one for nothing. Raises AuditError if the store cannot be written, and
    ProcessDied if a process dies that reads for this one.
    """
    units, fitting, device = tuple(units), Fitting(batch_size), named(device_of(model))
    with patient() as stop_if_asked:
        read_ahead = reader.read([(unit.chunk, unit.partners) for unit in units])
        for unit, found in zip(units, read_ahead, strict=True):
            work = _Work(unit, model, metrics, twin, fitting)
            for batch in found:
                stop_if_asked()
                work.add(batch)
            work.write(store)
            del work, found
            _release_memory()
            yield Finished(unit, fitting.batch_size, device)


def make_reader(
    spec: ModelSpec,
    metrics: Sequence[MetricSpec],
    batch_size: int,
    workers: int,
    device: torch.device = _CPU,
) -> Reader:
    """Return what reads pictures for a model, in other processes while this one computes."""
    return Reader(
        *preparing(spec.preprocessing),
        batch_size,
        workers,
        swapped=frozenset(metric.region for metric in metrics),
        pinned=device.type == "cuda",
    )


@contextmanager
def patient() -> Iterator[Callable[[], None]]:
    """Hold back the first interrupt (Ctrl-C, SIGTERM, SIGHUP) until the yielded function is called.

    A second one stops at once. What is not handled as an interrupt, as in a thread or under
    `nohup`, is left as it is.
    """
    asked, in_charge = False, current_thread() is main_thread()
    handlers = {one: signal.getsignal(one) for one in _ENDS if in_charge}
    held = [one for one, does in handlers.items() if does is signal.default_int_handler]

    def remember(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        _handle(held, signal.default_int_handler)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    _handle(held, remember)
    try:
        yield stop_if_asked
        stop_if_asked()
    except ProcessDied:  # maybe of what this one was asked to end by
        stop_if_asked()
        raise
    finally:
        _handle(held, signal.default_int_handler)


def _handle(signals: Iterable[signal.Signals], handler: Callable[..., None]) -> None:
    for one in signals:
        signal.signal(one, handler)


class _Work:
    """The rows of a unit's cells, gathered batch by batch."""

    def __init__(
        self,
        unit: Unit,
        model: nn.Module,
        metrics: Sequence[MetricSpec],
        twin: nn.Module | None,
        fitting: Fitting,
    ) -> None:
        self.unit, self.model, self.metrics, self.twin = unit, model, metrics, twin
        self.fitting = fitting
        self.rows: dict[str, list[MetricRow]] = {cell.key: [] for cell in unit.cells}
        self.maps: dict[str, dict[str, Kept]] = {cell.key: {} for cell in unit.cells}

    def add(self, batch: Batch) -> None:
        """Add a batch's rows, also those of the items that could not be read."""
        for item, reason in batch.failures.items():
            self.fail(item, reason)
        if batch.items:
            self.fitting.run(batch, self._add, self.fail)

    def write(self, store: Store) -> None:
        """Write each cell with what was gathered."""
        _write(store, self.unit, self.rows, self.maps)

    def fail(self, item: str, reason: str) -> None:
        """Add rows that say why an item has no number in any of the cells."""
        for cell in self.unit.cells:
            self.rows[cell.key] += without_value(cell, [item], self.metrics, "failed", reason)

    def _add(self, batch: Batch) -> None:
        spec, cells, batch = self.unit.model, self.unit.cells, batch.to(device_of(self.model))
        outputs, results = self._compute(self.model, cells, batch)
        beside: dict[str, Result] = {}
        if self.twin is not None:
            explaining = [
                cell
                for cell in cells
                if cell.request and TECHNIQUES[cell.request.technique.uses].explains_network
            ]
            _, beside = self._compute(self.twin, explaining, batch)
        measuring, to_come = Measuring(batch, self.metrics), {}
        for cell in cells:
            if cell.request is None:
                to_come[cell.key] = measuring.behaviour_rows(spec, outputs)
                continue
            result = results[cell.key]
            to_come[cell.key] = measuring.heatmap_rows(cell, result, beside.get(cell.key))
            if cell.keeps_maps and isinstance(result, Heatmaps):
                self.maps[cell.key] |= kept_maps(result, batch)
        found = {key: rows() for key, rows in to_come.items()}
        for key, rows in found.items():  # all or none of a batch: it may come again in halves
            self.rows[key] += rows

    def _compute(
        self, model: nn.Module, cells: Sequence[Cell], batch: Batch
    ) -> tuple[Tensor, dict[str, Result]]:
        """Return a model's outputs (B, N) and what each cell's request gives of it."""
        spec = self.unit.model
        asked = {cell.key: cell.request for cell in cells if cell.request is not None}
        outputs, computed = compute_heatmaps(
            model, spec.score_from, batch.images, asked.values(), partial(truths_of, spec, batch)
        )
        return outputs, dict(zip(asked, computed, strict=True))


def give_up(unit: Unit, audit: AuditSpec, store: Store, reason: str) -> Finished:
    """Store a unit that could not be executed as failed, to be computed again by the next run."""
    items = [item.id for item in unit.chunk]
    rows = {
        cell.key: without_value(cell, items, audit.metrics, "failed", reason) for cell in unit.cells
    }
    _write(store, unit, rows, {})
    return Finished(unit, audit.batch_size, None)


def _write(
    store: Store,
    unit: Unit,
    rows: Mapping[str, Sequence[MetricRow]],
    maps: Mapping[str, Mapping[str, Kept]],
) -> None:
    """Write each cell; one in which something failed is to be computed again."""
    fields = stored_fields(unit)
    for cell in unit.cells:
        files = {ROWS_FILE: rows_file(rows[cell.key])}
        if cell.keeps_maps:
            files |= maps_files(maps.get(cell.key, {}))
        failed = any(row.status == "failed" for row in rows[cell.key])
        store.write(cell.key, files, fields[cell.key], again=failed)
