"""Whether heatmaps depend on what a network learnt: its layers become random from the top down.

After each group of layers, the rank correlation of each image's heatmap with what it was before.
Every image keeps the target that it had. Source: Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018 (cascading randomisation).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cnnaudit.agreement import listed
from cnnaudit.executors import Errand
from cnnaudit.models import ModelFacts
from cnnaudit.plan import Asked, check_same, item_fields, request_fields, requests_of, run_fields
from cnnaudit.specs import AuditSpec, ModelSpec, SanitySpec
from cnnaudit.statistics import estimate
from cnnaudit.store import Store, cell_key, digest_bytes
from cnnaudit.totals import Subject, failure
from cnnaudit.types import DIED, HeatmapRequest, ImageSet, Item

if TYPE_CHECKING:
    from torch import nn

VERSION = 2  # raise it when the same key would give other numbers
COLUMNS = [
    *("sanity", "image_set", "model", "target", "technique", "step", "layers", "share"),
    *("correlation", "low", "high", "units", "scored", "total", "bound", "status"),
]
_FILE = "randomisation.json"


@dataclass(frozen=True)
class _Work:
    """What is asked of one model on some pictures of an image set."""

    audit: AuditSpec
    spec: ModelSpec
    image_set: str
    items: Sequence[Item]
    sanity: SanitySpec

    def fields(self, request: HeatmapRequest) -> dict[str, Any]:
        """Return what determines the curve of a request."""
        pictures = [*map(item_fields, self.items)]
        return {
            **run_fields(self.audit, self.spec),
            **request_fields(self.spec, request),
            "kind": "randomisation",
            "of_randomisation": [VERSION, self.sanity.steps, self.sanity.seed],
            "items": [{**fields, "regions": None} for fields in pictures],
        }


def randomisation_table(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    store: Store,
) -> pd.DataFrame:
    """Return the mean correlation over units after each step, with its t interval (95 %).

    Image sets count as they are, not under perturbations. The store must have the curves.
    """
    made = _made(audit, facts, image_sets, store)
    return pd.DataFrame([line for one in made for line in _lines(*one)], columns=COLUMNS)


def curve_gaps(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    store: Store,
) -> Iterator[dict[str, Any]]:
    """Yield of which items a curve lacks a correlation since something failed, and why."""
    for work, request, about in _made(audit, facts, image_sets, store):
        by_reason: dict[str, list[str]] = {}
        for item, reason in about["failures"].items():
            by_reason.setdefault(reason, []).append(item)
        for reason, items in by_reason.items():
            missing = {request.technique.name: [work.sanity.name]}
            yield failure(work.spec.name, work.image_set, reason, len(items), items, missing)


def curve_errands(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    store: Store,
    died: Mapping[Subject, Set[str]],
) -> Iterator[Errand]:
    """Yield what is to be made so that the store has every curve that the table rests on.

    `died` has the items of which a process died already: they are not tried again.
    """
    for work, requests in _works(audit, facts, image_sets):
        fields = [(request, work.fields(request)) for request in requests]
        missing = [(request, own) for request, own in fields if not store.has(cell_key(own))]
        if missing:
            title = f"randomised, on {len(work.items)} items of {work.image_set}"
            left_out = died.get((work.spec.name, work.image_set), set())
            make, fail = partial(_make, work, missing, left_out), partial(_fail, work, missing)
            yield Errand(title, work.spec, make, fail)


def curve_keys(
    audit: AuditSpec, facts: Mapping[str, ModelFacts], image_sets: Iterable[ImageSet]
) -> Iterator[str]:
    """Yield the store's key of every curve that the table rests on."""
    for work, requests in _works(audit, facts, image_sets):
        yield from (cell_key(work.fields(request)) for request in requests)


def _works(
    audit: AuditSpec, facts: Mapping[str, ModelFacts], image_sets: Iterable[ImageSet]
) -> Iterator[tuple[_Work, list[HeatmapRequest]]]:
    """Yield what is asked of each model on each image set, and of which requests."""
    as_they_are = [one for one in image_sets if not any(item.perturbed for item in one.items)]
    chosen = {
        (sanity.name, image_set.spec.name): _chosen(image_set, sanity.items)
        for sanity in audit.sanities
        for image_set in as_they_are
    }
    for spec in audit.models:
        requests = requests_of(audit, spec, facts[spec.name])
        for sanity in audit.sanities:
            mine = [one for one in requests if one.technique.name in sanity.techniques]
            for name in (one.spec.name for one in as_they_are):
                yield _Work(audit, spec, name, chosen[sanity.name, name], sanity), mine


def _made(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    store: Store,
) -> Iterator[tuple[_Work, HeatmapRequest, dict[str, Any]]]:
    """Yield what the store says of each curve."""
    for work, requests in _works(audit, facts, image_sets):
        for request in requests:
            content = store.read(cell_key(work.fields(request)), _FILE)
            yield work, request, json.loads(content)


def _chosen(image_set: ImageSet, count: int) -> list[Item]:
    """Return the first items in the order of their digests, one of each unit of independence."""
    by_unit: dict[str, Item] = {}
    for item in sorted(image_set.items, key=lambda item: digest_bytes(item.id.encode())):
        by_unit.setdefault(image_set.unit_of(item), item)
    return [*by_unit.values()][:count]


def find_randomisation(table: pd.DataFrame, titles: Mapping[str, str]) -> list[dict[str, str]]:
    """Say of each model how far its heatmaps are what they were once all of it is random.

    `titles` has how a technique is called. Those that keep the bound are named last.
    """
    findings = []
    known = table[table.correlation.notna()]
    last = known[known.share == 1].sort_values("correlation", ascending=False, kind="stable")
    for (sanity, image_set, model), part in last.groupby(
        ["sanity", "image_set", "model"], sort=False
    ):
        targets = part.target.nunique() > 1
        said = [
            f"{one['correlation']:.2f} under {titles.get(one['technique'], one['technique'])}"
            + (f" of {one['target']}" if targets and one["target"] else "")
            for one in part.to_dict("records")
        ]
        over = int((part.correlation >= part.bound).sum())
        text = f"With every layer of {model} re-initialised, heatmaps agree with what they were by "
        text += f"{listed(said[:over] or said)} (mean rank correlation on {image_set})"
        text += (
            f": they are not about this network, the bound is {part.bound.iloc[0]:g}"
            if over
            else ": they depend on what it learnt"
        )
        if 0 < over < len(said):
            text += f"; the others agree by {listed(said[over:])}"
        about = {"sanity": str(sanity), "image_set": str(image_set), "model": str(model)}
        findings.append({"text": f"{text}.", **about})
    return findings


def _make(work: _Work, asked: Asked, left_out: Set[str], model: nn.Module, store: Store) -> None:
    """Store the curve of each request."""
    from cnnaudit.randomising import curves

    for request, fields in asked:
        check_same(fields, work.fields(request))
    requests, size = [request for request, _ in asked], work.audit.batch_size
    items = [item for item in work.items if item.id not in left_out]
    if not items:
        _fail(work, asked, store, DIED)
        return
    lost = {item.id: DIED for item in work.items if item.id in left_out}
    made = curves(model, work.spec, items, work.sanity, requests, size)
    for (_, fields), curve in zip(asked, made, strict=True):
        _write(store, fields, {**curve, "failures": {**curve["failures"], **lost}})


def _fail(work: _Work, asked: Asked, store: Store, reason: str) -> None:
    failures = {item.id: reason for item in work.items}
    about = {"status": "failed", "reason": reason, "steps": [], "failures": failures}
    for _, fields in asked:
        _write(store, fields, about)


def _write(store: Store, fields: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Store a curve; one in which something failed is to be made again."""
    content = json.dumps(about).encode()
    store.write(cell_key(fields), {_FILE: content}, fields, again=bool(about["failures"]))


def _lines(
    work: _Work, request: HeatmapRequest, about: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    common = {
        "sanity": work.sanity.name,
        "image_set": work.image_set,
        "model": work.spec.name,
        "target": request.target.name,
        "technique": request.technique.name,
        "bound": work.sanity.bound,
    }
    lacking = {"step": 0, "layers": "", "share": 0.0, "correlations": {}}
    for number, step in enumerate(about["steps"] or [lacking], start=1):
        values = [value for value in step["correlations"].values() if value is not None]
        found = estimate(np.array(values, np.float64))
        status = "ok" if values else "undefined: no heatmap that varies"
        yield {
            **common,
            "step": step.get("step", number),
            "layers": step["layers"],
            "share": step["share"],
            "correlation": found.mean,
            "low": np.maximum(found.low, -1),
            "high": np.minimum(found.high, 1),
            "units": found.units,
            "scored": len(values),
            "total": len({*step["correlations"], *about["failures"]}) or len(work.items),
            "status": status
            if about["status"] == "ok"
            else f"{about['status']}: {about['reason']}",
        }
