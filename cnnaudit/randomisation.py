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

from cnnaudit.agreement import averaged, listed
from cnnaudit.executors import Errand
from cnnaudit.plan import Asked, check_same, item_fields, request_fields, run_fields
from cnnaudit.specs import AuditSpec, ModelSpec, SanitySpec
from cnnaudit.statistics import say
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
class Curves:
    """The curves that are asked of one model on some pictures of an image set."""

    audit: AuditSpec
    spec: ModelSpec
    image_set: str
    items: Sequence[Item]
    sanity: SanitySpec
    requests: Sequence[HeatmapRequest]
    died: Set[str] = frozenset()  # items that a process died of already: they are not tried again

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

    @property
    def keys(self) -> list[str]:
        """The store's key of each curve."""
        return [cell_key(self.fields(request)) for request in self.requests]

    def errands(self, store: Store) -> Iterator[Errand]:
        """Yield what makes those that the store lacks."""
        fields = [(request, self.fields(request)) for request in self.requests]
        missing = [(request, own) for request, own in fields if not store.has(cell_key(own))]
        if missing:
            title = f"randomised, on {len(self.items)} items of {self.image_set}"
            make, fail = partial(_make, self, missing), partial(_fail, self, missing)
            yield Errand(title, self.spec, make, fail)

    def stored(self, store: Store) -> Iterator[tuple[HeatmapRequest, dict[str, Any]]]:
        """Yield what the store says of each."""
        for request, key in zip(self.requests, self.keys, strict=True):
            yield request, json.loads(store.read(key, _FILE))

    def gaps(self, store: Store) -> Iterator[dict[str, Any]]:
        """Yield of which items a curve lacks a correlation since something failed, and why."""
        for request, about in self.stored(store):
            by_reason: dict[str, list[str]] = {}
            for item, reason in about["failures"].items():
                by_reason.setdefault(reason, []).append(item)
            for reason, items in by_reason.items():
                missing = {request.technique.name: [self.sanity.name]}
                yield failure(self.spec.name, self.image_set, reason, len(items), items, missing)


def to_randomise(
    audit: AuditSpec,
    requests: Mapping[str, Sequence[HeatmapRequest]],
    image_sets: Iterable[ImageSet],
    died: Mapping[Subject, Set[str]] | None = None,
) -> list[Curves]:
    """Return the curves that an audit asks for; `requests` are by model.

    Image sets count as they are, not under perturbations.
    """
    found = []
    as_they_are = [one for one in image_sets if not any(item.perturbed for item in one.items)]
    for spec in audit.models:
        for sanity in audit.sanities:
            mine = [one for one in requests[spec.name] if one.technique.name in sanity.techniques]
            for one in as_they_are:
                name, items = one.spec.name, _chosen(one, sanity.items)
                lost = (died or {}).get((spec.name, name), frozenset())
                found.append(Curves(audit, spec, name, items, sanity, mine, lost))
    return found


def randomisation_table(curves: Iterable[Curves], store: Store) -> pd.DataFrame:
    """Return the mean correlation over units after each step, with its t interval (95 %).

    The store must have the curves.
    """
    made = ((own, *found) for own in curves for found in own.stored(store))
    return pd.DataFrame([line for one in made for line in _lines(*one)], columns=COLUMNS)


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
            f"{say(one['correlation'])} under {titles.get(one['technique'], one['technique'])}"
            + (f" of {one['target']}" if targets and one["target"] else "")
            for one in part.to_dict("records")
        ]
        over = int((part.correlation >= part.bound).sum())
        text = f"With every layer of {model} re-initialised, heatmaps agree with what they were by "
        text += f"{listed(said[:over] or said)} (mean rank correlation on {image_set})"
        if over:
            text += f": they are not about this network, the bound is {part.bound.iloc[0]:g}"
        elif (part.high < part.bound).all():
            text += ": they depend on what it learnt"
        else:
            text += f": images are too few to place all below the bound, {part.bound.iloc[0]:g}"
        if 0 < over < len(said):
            text += f"; the others agree by {listed(said[over:])}"
        about = {"sanity": str(sanity), "image_set": str(image_set), "model": str(model)}
        findings.append({"text": f"{text}.", **about})
    return findings


def _make(work: Curves, asked: Asked, model: nn.Module, store: Store) -> None:
    """Store the curve of each request."""
    from cnnaudit.randomising import curves

    for request, fields in asked:
        check_same(fields, work.fields(request))
    requests, size = [request for request, _ in asked], work.audit.batch_size
    items = [item for item in work.items if item.id not in work.died]
    if not items:
        _fail(work, asked, store, DIED)
        return
    lost = {item.id: DIED for item in work.items if item.id in work.died}
    made = curves(model, work.spec, items, work.sanity, requests, size)
    for (_, fields), curve in zip(asked, made, strict=True):
        _write(store, fields, {**curve, "failures": {**curve["failures"], **lost}})


def _fail(work: Curves, asked: Asked, store: Store, reason: str) -> None:
    failures = {item.id: reason for item in work.items}
    about = {"status": "failed", "reason": reason, "steps": [], "failures": failures}
    for _, fields in asked:
        _write(store, fields, about)


def _write(store: Store, fields: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Store a curve; one in which something failed is to be made again."""
    content = json.dumps(about).encode()
    store.write(cell_key(fields), {_FILE: content}, fields, again=bool(about["failures"]))


def _lines(
    work: Curves, request: HeatmapRequest, about: Mapping[str, Any]
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
        status = "ok" if values else "undefined: no heatmap that varies"
        yield {
            **common,
            "step": step.get("step", number),
            "layers": step["layers"],
            "share": step["share"],
            **averaged(np.array(values, np.float64)),
            "scored": len(values),
            "total": len({*step["correlations"], *about["failures"]}) or len(work.items),
            "status": status
            if about["status"] == "ok"
            else f"{about['status']}: {about['reason']}",
        }
