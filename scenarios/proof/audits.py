"""Audit a network, and write down what was found: one JSON record for each network."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cnnaudit.audit import compute_rows
from cnnaudit.config import load_specs
from cnnaudit.executors import make_here
from cnnaudit.randomisation import randomisation_table, to_randomise
from scenarios.proof.alike import write_alike
from scenarios.proof.evidence import evidence_of
from scenarios.proof.networks import AUDITED, Ready, make_ready
from scenarios.proof.plan import HERE, Arm, Network, Proof


def examine_all(
    proof: Proof, networks: Sequence[Network], *, workers: int, done: Callable[[], None]
) -> list[dict[str, Any]]:
    """Return the record of each network, those that are spoilt after those that they come from."""
    records = {}
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawned, initializer=_quiet) as pool:
        for spoilt in (False, True):
            chosen = [one for one in networks if bool(proof.arms[one.arm].spoil) is spoilt]
            futures = {pool.submit(_examine, proof, network): network for network in chosen}
            for future in as_completed(futures):
                records[futures[future]] = future.result()
                done()
    return [records[network] for network in networks]


def overrides_of(proof: Proof, network: Network, ready: Ready) -> list[str]:
    """Return what the audit of a network is told beside ``conf/experiment/proof.yaml``."""
    arm = proof.arms[network.arm]
    sane = network.arm == "clean" and network.seed < proof.seed + proof.sanity
    return [
        "experiment=proof",
        f"model.{AUDITED}.builder=detector_{ready.head}",
        f"model.{AUDITED}.weights={ready.weights}",
        *ready.overrides,
        f"image_set.tank.root={proof.output / 'places'}",
        f"image_set.alike.root={_alike(proof, arm)}",
        f"output_dir={proof.output / 'audits'}",
        f"name={network.name}",
        "device=cpu",
        *(["sanity=[randomisation]"] if sane else []),
    ]


def write_image_sets(proof: Proof) -> None:
    """Write the uncrossed image set of every arm, from the crossed one."""
    for arm in proof.arms.values():
        folder, places = _alike(proof, arm), proof.output / "places"
        write_alike(places, folder, cue=arm.cue, strength=arm.strength, seed=proof.seed)


def _alike(proof: Proof, arm: Arm) -> Path:
    return proof.output / "alike" / f"{arm.cue}-{arm.strength:g}"


def _examine(proof: Proof, network: Network) -> dict[str, Any]:
    """Return the record of a network; train and audit what an earlier run has not."""
    path = proof.output / "records" / f"{network.name}.json"
    if not path.exists():
        record = _record(proof, network, make_ready(proof, network))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(path)
    record = json.loads(path.read_text())
    return dict(record)


def _record(proof: Proof, network: Network, ready: Ready) -> dict[str, Any]:
    overrides = overrides_of(proof, network, ready)
    audit = load_specs(overrides, HERE / "conf")
    done, _, rows = compute_rows(audit)
    evidence = evidence_of(rows, audit, proof.evidence)
    curves = to_randomise(done.audit, done.requests, done.image_sets)
    errands = [errand for one in curves for errand in one.errands(done.store)]
    make_here(done.audit, errands, done.store)
    random = randomisation_table(curves, done.store)
    failed = (rows.status == "failed").any() or any([*one.gaps(done.store)] for one in curves)
    return {
        **asdict(network),
        "label": ready.label,
        "matched": ready.matched,
        "conflicting": ready.conflicting,
        "complete": not failed,
        **asdict(evidence),
        "randomisation": _when_random(random),
    }


def _when_random(table: pd.DataFrame) -> dict[str, float]:
    """Return how far each technique's heatmaps are what they were once all weights are random."""
    if table.empty:
        return {}
    last = table[(table.share == 1) & (table.image_set == "tank") & table.correlation.notna()]
    return dict(zip(last.technique, last.correlation.astype(float), strict=True))


def _quiet() -> None:
    """Give each network one core, and leave its audit no bars beside that of all networks."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  as long as the process lives
