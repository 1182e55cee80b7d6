"""An audit in shares, each computed by a call that knows nothing of the others, then joined.

All shards of one config write into one run directory: what each did into ``shards/<number>.json``,
its numbers into the store. Only who joins them judges.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnnaudit.audit import (
    Executed,
    Invocation,
    Outcome,
    Prepared,
    Stopwatch,
    execute_plan,
    finish,
    log_plan,
    prepare,
    relative,
)
from cnnaudit.executors import make_here
from cnnaudit.plan import Plan
from cnnaudit.progress import reported
from cnnaudit.run_log import logged
from cnnaudit.specs import AuditSpec
from cnnaudit.store import Store, digest_json, write_atomically, write_json
from cnnaudit.stored import CONFIG_FILE, SHARDS, stored_audit
from cnnaudit.types import ROWS_FILE, RUN_SCHEMA, AuditError, Cell, Device, Unit

_NAMED = 10  # shards that a message names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What a shard did."""

    run_dir: Path
    shard: int
    shards: int
    units: int  # that it computed
    cells: int
    failed: int  # of these cells


def run_shard(audit: AuditSpec, invocation: Invocation) -> Share:
    """Compute one share of an audit, and note in the run directory of all that it is done."""
    shard, shards = audit.executor.shard, audit.executor.shards
    assert shard is not None
    ready = prepare(audit)
    units = share_of(ready.plan, shards, shard)
    run_dir = _make_run_dir(audit, invocation, shard)
    file = run_dir / SHARDS / str(shard)
    with (
        logged(file.with_suffix(".log")),
        reported(file.with_suffix(".status")) as status,
    ):
        log_plan(ready, invocation)
        log.info("shard %d of %d: %d units of work", shard, shards, len(units))
        executed = execute_plan(replace(ready, plan=replace(ready.plan, units=units)), status)
    cells = [cell for unit in units for cell in unit.cells]
    failed = sum(not ready.store.has(cell.key) for cell in cells)  # they are to come again
    write_json(
        file.with_suffix(".json"),
        {
            "schema": RUN_SCHEMA,
            "shard": shard,
            "shards": shards,
            "command": invocation.command,
            "overrides": [text for text in invocation.overrides if not _names_shard(text)],
            "store": relative(ready.store.root, run_dir),
            "units": len(units),
            "cells": len(cells),
            "failed": failed,
            "devices": executed.devices,
            "batch_sizes": dict(executed.batch_sizes),
            "nondeterministic": list(executed.nondeterministic),
        },
    )
    return Share(run_dir, shard, shards, len(units), len(cells), failed)


def share_of(plan: Plan, shards: int, shard: int) -> tuple[Unit, ...]:
    """Return a shard's units of a plan: of all its chunks, in the order of their digests.

    So a share is the same whatever the store has already, and no larger than another by more than
    one chunk.
    """
    chunk_of: dict[str, str] = {}
    for cell in plan.cells:  # one that several models share belongs to the first, as in the plan
        chunk_of.setdefault(cell.key, _digest(cell))
    own = set(sorted(set(chunk_of.values()))[shard::shards])
    return tuple(unit for unit in plan.units if _digest(unit) in own)


def _digest(part: Cell | Unit) -> str:
    """Return a digest of the model and the items that a part of the plan is about."""
    about = [part.model.name, part.image_set.spec.name, [item.id for item in part.chunk]]
    return digest_json(about)


def join_shards(run_dir: Path, overrides: Iterable[str] = ()) -> tuple[AuditSpec, Outcome]:
    """Sum up and judge what all shards of a run directory computed.

    Raises AuditError if a shard has not reported, or if the store lacks a cell.
    """
    reports, overrides = _reports(run_dir), tuple(overrides)
    audit, invocation = stored_audit(run_dir, overrides, "report")
    _check_all_reported(run_dir, reports, audit.executor.shards)
    if not any(text.startswith("store_dir=") for text in overrides):
        # Where the shards were called its path may have begun elsewhere than here.
        here, report = run_dir.resolve(), next(iter(reports.values()))
        audit = replace(audit, store_dir=(here / report["store"]).resolve(), output_dir=here)
    watch = Stopwatch()
    with watch.stage("plan"):
        ready = prepare(audit)
    _check_all_there(ready, run_dir)
    ready = replace(ready, plan=replace(ready.plan, units=()))  # what is left to do failed
    with logged(run_dir / "run.log"), reported(run_dir / "status.json") as status:
        watch.begun = lambda stage: status.say(stage=stage)
        log_plan(ready, invocation)
        # Here, wherever the shards were computed: that cluster may be gone.
        united = _united(reports.values())
        return audit, finish(ready, run_dir, invocation, united, watch, make_here)


def _reports(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Return what each shard that is done says of itself."""
    reports = {}
    for file in sorted((run_dir / SHARDS).glob("*.json")):
        try:
            report = json.loads(file.read_bytes())
            if report["schema"] != RUN_SCHEMA:
                raise ValueError("of another version")
            reports[int(report["shard"])] = report
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AuditError(f"{file} cannot be read; run that shard again") from error
    return reports


def _check_all_reported(run_dir: Path, reports: Iterable[int], shards: int) -> None:
    missing = sorted(set(range(shards)) - set(reports))
    if missing:
        more = f" and {len(missing) - _NAMED} more" * (len(missing) > _NAMED)
        raise AuditError(
            f"{run_dir}: of its {shards} shards {len(missing)} have not finished: "
            f"executor.shard={','.join(map(str, missing[:_NAMED]))}{more}"
        )


def _check_all_there(ready: Prepared, run_dir: Path) -> None:
    """Refuse to join when the store lacks cells; those in which something failed are there."""
    left = [cell for unit in ready.plan.units for cell in unit.cells]
    missing = sum(not _readable(cell, ready.store) for cell in left)
    if missing:
        raise AuditError(
            f"{run_dir}: the store {ready.store.root} lacks {missing} of {ready.plan.keys} cells, "
            "though every shard has finished: something that they depend on has changed since "
            "(pictures, weights, code, versions), or they were damaged; run the shards again"
        )


def _readable(cell: Cell, store: Store) -> bool:
    try:
        return bool(store.read(cell.key, ROWS_FILE))
    except AuditError:
        return False


def _united(reports: Iterable[dict[str, Any]]) -> Executed:
    """Return what the shards found out about their machines."""
    devices: dict[Device, None] = {}
    sizes: dict[str, int] = {}
    operations: set[str] = set()
    for report in reports:
        devices |= dict.fromkeys(map(tuple, report["devices"]))
        operations |= set(report["nondeterministic"])
        for model, size in report["batch_sizes"].items():
            sizes[model] = min(size, sizes.get(model, size))
    return Executed([*devices], sizes, sorted(operations))


def _make_run_dir(audit: AuditSpec, invocation: Invocation, shard: int) -> Path:
    """Make the run directory of all shards of a config, or find it made by another one."""
    digest = digest_json(invocation.config)[:8]
    run_dir = audit.output_dir / audit.name / f"{digest}-shards"
    folder = run_dir / SHARDS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{shard}.yaml"  # another shard may write the same file just now
        write_atomically(draft, invocation.config.encode())
        draft.replace(run_dir / CONFIG_FILE)
    except OSError as error:
        raise AuditError(f"output_dir: cannot write to {run_dir} ({error.strerror})") from error
    return run_dir


def _names_shard(text: str) -> bool:
    return text.lstrip("+").partition("=")[0] == "executor.shard"
