"""What a run shows: the chosen items under every model, and the filters of its layers.

Which they are, and where they lie in the store; what it lacks is computed (`illustrate`), so that a
report needs neither torch nor the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnaudit.executors import when_needed
from cnnaudit.kernels import SECTION, Kernels, show_kernels
from cnnaudit.models import ModelFacts
from cnnaudit.plan import answer_fields, item_fields, requests_of, run_fields, signal_fields
from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.store import Files, Store, cell_key, digest_bytes
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.totals import Totals
from cnnaudit.types import HeatmapRequest, ImageSet, Item

if TYPE_CHECKING:
    from torch import nn

    from cnnaudit.executors import Loading

Illustrations = Mapping[str, Sequence[Mapping[str, Any]]]  # of items, and of models alone


@dataclass(frozen=True)
class Illustrated:
    """The store's keys of one item's pictures under one model."""

    item: Item
    why: tuple[str, ...]
    picture: str
    heatmaps: tuple[tuple[HeatmapRequest, str | None, str, str], ...]  # key or none, status, reason


def illustrations_of(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    load: Loading,
    totals: Totals,
    store: Store,
) -> Illustrations:
    """Store what the report shows, and return where it lies: exemplars, and the worst items."""
    image_sets, worst = tuple(image_sets), totals.worst
    pictures, kernels = [], []
    for spec in audit.models:
        requests = requests_of(audit, spec, facts[spec.name])
        of_model = [one for one in requests if TECHNIQUES[one.technique.uses].sees_no_image]
        of_items = [one for one in requests if one not in of_model]
        with when_needed(load, spec) as loaded:
            for image_set in image_sets:
                why = exemplars(image_set)
                for item, reasons in worst.get((spec.name, image_set.spec.name), {}).items():
                    why[item] = (*why.get(item, ()), *reasons)
                for item in totals.died.get((spec.name, image_set.spec.name), ()):
                    why.pop(item, None)
                shown = show_items(audit, loaded, spec, image_set, of_items, why, store)
                pictures += [_picture(spec.name, image_set, one) for one in shown]
            shown_kernels = show_kernels(audit, loaded, spec, of_model, store)
            kernels += [_kernels(spec.name, one) for one in shown_kernels]
    return {"pictures": pictures, SECTION: kernels}


def exemplars(image_set: ImageSet) -> dict[str, tuple[str, ...]]:
    """Return the ids of every item of the first few units, in the order of their digests.

    The digest decides, so nobody chose them, and they are the same for all models and techniques.
    Where pictures are perturbed, they are one picture's versions alone.
    """
    ordered = sorted(
        {image_set.unit_of(item) for item in image_set.items},
        key=lambda unit: digest_bytes(unit.encode()),
    )
    chosen = set(ordered[: image_set.spec.exemplars])
    shown = [item for item in image_set.items if image_set.unit_of(item) in chosen]
    if any(item.perturbed for item in shown):
        shown = [item for item in shown if item.origin == shown[0].id]
    return {item.id: ("exemplar",) for item in shown}


def show_items(
    audit: AuditSpec,
    loaded: Callable[[], nn.Module],
    spec: ModelSpec,
    image_set: ImageSet,
    requests: Sequence[HeatmapRequest],
    reasons: Mapping[str, tuple[str, ...]],
    store: Store,
) -> list[Illustrated]:
    """Store the pictures of the items that `reasons` names, with every request's heatmap.

    The model is loaded if the store lacks any of them.
    """
    items = tuple(item for item in image_set.items if item.id in reasons)
    shared = _Shared.of(audit, spec, requests)
    keys = {item.id: _Keys(shared, item_fields(item)) for item in items}
    missing = [item for item in items if not keys[item.id].complete(store)]
    if missing:
        from cnnaudit.illustrate import illustrate

        def keep(item: Item, picture: Files, heatmaps: Sequence[tuple[Files, bool]]) -> None:
            keys[item.id].write(store, picture, heatmaps)

        illustrate(loaded(), spec, missing, requests, audit.batch_size, keep)
    return [
        Illustrated(item, reasons[item.id], keys[item.id].picture, keys[item.id].stored(store))
        for item in items
        if store.has(keys[item.id].picture)  # an unreadable one has no picture to show
    ]


@dataclass(frozen=True)
class _Shared:
    """What determines the pictures and heatmaps of every item alike."""

    requests: tuple[HeatmapRequest, ...]
    picture: Mapping[str, Any]
    heatmaps: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, audit: AuditSpec, spec: ModelSpec, requests: Sequence[HeatmapRequest]) -> _Shared:
        picture = {
            **run_fields(audit, spec),
            "kind": "picture",
            **answer_fields(spec),
            "axes": [[axis.name, *axis.labels] for axis in spec.outputs],
        }
        heatmaps = [
            {
                **signal_fields(audit, spec, request),
                "kind": TECHNIQUES[request.technique.uses].gives,
                "display": request.technique.display,
            }
            for request in requests
        ]
        return cls(tuple(requests), picture, tuple(heatmaps))


class _Keys:
    """The addresses of one item's picture and of its heatmaps."""

    def __init__(self, shared: _Shared, item: Mapping[str, Any]) -> None:
        self.requests = shared.requests
        self.picture_fields = {**shared.picture, "item": item}
        self.picture = cell_key(self.picture_fields)
        self.heatmap_fields = [{**fields, "item": item} for fields in shared.heatmaps]
        self.heatmaps = [cell_key(fields) for fields in self.heatmap_fields]

    def complete(self, store: Store) -> bool:
        return all(store.has(key) for key in (self.picture, *self.heatmaps))

    def stored(self, store: Store) -> tuple[tuple[HeatmapRequest, str | None, str, str], ...]:
        found = []
        for request, key in zip(self.requests, self.heatmaps, strict=True):
            about = json.loads(store.read(key, "heatmap.json"))
            has_map = about["status"] == "ok"
            found.append((request, key if has_map else None, about["status"], about["reason"]))
        return tuple(found)

    def write(self, store: Store, picture: Files, heatmaps: Sequence[tuple[Files, bool]]) -> None:
        store.write(self.picture, picture, self.picture_fields)
        places = zip(self.heatmaps, self.heatmap_fields, heatmaps, strict=True)
        for key, fields, (files, failed) in places:
            store.write(key, files, fields, again=failed)


def _kernels(model: str, shown: Kernels) -> dict[str, Any]:
    request = shown.request
    return {
        "model": model,
        "technique": request.technique.name,
        "layer": request.layer,
        "key": shown.key,
        **shown.about,
    }


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
