"""Whether heatmaps depend on what a network learnt: its layers become random from the top down.

After each group of layers, the rank correlation of each image's heatmap with what it was before.
Every image keeps the target that it had. Source: Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018 (cascading randomisation).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cnnaudit.agreement import listed
from cnnaudit.executors import when_needed
from cnnaudit.models import ModelFacts
from cnnaudit.plan import item_fields, request_fields, requests_of, run_fields
from cnnaudit.specs import AuditSpec, ModelSpec, SanitySpec
from cnnaudit.statistics import estimate
from cnnaudit.store import Store, cell_key, digest_bytes
from cnnaudit.types import HeatmapRequest, ImageSet, Item

if TYPE_CHECKING:
    from torch import nn

    from cnnaudit.executors import Loading

VERSION = 1  # raise it when the same key would give other numbers
COLUMNS = [
    *("sanity", "image_set", "model", "target", "technique", "step", "layers", "share"),
    *("correlation", "low", "high", "units", "scored", "total", "bound", "status"),
]
_FILE = "randomisation.json"


@dataclass(frozen=True)
class _Work:
    """What is asked of one model on one image set."""

    audit: AuditSpec
    spec: ModelSpec
    image_set: ImageSet
    sanity: SanitySpec

    @property
    def items(self) -> list[Item]:
        """The first items in the order of their digests, one of each unit of independence."""
        by_unit: dict[str, Item] = {}
        for item in sorted(self.image_set.items, key=lambda item: digest_bytes(item.id.encode())):
            by_unit.setdefault(self.image_set.unit_of(item), item)
        return [*by_unit.values()][: self.sanity.items]

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
    load: Loading,
    store: Store,
) -> pd.DataFrame:
    """Return the mean correlation over units after each step, with its t interval (95 %).

    Image sets count as they are, not under perturbations. A model is loaded if the store lacks any
    of its curves.
    """
    lines: list[dict[str, Any]] = []
    image_sets = tuple(image_sets)
    for spec in audit.models:
        with when_needed(load, spec) as loaded:
            for work, requests in _works(audit, spec, facts[spec.name], image_sets):
                stored = _stored(work, loaded, requests, store)
                for request, about in zip(requests, stored, strict=True):
                    lines += _lines(work, request, about)
    return pd.DataFrame(lines, columns=COLUMNS)


def curve_keys(
    audit: AuditSpec, facts: Mapping[str, ModelFacts], image_sets: Iterable[ImageSet]
) -> Iterator[str]:
    """Yield the store's key of every curve that the table rests on."""
    image_sets = tuple(image_sets)
    for spec in audit.models:
        for work, requests in _works(audit, spec, facts[spec.name], image_sets):
            yield from (cell_key(work.fields(request)) for request in requests)


def _works(
    audit: AuditSpec, spec: ModelSpec, facts: ModelFacts, image_sets: Sequence[ImageSet]
) -> Iterator[tuple[_Work, list[HeatmapRequest]]]:
    """Yield what is asked of a model on each image set, and the requests that it is asked of."""
    as_they_are = [one for one in image_sets if not any(item.perturbed for item in one.items)]
    for sanity in audit.sanities:
        requests = requests_of(audit, spec, facts)
        mine = [one for one in requests if one.technique.name in sanity.techniques]
        for image_set in as_they_are:
            yield _Work(audit, spec, image_set, sanity), mine


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
        {
            "model": one["model"],
            "image_set": one["image_set"],
            "status": "failed",
            "reason": one["status"].partition(": ")[2],
            "items": one["total"],
            "examples": [],
            "missing": {one["technique"]: [one["sanity"]]},
        }
        for one in failed.to_dict("records")
    ]


def _stored(
    work: _Work, loaded: Callable[[], nn.Module], requests: Sequence[HeatmapRequest], store: Store
) -> list[dict[str, Any]]:
    """Return the curve of each request, from the store if it was made before."""
    fields = [work.fields(request) for request in requests]
    keys = [cell_key(one) for one in fields]
    missing = [place for place, key in enumerate(keys) if not store.has(key)]
    if missing:
        from cnnaudit.randomising import curves

        asked = [requests[place] for place in missing]
        size = work.audit.batch_size
        made = curves(loaded(), work.spec, work.items, work.sanity, asked, size)
        for place, about in zip(missing, made, strict=True):
            content = json.dumps(about).encode()
            failed = about["status"] == "failed"
            store.write(keys[place], {_FILE: content}, fields[place], again=failed)
    return [json.loads(store.read(key, _FILE)) for key in keys]


def _lines(
    work: _Work, request: HeatmapRequest, about: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    common = {
        "sanity": work.sanity.name,
        "image_set": work.image_set.spec.name,
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
