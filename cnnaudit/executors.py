"""Where units run: this process, or others. A model is loaded once, and freed before the next."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from itertools import groupby
from typing import TYPE_CHECKING

from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.types import ANY_ERROR, DIED, AuditError, ProcessDied, Unit

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cnnaudit.execute import Finished
    from cnnaudit.store import Store

    Loading = Callable[[ModelSpec], AbstractContextManager[nn.Module]]  # `loaded`, but for the spec

log = logging.getLogger(__name__)
Done = Callable[["Finished"], None]  # called after each unit, for progress


def run_local(audit: AuditSpec, units: Sequence[Unit], store: Store, done: Done) -> None:
    """Execute units in this process, model by model.

    When a process dies that reads for it, the others go on with a new one.
    """
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
                if failed_for_good(left[0], attempts, death, audit, store, done):
                    left.popleft()
                    attempts = 0


def failed_for_good(
    unit: Unit, attempts: int, death: Exception, audit: AuditSpec, store: Store, done: Done
) -> bool:
    """Store a unit as failed if it has been tried often enough, and say whether it was."""
    from cnnaudit.execute import Finished, fail_unit

    log.warning("%s, attempt %d: %s", DIED, attempts, death)
    if attempts <= audit.executor.retries:
        return False
    fail_unit(unit, audit.metrics, store, f"{DIED}; attempts: {attempts}")
    done(Finished(unit, audit.batch_size, None))
    return True


def run_ray(audit: AuditSpec, units: Sequence[Unit], store: Store, done: Done) -> None:
    """Execute units in the actors of Ray, an extra that nothing else needs."""
    from cnnaudit.cluster import run_on_cluster

    run_on_cluster(audit, units, store, done)


def device_here(audit: AuditSpec) -> str:
    """Return the device that a config asks of this process: of its own, where others compute."""
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


@contextmanager
def when_needed(load: Loading, spec: ModelSpec) -> Iterator[Callable[[], nn.Module]]:
    """Yield what loads a model when it is first called, and gives the same one from then on."""
    with ExitStack() as held:
        yield cache(lambda: held.enter_context(load(spec)))


EXECUTORS: Mapping[str, Callable[..., None]] = {"local": run_local, "ray": run_ray}
