"""The stages in their order: plan, execute, summarise, illustrate, write, report."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit import provenance
from cnnaudit.catalogue import make_catalogue
from cnnaudit.contrasts import check_contrast, contrast_table
from cnnaudit.image_sets import load_image_set
from cnnaudit.metrics import measure_overlap
from cnnaudit.metrics.truths import check_truth
from cnnaudit.models import ModelFacts, choose_device, inspect_model, resolve_model
from cnnaudit.plan import Plan, image_set_digest, make_plan, requests_of
from cnnaudit.progress import progress
from cnnaudit.store import Store, canonical_json, check_writable, digest_bytes, digest_file
from cnnaudit.store import write_atomically as write
from cnnaudit.types import AuditError, AuditSpec, ImageSet, MetricSpec, ModelSpec

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from cnnaudit.checks import Judgement
    from cnnaudit.illustrate import Illustrated

log = logging.getLogger(__name__)

SCHEMA = 1  # of every file of a run directory


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
    findings: Sequence[str]


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before work begins."""

    audit: AuditSpec
    device: torch.device
    image_sets: tuple[ImageSet, ...]
    facts: Mapping[str, ModelFacts]
    store: Store
    plan: Plan


@dataclass(frozen=True)
class Results:
    """What the finished cells say."""

    rows: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    judgements: Sequence[Judgement]
    findings: Sequence[Mapping[str, str]]
    gaps: Sequence[Mapping[str, Any]]  # why items have no value
    pictures: Sequence[Mapping[str, Any]]
    complete: bool
    verdict: str  # "" where nothing is declared to be checked


@dataclass
class Stopwatch:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


def prepare(audit: AuditSpec) -> Prepared:
    """Check everything that can be checked beforehand, and plan; raise AuditError if it is off."""
    check_writable(audit.output_dir, "output_dir")
    check_writable(audit.store_dir, "store_dir")
    device = choose_device(audit.device)
    image_sets = tuple(load_image_set(spec) for spec in audit.image_sets)
    audit = replace(audit, models=tuple(map(resolve_model, audit.models)))
    facts = {m.name: inspect_model(m, audit.seed) for m in audit.models}
    _check_truths(image_sets, audit.models, facts)
    by_name = {image_set.spec.name: image_set for image_set in image_sets}
    for contrast in audit.contrasts:
        check_contrast(contrast, by_name[contrast.image_set])
    _check_metrics(audit.metrics)
    store = Store(audit.store_dir)
    return Prepared(
        audit, device, image_sets, facts, store, make_plan(audit, image_sets, facts, store)
    )


def run_audit(audit: AuditSpec, invocation: Invocation) -> Outcome:
    """Run an audit, or continue it: what the store has is not computed again.

    Returns where the results lie and whether every cell could be computed.
    """
    from cnnaudit.report import write_report

    watch = Stopwatch()
    with watch.stage("plan"):
        ready = prepare(audit)
    run_dir = _make_run_dir(audit, invocation)
    with _logged(run_dir / "run.log"):
        log.info("%s", invocation.command)
        for text in audit.left_out:
            log.warning("left out: %s", text)
        log.info(
            "%d cells, %d of them in the store, %d to compute",
            ready.plan.keys,
            ready.plan.keys - ready.plan.missing,
            ready.plan.missing,
        )
        with watch.stage("execute"):
            _execute(ready)
        catalogue = make_catalogue(ready.audit, ready.image_sets, ready.facts)
        found = _read_results(ready, catalogue, watch)
        _write_results(found, ready.audit, run_dir)
        manifest = _manifest(ready, run_dir, invocation, catalogue, watch.seconds)
        write(run_dir / "config.yaml", invocation.config.encode())
        _write_json(run_dir / "manifest.json", manifest)
        page = write_report(run_dir)
        log.info("wrote %s", page)
    sentences = [finding["text"] for finding in found.findings]
    return Outcome(run_dir, page, found.complete, found.verdict, sentences)


def _execute(ready: Prepared) -> None:
    from cnnaudit.executors import EXECUTORS

    plan = ready.plan
    total = sum(len(unit.chunk) for unit in plan.units)
    with progress("images", total) as advance:
        EXECUTORS[ready.audit.executor](
            ready.audit,
            plan.units,
            ready.device,
            ready.store,
            lambda unit: advance(len(unit.chunk), unit.model.name),
        )


def _read_results(ready: Prepared, catalogue: Mapping[str, Any], watch: Stopwatch) -> Results:
    """Summarise, judge and illustrate what the store has now."""
    from cnnaudit import checks, summary

    audit = ready.audit
    with watch.stage("summarise"):
        rows = summary.collect_rows(ready.plan.cells, ready.store)
        table = summary.summarise(rows)
        findings = summary.find(table, ready.image_sets, catalogue)
        gaps = summary.find_gaps(rows)
    with watch.stage("judge"):
        contrasts = contrast_table(rows, audit.contrasts, audit.seed)
        judgements = checks.judge(rows, audit.checks, audit.contrasts, audit.seed)
        complete = not any(gap["status"] == "failed" for gap in gaps)
        verdict = checks.overall(audit.checks, judgements, complete=complete)
    with watch.stage("illustrate"):
        pictures = _illustrate(ready, rows)
    return Results(rows, table, contrasts, judgements, findings, gaps, pictures, complete, verdict)


def _write_results(found: Results, audit: AuditSpec, run_dir: Path) -> None:
    from cnnaudit import checks, summary
    from cnnaudit.junit import junit_xml

    failures = [gap for gap in found.gaps if gap["status"] == "failed"]
    folder = run_dir / "results"
    folder.mkdir()
    write(folder / "rows.parquet", found.rows.to_parquet(index=False))
    write(folder / "summary.csv", summary.to_csv(found.summary))
    write(folder / "contrasts.csv", summary.to_csv(found.contrasts))
    write(folder / "checks.csv", summary.to_csv(checks.table_of(found.judgements)))
    write(run_dir / "junit.xml", junit_xml(audit.name, found.judgements, failures))
    _write_json(folder / "illustrations.json", {"schema": SCHEMA, "pictures": found.pictures})
    _write_json(
        run_dir / "summary.json",
        {
            "schema": SCHEMA,
            "name": audit.name,
            "status": "COMPLETE" if found.complete else "INCOMPLETE",
            "verdict": found.verdict,
            "checks": checks.verdicts(found.judgements),
            "contradictions": checks.contradictions(found.judgements),
            "left_out": audit.left_out,
            "findings": found.findings,
            "counts": {str(s): int(n) for s, n in found.rows.status.value_counts().items()},
            "failures": failures,
            "gaps": [gap for gap in found.gaps if gap["status"] != "failed"],
        },
    )


def _illustrate(ready: Prepared, rows: pd.DataFrame) -> list[dict[str, Any]]:
    from cnnaudit.executors import loaded
    from cnnaudit.illustrate import exemplars, illustrate
    from cnnaudit.summary import worst_items

    audit = ready.audit
    metrics = audit.metrics
    worst = worst_items(rows, metrics[0].name) if metrics else {}
    pictures = []
    for spec in audit.models:
        requests = requests_of(audit, spec, ready.facts[spec.name])
        with ExitStack() as held:
            load = cache(partial(held.enter_context, loaded(spec, audit, ready.device)))
            for image_set in ready.image_sets:
                why = exemplars(image_set)
                for item, reasons in worst.get((spec.name, image_set.spec.name), {}).items():
                    why[item] = (*why.get(item, ()), *reasons)
                shown = illustrate(audit, load, spec, image_set, requests, why, ready.store)
                pictures += [_picture(spec.name, image_set, one) for one in shown]
    return pictures


def _picture(model: str, image_set: ImageSet, shown: Illustrated) -> dict[str, Any]:
    return {
        "model": model,
        "image_set": image_set.spec.name,
        "item": shown.item.id,
        "unit": image_set.unit_of(shown.item),
        "factors": dict(shown.item.factors),
        "why": shown.why,
        "key": shown.picture,
        "heatmaps": [
            {
                "technique": request.technique.name,
                "target": request.target.name,
                "layer": request.layer,
                "key": key,
                "status": status,
                "reason": reason,
            }
            for request, key, status, reason in shown.heatmaps
        ],
    }


def _check_truths(
    image_sets: Sequence[ImageSet], models: Sequence[ModelSpec], facts: Mapping[str, ModelFacts]
) -> None:
    for image_set in image_sets:
        first = {item.truth: item.id for item in reversed(image_set.items) if item.truth}
        for truth, item in first.items():
            for model in models:
                where = f"image_set.{image_set.spec.name}: item {item!r}"
                check_truth(model, facts[model.name].outputs, truth, where)


def _check_metrics(metrics: Sequence[MetricSpec]) -> None:
    """Try every metric's parameters on a small heatmap, before hours of work depend on them."""
    import torch

    heatmap, mask = torch.eye(4)[None], torch.eye(4, dtype=torch.bool)
    for metric in metrics:
        try:
            measure_overlap(heatmap, [mask], [metric])
        except AuditError as error:
            raise AuditError(f"metric.{metric.name}.{error}") from error


def _manifest(
    ready: Prepared,
    run_dir: Path,
    invocation: Invocation,
    catalogue: Mapping[str, Any],
    timings: Mapping[str, float],
) -> dict[str, Any]:
    from cnnaudit.numerics import describe, gpu_name

    audit, plan = ready.audit, ready.plan
    weights = {m.name: m.weights and digest_file(m.weights) for m in audit.models}
    return {
        "schema": SCHEMA,
        "name": audit.name,
        "created": _now().isoformat(timespec="seconds").replace("+00:00", "Z"),
        "command": invocation.command,
        "overrides": list(invocation.overrides),
        "store": _relative(audit.store_dir, run_dir),
        "git": provenance.git_state(),
        "packages": provenance.packages(),
        "hardware": provenance.hardware(str(ready.device), gpu_name(ready.device)),
        "digests": {
            "weights": weights,
            "image_sets": {s.spec.name: image_set_digest(s) for s in ready.image_sets},
        },
        "seed": audit.seed,
        **describe(audit),
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
    digest = digest_bytes(canonical_json(invocation.config).encode())[:8]
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


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write what the package logs into a file, and warnings too: torch names what may vary."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger("cnnaudit"), logging.getLogger("py.warnings")]
    loggers[0].setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _relative(path: Path, start: Path) -> str:
    """Return a path from a run directory, so that the outputs can be moved as a whole."""
    return os.path.relpath(path, start)


def _write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _now() -> datetime:
    return datetime.now(UTC)
