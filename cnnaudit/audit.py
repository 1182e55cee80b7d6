"""The stages in their order: plan, execute, summarise, illustrate, write, report."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cnnaudit import cluster
from cnnaudit.answerable import check_contrast, check_levels
from cnnaudit.catalogue import make_catalogue
from cnnaudit.environment import environment
from cnnaudit.executors import Executor, device_here, execute_here, make_here
from cnnaudit.facts import checked_files, facts_of
from cnnaudit.image_sets import load_image_set, not_readable, not_told_apart
from cnnaudit.image_sets.perturbed import with_perturbed
from cnnaudit.metrics import measure_overlap
from cnnaudit.metrics.readout import Readout
from cnnaudit.metrics.truths import check_truth, without_truth
from cnnaudit.models import ModelFacts, choose_device, resolve_model
from cnnaudit.plan import Plan, make_plan, requests_of
from cnnaudit.progress import Status, progress, reported
from cnnaudit.results import read_results, write_results
from cnnaudit.run_log import logged
from cnnaudit.specs import AuditSpec, MetricSpec, ModelSpec
from cnnaudit.store import Store, check_writable, digest_json, write_atomically, write_json
from cnnaudit.types import ANY_ERROR, RUN_SCHEMA, AuditError, Device, HeatmapRequest, ImageSet
from cnnaudit.verdicts import told

if TYPE_CHECKING:
    import pandas as pd

    from cnnaudit.execute import Finished
    from cnnaudit.executors import Make

EXECUTORS: Mapping[str, Executor] = {
    "local": Executor(execute_here, make_here),
    "ray": Executor(cluster.execute, cluster.make),
}
_ALWAYS_THERE = ("auto", "cpu")  # of devices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Invocation:
    """How the audit was called: what `manifest.json` needs to say to repeat it."""

    command: str
    overrides: Sequence[str]
    config: str  # the composed config, as YAML


@dataclass(frozen=True)
class Outcome:
    run_dir: Path
    report: Path
    complete: bool
    verdict: str  # "" where nothing is declared to be checked
    checks: Sequence[str]  # of each what came out
    findings: Sequence[str]
    left_out: Sequence[str]


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before work begins."""

    audit: AuditSpec
    image_sets: tuple[ImageSet, ...]
    facts: Mapping[str, ModelFacts]
    requests: Mapping[str, Sequence[HeatmapRequest]]  # of each model
    store: Store
    plan: Plan


@dataclass
class Stopwatch:
    """Measures how many seconds each stage takes, and tells `begun` which one begins."""

    seconds: dict[str, float] = field(default_factory=dict)
    begun: Callable[[str], None] = lambda _stage: None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.begun(name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


def prepare(audit: AuditSpec) -> Prepared:
    """Check everything that can be checked beforehand, and plan; raise AuditError if it is off."""
    _check_outside(audit)
    check_writable(audit.output_dir, "output_dir")
    check_writable(audit.store_dir, "store_dir")
    if device_here(audit) not in _ALWAYS_THERE:
        choose_device(audit.device)
    store = Store(audit.store_dir)
    store.sweep()
    check_once = partial(checked_files, store=store)
    loaded = (load_image_set(spec, check_once) for spec in audit.image_sets)
    image_sets = tuple(with_perturbed(loaded, audit.perturbations, audit.seed))
    audit = replace(
        audit,
        models=tuple(map(resolve_model, audit.models)),
        left_out=(*audit.left_out, *not_told_apart(image_sets)),
    )
    facts = {m.name: facts_of(audit, m, store) for m in audit.models}
    no_truth = _check_truths(image_sets, audit.models, facts)
    audit = replace(audit, left_out=(*audit.left_out, *no_truth))
    requests = {m.name: requests_of(audit, m, facts[m.name]) for m in audit.models}
    names = _names(audit, requests)
    by_name = {image_set.spec.name: image_set for image_set in image_sets}
    for contrast in audit.contrasts:
        image_set = by_name[contrast.image_set]
        check_contrast(contrast, image_set, names)
        for check in audit.checks:
            if check.contrast == contrast.name:
                check_levels(check, contrast, image_set)
    plan = make_plan(audit, image_sets, requests, store)
    if plan.units:  # what is in the store was measured by the same metrics
        _check_metrics(audit.metrics)
    return Prepared(audit, image_sets, facts, requests, store, plan)


def run_audit(audit: AuditSpec, invocation: Invocation) -> Outcome:
    """Run an audit, or continue it: what the store has is not computed again.

    Returns where the results lie and whether every cell could be computed.
    """
    watch = Stopwatch()
    with watch.stage("plan"):
        ready = prepare(audit)
    run_dir = _make_run_dir(audit, invocation)
    with logged(run_dir / "run.log"), reported(run_dir / "status.json") as status:
        watch.begun = lambda stage: status.say(stage=stage)
        log_plan(ready, invocation)
        with watch.stage("execute"):
            executed = execute_plan(ready, status)
        make = EXECUTORS[audit.executor.uses].make
        outcome = finish(ready, run_dir, invocation, executed, watch, make)
        status.say(complete=outcome.complete, verdict=outcome.verdict)
        return outcome


def compute_rows(audit: AuditSpec) -> tuple[Prepared, Executed, pd.DataFrame]:
    """Compute what the store lacks of an audit, and return the rows of all its cells; no report."""
    from cnnaudit.rows import collect_rows

    ready = prepare(audit)
    with (
        TemporaryDirectory(prefix="cnnaudit-") as folder,
        reported(Path(folder) / "status.json") as status,
    ):
        executed = execute_plan(ready, status)
    return ready, executed, collect_rows(ready.plan.cells, ready.store)


def log_plan(ready: Prepared, invocation: Invocation) -> None:
    """Log what is about to be computed."""
    log.info("%s", invocation.command)
    for text in ready.audit.left_out:
        log.warning("left out: %s", text)
    for text in not_readable(ready.image_sets):
        log.warning("%s", text)
    log.info(
        "%d cells, %d of them in the store, %d to compute",
        ready.plan.keys,
        ready.plan.keys - ready.plan.missing,
        ready.plan.missing,
    )


def finish(
    ready: Prepared,
    run_dir: Path,
    invocation: Invocation,
    executed: Executed,
    watch: Stopwatch,
    make: Make,
) -> Outcome:
    """Sum up and judge what the store has of an audit, and write it all into a run directory.

    `make` makes what needs a model beside the cells: pictures, filters, curves.
    """
    from cnnaudit.report.writing import write_report

    catalogue = make_catalogue(ready.audit, ready.image_sets, ready.facts, ready.requests)
    found = read_results(ready, run_dir, catalogue, watch, make)
    write_results(found, ready, run_dir)
    sentences = [finding["text"] for finding in found.findings]
    outcome = partial(
        Outcome,
        complete=found.complete,
        verdict=found.verdict,
        checks=told(found.judgements),
        findings=sentences,
        left_out=ready.audit.left_out,
    )
    devices = [*dict.fromkeys([*executed.devices, *found.devices])]
    del found  # the report reads the tables from their files: they would be held twice
    executed = replace(executed, devices=devices)
    manifest = _manifest(ready, run_dir, invocation, catalogue, executed, watch.seconds)
    write_atomically(run_dir / "config.yaml", invocation.config.encode())
    write_json(run_dir / "manifest.json", manifest)
    page = write_report(run_dir)
    log.info("wrote %s", page)
    return outcome(run_dir, page)


@dataclass(frozen=True)
class Executed:
    """What executing found out about the machine."""

    devices: Sequence[Device]  # on which something was computed
    batch_sizes: Mapping[str, int]  # of each model that was run: the largest that its memory took
    nondeterministic: Sequence[str]  # operations of which torch warns that they may vary


def execute_plan(ready: Prepared, status: Status) -> Executed:
    """Compute what the store lacks."""
    from cnnaudit.numerics import noted_operations

    plan = ready.plan
    totals = Counter[str]()
    for unit in plan.units:
        totals[unit.model.name] += len(unit.chunk)
    batch_sizes: dict[str, int] = {}
    devices: dict[Device, None] = {}

    def done(finished: Finished) -> None:
        if finished.device:
            devices[finished.device] = None
        name = finished.unit.model.name
        batch_sizes[name] = min(batch_sizes.get(name, finished.batch_size), finished.batch_size)
        advance(len(finished.unit.chunk), name)

    with progress(totals, status) as advance, noted_operations() as nondeterministic:
        if plan.units:
            executor = EXECUTORS[ready.audit.executor.uses]
            executor.execute(ready.audit, plan.units, ready.store, done)
    return Executed([*devices], batch_sizes, nondeterministic)


def _check_outside(audit: AuditSpec) -> None:
    """Refuse to write into a folder of pictures: the next run would audit what this one wrote."""
    for spec in audit.image_sets:
        for key in ("output_dir", "store_dir"):
            written, root = getattr(audit, key).resolve(), spec.root.resolve()
            if spec.uses == "folder" and written.is_relative_to(root):
                raise AuditError(
                    f"{key}: {written} lies below image_set.{spec.name}.root, {root}, and what is "
                    f"written there would be audited with it; name another one, {key}=…"
                )


def _names(
    audit: AuditSpec, requests: Mapping[str, Sequence[HeatmapRequest]]
) -> dict[str, list[str]]:
    """Return the names that a contrast can compare as it does the levels of a factor."""
    return {
        "model": [spec.name for spec in audit.models],
        "technique": [technique.name for technique in audit.techniques],
        "target": list(dict.fromkeys(one.target.name for own in requests.values() for one in own)),
    }


def _check_truths(
    image_sets: Sequence[ImageSet], models: Sequence[ModelSpec], facts: Mapping[str, ModelFacts]
) -> list[str]:
    """Return what cannot be measured, as an image set's truths are all of another task."""
    lacking = []
    for image_set in image_sets:
        where = f"image_set.{image_set.spec.name}"
        first = {item.truth: item.id for item in reversed(image_set.items) if item.truth}
        for model in models:
            outputs = facts[model.name].outputs
            of_its_task = [
                check_truth(model, outputs, truth, f"{where}: item {item!r}")
                for truth, item in first.items()
            ]
            if first and not any(of_its_task):
                lacking.append(without_truth(model, image_set.spec.name, [*first][-1]))
    return lacking


def _check_metrics(metrics: Sequence[MetricSpec]) -> None:
    """Try every metric on two small heatmaps, before hours of work depend on it."""
    import torch

    heatmap, mask = torch.eye(32), torch.eye(32, dtype=torch.bool)
    for metric in metrics:
        try:
            if metric.region:
                measure_overlap(torch.stack([heatmap] * 2), [mask] * 2, [metric], Readout())
        except AuditError as error:
            raise AuditError(f"metric.{metric.name}.{error}") from error
        except ANY_ERROR as error:  # somebody's metric may raise anything
            raise AuditError(
                f"metric.{metric.name}: {metric.uses} fails ({type(error).__name__}: {error})"
            ) from error


def _manifest(
    ready: Prepared,
    run_dir: Path,
    invocation: Invocation,
    catalogue: Mapping[str, Any],
    executed: Executed,
    timings: Mapping[str, float],
) -> dict[str, Any]:
    audit, plan = ready.audit, ready.plan
    return {
        "schema": RUN_SCHEMA,
        "name": audit.name,
        "created": _now().isoformat(timespec="seconds").replace("+00:00", "Z"),
        "report": audit.report,
        "command": invocation.command,
        "overrides": list(invocation.overrides),
        "store": relative(audit.store_dir, run_dir),
        **environment(ready, executed),
        "nondeterministic": list(executed.nondeterministic),
        "batch_size": {"asked": audit.batch_size, **executed.batch_sizes},
        "timings": dict(timings),
        "cells": {
            "planned": plan.keys,
            "found": plan.keys - plan.missing,
            "computed": plan.missing,
        },
        "catalogue": catalogue,
    }


def _make_run_dir(audit: AuditSpec, invocation: Invocation) -> Path:
    stamp = _now().strftime("%Y%m%dT%H%M%SZ")
    digest = digest_json(invocation.config)[:8]
    parent = audit.output_dir / audit.name
    for number in range(1000):  # two runs of one second get folders of their own
        run_dir = parent / f"{stamp}-{digest}{f'-{number}' if number else ''}"
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise AuditError(f"output_dir: cannot make {run_dir} ({error.strerror})") from error
        return run_dir
    raise AuditError(f"output_dir: {parent} is full of runs of this second")


def relative(path: Path, start: Path) -> str:
    """Return a path from a run directory, so that the outputs can be moved as a whole."""
    return os.path.relpath(path.resolve(), start.resolve())  # the way up leads where links point


def _now() -> datetime:
    return datetime.now(UTC)
