"""Units in the actors of Ray: a process for each GPU, or for so many cores, on one machine or many.

Every machine sees the same store, pictures and weights under the same paths. One unit is in work
in each actor, so that a death has one cause; who dies is replaced, and its unit tried again.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit import own_code
from cnnaudit.executors import Done, executing, failed_for_good, log_finished
from cnnaudit.plan import check_planned
from cnnaudit.specs import AuditSpec, ExecutorSpec, ModelSpec
from cnnaudit.store import Store
from cnnaudit.types import AuditError, Device, ProcessDied, Unit

if TYPE_CHECKING:
    from cnnaudit.execute import Finished

log = logging.getLogger(__name__)
_PATIENCE = 10.0  # seconds
_OBJECTS = 200 * 2**20  # bytes for what Ray hands round: units and answers are small


def run_on_cluster(audit: AuditSpec, units: Sequence[Unit], store: Store, done: Done) -> None:
    """Execute units in actors, those of a model in as few of them as keeps all busy.

    `audit.device` is theirs: on GPUs if the cluster has any, whatever this process has. Raises
    AuditError if Ray is not installed, if there is no such cluster, and for whatever would stop a
    run in one process.
    """
    if not units:
        return
    ray = _import_ray()
    with _connected(ray, audit.executor):
        _Team(ray, audit, store).execute(units, done)


class _Team:
    """The actors of a run, each with one unit in work."""

    def __init__(self, ray: Any, audit: AuditSpec, store: Store) -> None:
        self.ray, self.audit, self.store = ray, audit, store
        self.room, self.needs = _room(ray.cluster_resources(), audit)
        self.device = "cuda" if "num_gpus" in self.needs else "cpu"
        self.work: dict[Any, tuple[Any, Unit]] = {}  # what an actor will answer → actor, unit

    def execute(self, units: Sequence[Unit], done: Done) -> None:
        waiting, deaths = _Waiting(units), Counter[str]()
        log.info("%d actors on %s, each with %s", self.room, self.device, self.needs)
        try:
            for _ in range(min(self.room, len(units))):
                if first := waiting.take():
                    self.give(self.hire(), first)
            while self.work:
                (answer,), _ = self.ray.wait(list(self.work), num_returns=1)
                actor, unit = self.work.pop(answer)
                try:
                    self.note(answer, unit, done)
                except _Died as death:
                    self.ray.kill(actor)
                    actor = None
                    deaths[unit.cells[0].key] += 1
                    attempts = deaths[unit.cells[0].key]
                    if not failed_for_good(unit, attempts, death, self.audit, self.store, done):
                        waiting.put_back(unit)
                if following := waiting.take(unit.model):
                    self.give(actor or self.hire(), following)
                elif actor:
                    self.ray.kill(actor)  # one that was hired for a lost one may wait for its room
        finally:
            for actor, _ in self.work.values():
                self.ray.kill(actor)

    def hire(self) -> Any:
        actor = self.ray.remote(Worker).options(**self.needs)
        return actor.remote(self.audit, self.store.root, self.device, Path.cwd())

    def give(self, actor: Any, unit: Unit) -> None:
        self.work[actor.compute.remote(_portable(unit))] = actor, unit

    def note(self, answer: Any, unit: Unit, done: Done) -> None:
        """Note that a unit is finished; raise _Died if its actor is no more."""
        from cnnaudit.execute import Finished

        errors = self.ray.exceptions
        try:
            answered = self.ray.get(answer)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ProcessDied):
                raise _Died(error.cause) from error
            raise (error.cause if isinstance(error.cause, AuditError) else error) from None
        except errors.RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise AuditError(f"executor: an actor cannot start ({error})") from error
            raise _Died(str(error).partition("\n")[0]) from error
        for name, level, text in answered.said:
            logging.getLogger(name).log(level, "%s", text)
        log_finished(unit)
        done(Finished(unit, answered.batch_size, answered.device))


class _Died(Exception):
    pass


class _Waiting:
    """The units that nobody has begun, by model, so that each is loaded as seldom as possible."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units: dict[str, deque[Unit]] = {}
        for unit in units:
            self.put_back(unit)

    def put_back(self, unit: Unit) -> None:
        self.units.setdefault(unit.model.name, deque()).append(unit)

    def take(self, loaded: ModelSpec | None = None) -> Unit | None:
        """Return a unit of the model that is loaded, else of the one of which most are left."""
        name = loaded.name if loaded else ""
        if not self.units.get(name):
            name = max(self.units, key=lambda each: len(self.units[each]))
        return self.units[name].popleft() if self.units[name] else None


@dataclass(frozen=True)
class _Answer:
    batch_size: int
    device: Device | None
    said: Sequence[tuple[str, int, str]]  # logger, level and text of what there was to say


class Worker:
    """A process of its own that computes units; it keeps the model of the last one."""

    def __init__(self, audit: AuditSpec, store_root: Path, device: str, folder: Path) -> None:
        # No more than this: what fails in here would look like a death, not like an error.
        self._audit, self._store, self._device = audit, Store(store_root), device
        self._folder, self._said = folder, _Said()
        self._held = ExitStack()
        self._model: ModelSpec | None = None
        self._execute: Callable[..., Iterator[Finished]]  # of this model
        self._batch_size = audit.batch_size

    def compute(self, unit: Unit) -> _Answer:
        """Compute a unit, and return what the log should say of it and the memory allowed."""
        if self._model is None:
            self._settle()
        check_planned(self._audit, unit)
        if unit.model != self._model:
            self._load(unit.model)
        (finished,) = self._execute([unit], store=self._store, batch_size=self._batch_size)
        self._batch_size = finished.batch_size
        return _Answer(finished.batch_size, finished.device, self._said.take())

    def _settle(self) -> None:
        """Make this process what the one is that the audit was started in."""
        import torch

        torch.set_num_threads(self._audit.executor.cores)
        self._said.listen()
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise AuditError(
                f"executor: {platform.node()} has no {self._folder}; every machine of a cluster "
                "must see the same files under the same paths"
            ) from error
        # The command line allowed it: else there were no such specs.
        allowed = bool(self._audit.plugins) or any(m.factory for m in self._audit.models)
        own_code.open_door(allowed, [own_code.GIVEN])
        own_code.import_plugins(self._audit.plugins, allowed)

    def _load(self, spec: ModelSpec) -> None:
        from cnnaudit.models import choose_device

        self._held.close()
        self._execute = self._held.enter_context(
            executing(spec, self._audit, choose_device(self._device))
        )
        self._model, self._batch_size = spec, self._audit.batch_size


class _Said(logging.Handler):
    """What is logged here, for the log of the process that the audit was started in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, int, str]] = []

    def listen(self) -> None:
        logging.captureWarnings(True)
        for name in ("cnnaudit", "py.warnings"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, self.format(record)))

    def take(self) -> list[tuple[str, int, str]]:
        taken, self.lines = self.lines, []
        return taken


def _portable(unit: Unit) -> Unit:
    """Return a unit without the other items of its image set."""
    image_set = replace(unit.image_set, items=unit.chunk)
    cells = tuple(replace(cell, image_set=image_set) for cell in unit.cells)
    return replace(unit, image_set=image_set, cells=cells)


def _room(has: Mapping[str, float], audit: AuditSpec) -> tuple[int, Mapping[str, float]]:
    """Return how many actors a cluster has room for, or is to have, and what each needs of it."""
    spec, gpus = audit.executor, int(has.get("GPU", 0)) if audit.device != "cpu" else 0
    if not gpus and audit.device not in ("auto", "cpu"):
        raise AuditError(
            f"device: {audit.device!r}, but the cluster has no GPU; allowed are auto and cpu"
        )
    cores = min(spec.cores, max(1, int(has.get("CPU", 1))))
    if gpus:
        room, needs = gpus, {"num_gpus": 1, "num_cpus": 0}
    else:
        room, needs = int(has.get("CPU", 1)) // cores, {"num_cpus": cores}
    return max(1, min(room, spec.actors or room)), needs


@contextmanager
def _connected(ray: Any, spec: ExecutorSpec) -> Iterator[None]:
    """Join a cluster, or start one of this machine's own, and leave it; not one that is in use."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if spec.address is None:
            wanted = spec.actors and max(spec.actors * spec.cores, os.cpu_count() or 1)
            ray.init(
                "local",
                num_cpus=wanted,
                object_store_memory=_OBJECTS,
                include_dashboard=False,
                **quiet,
            )
        else:
            _join(ray, spec.address, quiet)
        yield
    finally:
        ray.shutdown()


def _join(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():  # where nobody listens, Ray would go on asking for minutes
            socket.create_connection((host.removeprefix("ray://"), int(port)), _PATIENCE).close()
        ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise AuditError(
            f"executor.address: cannot join a cluster at {address!r} ({why})"
        ) from error


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of its future
    try:
        return import_module("ray")
    except ImportError as error:
        raise AuditError(
            "executor: ray is not installed; it is an extra: pip install 'cnnaudit[ray]'"
        ) from error
