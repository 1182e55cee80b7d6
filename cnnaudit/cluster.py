"""Work in the actors of Ray: a process for each GPU, or for so many cores, on one machine or many.

Every machine sees the same store, pictures and weights under the same paths. One job, a unit or an
errand, is in work in each actor, so that a death has one cause; who dies is replaced, and its job
tried again.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from cnnaudit import own_code
from cnnaudit.executors import (
    Done,
    Errand,
    executing,
    loaded,
    log_finished,
    log_made,
    reason_to_give_up,
)
from cnnaudit.plan import check_planned
from cnnaudit.specs import AuditSpec, ExecutorSpec, ModelSpec
from cnnaudit.store import Store
from cnnaudit.types import AuditError, Device, ProcessDied, Unit

if TYPE_CHECKING:
    from cnnaudit.execute import Finished

Job = Unit | Errand

log = logging.getLogger(__name__)
_PATIENCE = 10.0  # seconds
_OBJECTS = 200 * 2**20  # bytes for what Ray hands round: units and answers are small


def execute(audit: AuditSpec, units: Sequence[Unit], store: Store, done: Done) -> None:
    """Execute units in actors, those of a model in as few of them as keeps all busy.

    `audit.device` is theirs: on GPUs if the cluster has any, whatever this process has. Raises
    AuditError if Ray is not installed, if there is no such cluster, and for whatever would stop a
    run in one process.
    """
    _run(audit, store, units, _Units(audit, store, done))


def make(audit: AuditSpec, errands: Sequence[Errand], store: Store) -> Sequence[Device]:
    """Make errands in actors, and return the devices that they had; raises AuditError likewise."""
    made = _Errands(store)
    _run(audit, store, errands, made)
    return [*made.devices]


def _run(audit: AuditSpec, store: Store, jobs: Sequence[Job], kind: _Units | _Errands) -> None:
    if not jobs:
        return
    ray = _import_ray()
    with _connected(ray, audit.executor):
        _Team(ray, audit, store).run(jobs, kind)


class _Units:
    """How units are handed to actors, and what happens when they are done or given up."""

    def __init__(self, audit: AuditSpec, store: Store, done: Done) -> None:
        self.audit, self.store, self.done = audit, store, done

    def send(self, actor: Any, unit: Unit) -> Any:
        return actor.execute.remote(_portable(unit))

    def finish(self, unit: Unit, answered: _Answer) -> None:
        from cnnaudit.execute import Finished

        log_finished(unit)
        self.done(Finished(unit, answered.batch_size, answered.device))

    def give_up(self, unit: Unit, reason: str) -> None:
        from cnnaudit.execute import give_up

        self.done(give_up(unit, self.audit, self.store, reason))


class _Errands:
    """The same of errands."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.devices: dict[Device, None] = {}

    def send(self, actor: Any, errand: Errand) -> Any:
        return actor.make.remote(errand)

    def finish(self, errand: Errand, answered: _Answer) -> None:
        log_made(errand)
        self.devices[answered.device] = None

    def give_up(self, errand: Errand, reason: str) -> None:
        errand.fail(self.store, reason)


class _Team:
    """The actors of a run, each with one job in work."""

    def __init__(self, ray: Any, audit: AuditSpec, store: Store) -> None:
        self.ray, self.audit, self.store = ray, audit, store
        self.room, self.needs = _room(ray.cluster_resources(), audit)
        self.device = "cuda" if "num_gpus" in self.needs else "cpu"
        self.work: dict[Any, tuple[Any, Any]] = {}  # what an actor will answer → actor, job

    def run(self, jobs: Sequence[Job], kind: _Units | _Errands) -> None:
        waiting, deaths = _Waiting(jobs), Counter[int]()
        log.info("%d actors on %s, each with %s", self.room, self.device, self.needs)
        try:
            for _ in range(min(self.room, len(jobs))):
                if first := waiting.take():
                    self.give(self.hire(), first, kind)
            while self.work:
                answer = self.first()
                actor, job = self.work.pop(answer)
                try:
                    kind.finish(job, self.answered(answer))
                except _Died as death:
                    self.ray.kill(actor)
                    actor = None
                    deaths[id(job)] += 1
                    if reason := reason_to_give_up(self.audit, deaths[id(job)], death):
                        kind.give_up(job, reason)
                    else:
                        waiting.put_back(job)
                if following := waiting.take(job.model):
                    self.give(actor or self.hire(), following, kind)
                elif actor:
                    self.ray.kill(actor)  # one that was hired for a lost one may wait for its room
        finally:
            for actor, _ in self.work.values():
                self.ray.kill(actor)

    def first(self) -> Any:
        """Wait for the first answer; raise AuditError if nobody is left who could give one."""
        while True:
            if answers := self.ray.wait([*self.work], num_returns=1, timeout=_PATIENCE)[0]:
                return answers[0]
            if not any(node["Alive"] for node in self.ray.nodes()):
                raise AuditError(
                    "executor: no machine of the cluster is left; what was finished is in the "
                    "store, the same command continues"
                )

    def hire(self) -> Any:
        actor = self.ray.remote(Worker).options(**self.needs)
        return actor.remote(self.audit, self.store.root, self.device, Path.cwd())

    def give(self, actor: Any, job: Any, kind: _Units | _Errands) -> None:
        self.work[kind.send(actor, job)] = actor, job

    def answered(self, answer: Any) -> _Answer:
        """Return what an actor answered, its log heard; raise _Died if it is no more."""
        errors = self.ray.exceptions
        try:
            answered: _Answer = self.ray.get(answer)
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
        return answered


class _Died(Exception):
    pass


class _Waiting:
    """The jobs that nobody has begun, by model, so that each is loaded as seldom as possible."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs: dict[str, deque[Job]] = {}
        for job in jobs:
            self.put_back(job)

    def put_back(self, job: Job) -> None:
        self.jobs.setdefault(job.model.name, deque()).append(job)

    def take(self, loaded: ModelSpec | None = None) -> Job | None:
        """Return a job of the model that is loaded, else of the one of which most are left."""
        name = loaded.name if loaded else ""
        if not self.jobs.get(name):
            name = max(self.jobs, key=lambda each: len(self.jobs[each]))
        return self.jobs[name].popleft() if self.jobs[name] else None


@dataclass(frozen=True)
class _Answer:
    batch_size: int
    device: Device
    said: Sequence[tuple[str, int, str]]  # logger, level and text of what there was to say


class Worker:
    """A process of its own that does jobs; it keeps the model of the last one."""

    def __init__(self, audit: AuditSpec, store_root: Path, device: str, folder: Path) -> None:
        # No more than this: what fails in here would look like a death, not like an error.
        self._audit, self._store, self._device = audit, Store(store_root), device
        self._folder, self._said = folder, _Said()
        self._settled, self._held = False, ExitStack()
        self._holds: Any = None  # how a model is held, and which
        self._given: Any = None  # what holding it gave
        self._batch_size = audit.batch_size

    def execute(self, unit: Unit) -> _Answer:
        """Execute a unit, and return what the log should say of it and the memory allowed."""
        self._settle()
        check_planned(self._audit, unit)
        execute: Callable[..., Iterator[Finished]] = self._holding(executing, unit.model)
        (finished,) = execute([unit], store=self._store, batch_size=self._batch_size)
        self._batch_size = finished.batch_size
        return self._answer()

    def make(self, errand: Errand) -> _Answer:
        """Make an errand."""
        self._settle()
        errand.make(self._holding(loaded, errand.model), self._store)
        return self._answer()

    def _answer(self) -> _Answer:
        from cnnaudit.models import choose_device
        from cnnaudit.numerics import named

        return _Answer(self._batch_size, named(choose_device(self._device)), self._said.take())

    def _settle(self) -> None:
        """Make this process what the one is that the audit was started in, once."""
        if self._settled:
            return
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
        self._settled = True

    def _holding(self, hold: Callable[..., AbstractContextManager[Any]], spec: ModelSpec) -> Any:
        """Return what `hold` gives of a model, which is held until another one is asked for."""
        from cnnaudit.models import choose_device

        if self._holds != (hold, spec):
            self._holds = self._given = None
            self._held.close()
            holding = hold(spec, self._audit, choose_device(self._device))
            self._given = self._held.enter_context(holding)
            self._holds, self._batch_size = (hold, spec), self._audit.batch_size
        return self._given


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
    """Return how many actors to start in a cluster, and what each takes of its resources."""
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
    """Join a cluster or start one here, and leave it; one already joined is used, and kept."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    in_charge = current_thread() is main_thread()
    asked_to_end = signal.getsignal(signal.SIGTERM)
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
        if in_charge:  # Ray has put one in its place that exits
            signal.signal(signal.SIGTERM, asked_to_end)
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
