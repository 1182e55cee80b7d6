"""Whether heatmaps depend on what a network learnt: its layers become random from the top down.

After each group of layers, the rank correlation of each image's heatmap with what it was before.
Every image keeps the target that it had. Source: Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018 (cascading randomisation).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from cnnaudit.totals import failure
from cnnaudit.types import HeatmapRequest, ImageSet, Item

if TYPE_CHECKING:
    from torch import nn

VERSION = 1  # raise it when the same key would give other numbers
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
    lines: list[dict[str, Any]] = []
    for work, requests in _works(audit, facts, image_sets):
        for request in requests:
            about = json.loads(store.read(cell_key(work.fields(request)), _FILE))
            lines += _lines(work, request, about)
    return pd.DataFrame(lines, columns=COLUMNS)


def curve_errands(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    store: Store,
) -> Iterator[Errand]:
    """Yield what is to be made so that the store has every curve that the table rests on."""
    for work, requests in _works(audit, facts, image_sets):
        fields = [(request, work.fields(request)) for request in requests]
        missing = [(request, own) for request, own in fields if not store.has(cell_key(own))]
        if missing:
            title = f"randomised, on {len(work.items)} items of {work.image_set}"
            make, fail = partial(_make, work, missing), partial(_fail, missing)
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


def find_failures(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what failed in the form of a gap: the audit is not complete without it."""
    failed = table[table.status.str.startswith("failed")]
    return [
        failure(
            one["model"],
            one["image_set"],
            reason=one["status"].partition(": ")[2],
            items=one["total"],
            examples=[],
            missing={one["technique"]: [one["sanity"]]},
        )
        for one in failed.to_dict("records")
    ]


def _make(work: _Work, asked: Asked, model: nn.Module, store: Store) -> None:
    """Store the curve of each request."""
    from cnnaudit.randomising import curves

    for request, fields in asked:
        check_same(fields, work.fields(request))
    requests, size = [request for request, _ in asked], work.audit.batch_size
    made = curves(model, work.spec, work.items, work.sanity, requests, size)
    for (_, fields), about in zip(asked, made, strict=True):
        _write(store, fields, about)


def _fail(asked: Asked, store: Store, reason: str) -> None:
    for _, fields in asked:
        _write(store, fields, {"status": "failed", "reason": reason, "steps": []})


def _write(store: Store, fields: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    content = json.dumps(about).encode()
    store.write(cell_key(fields), {_FILE: content}, fields, again=about["status"] == "failed")


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
            "total": len(step["correlations"]) or len(work.items),
            "status": status
            if about["status"] == "ok"
            else f"{about['status']}: {about['reason']}",
        }
