"""Where work is done: this process, or others. A model is loaded once, and freed before the next.

Units give the rows of cells. Errands are what else a model is needed for, once all rows are there.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.types import ANY_ERROR, DIED, AuditError, Device, ProcessDied, Unit

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cnnaudit.execute import Finished
    from cnnaudit.store import Store

log = logging.getLogger(__name__)
Done = Callable[["Finished"], None]  # called after each unit, for progress


@dataclass(frozen=True)
class Errand:
    """What is made of one model for the store, beside cells: pictures, filters, curves.

    It can be pickled: another process may make it.
    """

    title: str
    model: ModelSpec
    make: Callable[[nn.Module, Store], None]
    fail: Callable[[Store, str], None]  # stores the reason for which it could not be made


Make = Callable[[AuditSpec, Sequence[Errand], "Store"], Sequence[Device]]  # returns on which


@dataclass(frozen=True)
class Executor:
    """How work gets done; both raise AuditError for what stops a run."""

    execute: Callable[[AuditSpec, Sequence[Unit], Store, Done], None]
    make: Make


def execute_here(audit: AuditSpec, units: Sequence[Unit], store: Store, done: Done) -> None:
    """Execute units in this process, model by model.

    When a process dies that reads for it, the others go on with a new one.
    """
    from cnnaudit.execute import give_up
    from cnnaudit.models import choose_device

    device = choose_device(audit.device)
    for spec, group in groupby(units, key=lambda unit: unit.model):
        left, attempts = deque(group), 0
        while left:
            try:
                with executing(spec, audit, device) as execute:
                    # After a death one alone, so that the next one is not for what is read ahead.
                    chosen = [left[0]] if attempts else left
                    for finished in execute(chosen, store=store, batch_size=audit.batch_size):
                        log_finished(finished.unit)
                        done(finished)
                        left.popleft()
                        attempts = 0
            except ProcessDied as death:
                attempts += 1
                if reason := reason_to_give_up(audit, attempts, death):
                    done(give_up(left.popleft(), audit, store, reason))
                    attempts = 0


def make_here(audit: AuditSpec, errands: Sequence[Errand], store: Store) -> Sequence[Device]:
    """Make errands in this process, model by model."""
    if not errands:
        return []
    from cnnaudit.models import choose_device
    from cnnaudit.numerics import named

    device = choose_device(device_here(audit))
    by_model = sorted(errands, key=lambda errand: errand.model.name)
    for _, group in groupby(by_model, key=lambda errand: errand.model.name):
        own = list(group)
        with loaded(own[0].model, audit, device) as model:
            for errand in own:
                errand.make(model, store)
                log_made(errand)
    return [named(device)]


def reason_to_give_up(audit: AuditSpec, attempts: int, death: Exception) -> str:
    """Return why something is not tried again after so many deaths; "" if it is."""
    log.warning("%s, attempt %d: %s", DIED, attempts, death)
    return f"{DIED}; attempts: {attempts}" if attempts > audit.executor.retries else ""


def device_here(audit: AuditSpec) -> str:
    """Return the device for this process; where others compute, the config's is theirs."""
    return audit.device if audit.executor.uses == "local" or audit.device == "cpu" else "auto"


@contextmanager
def executing(
    spec: ModelSpec, audit: AuditSpec, device: torch.device
) -> Iterator[Callable[..., Iterator[Finished]]]:
    """Hold a model, and yield what executes units of it, given them, a store and a batch size."""
    from cnnaudit.execute import execute, make_reader
    from cnnaudit.models.untrained import untrained_twin

    with loaded(spec, audit, device) as model:
        # a draw of its own, also beside a model that is itself untrained
        twin = None
        if audit.untrained_twin:
            try:
                twin = untrained_twin(model, audit.seed + 1)
            except ANY_ERROR as error:  # of somebody's own layers, which cannot be copied
                raise AuditError(
                    f"model.{spec.name}: its untrained twin cannot be made "
                    f"({type(error).__name__}: {error}); leave out what asks for it"
                ) from error
        yield partial(
            execute,
            model=model,
            metrics=audit.metrics,
            reader=make_reader(
                spec, audit.metrics, audit.batch_size, audit.executor.workers, device
            ),
            twin=twin,
        )


def log_finished(unit: Unit) -> None:
    log.info("%s on %s: %d items", unit.model.name, unit.image_set.spec.name, len(unit.chunk))


def log_made(errand: Errand) -> None:
    log.info("%s: %s", errand.model.name, errand.title)


@contextmanager
def loaded(spec: ModelSpec, audit: AuditSpec, device: torch.device) -> Iterator[nn.Module]:
    """Hold a model on its device, torch set as the audit asks, and free its memory afterwards."""
    import torch

    from cnnaudit.models import build_model
    from cnnaudit.numerics import configured

    with configured(audit):
        model = build_model(spec, audit.seed).to(device)
        try:
            yield model
        finally:
            del model
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
