"""What a run shows: the chosen items under every model, and the filters of its layers.

Which they are, and where they lie in the store; what it lacks is computed (`illustrate`), so that a
report needs neither torch nor the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cnnaudit.executors import Errand
from cnnaudit.kernels import SECTION, Kernels, ShownKernels
from cnnaudit.plan import (
    answer_fields,
    check_same,
    item_fields,
    run_fields,
    signal_fields,
)
from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.store import Files, Store, cell_key, digest_bytes
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.totals import Totals, failure
from cnnaudit.types import HeatmapRequest, ImageSet, Item

if TYPE_CHECKING:
    from torch import nn

_PICTURE = "picture.json"

Illustrations = Mapping[str, Sequence[Mapping[str, Any]]]  # of items, and of models alone


@dataclass(frozen=True)
class Illustrated:
    """The store's keys of one item's pictures under one model."""

    item: Item
    why: tuple[str, ...]
    picture: str
    heatmaps: tuple[tuple[HeatmapRequest, str | None, str, str], ...]  # key or none, status, reason


def to_show(
    audit: AuditSpec,
    requests: Mapping[str, Sequence[HeatmapRequest]],
    image_sets: Iterable[ImageSet],
    totals: Totals,
) -> tuple[list[ShownItems], list[ShownKernels]]:
    """Return what the report shows: exemplars and the worst items, and the filters of layers."""
    image_sets = tuple(image_sets)
    items, kernels = [], []
    for spec in audit.models:
        own = requests[spec.name]
        of_model = [one for one in own if TECHNIQUES[one.technique.uses].sees_no_image]
        of_items = [one for one in own if one not in of_model]
        kernels.append(ShownKernels(audit, spec, of_model))
        for image_set in image_sets:
            why = exemplars(image_set)
            for item, reasons in totals.worst.get((spec.name, image_set.spec.name), {}).items():
                why[item] = (*why.get(item, ()), *reasons)
            for item in totals.died.get((spec.name, image_set.spec.name), ()):
                why.pop(item, None)
            items.append(ShownItems(audit, spec, image_set, of_items, why))
    return items, kernels


def illustrations_of(
    items: Iterable[ShownItems], kernels: Iterable[ShownKernels], store: Store
) -> Illustrations:
    """Return where what is shown lies in the store, once it is made."""
    pictures = [
        _picture(shown.spec.name, shown.image_set, one)
        for shown in items
        for one in shown.stored(store)
    ]
    filters = [_kernels(shown.spec.name, one) for shown in kernels for one in shown.stored(store)]
    return {"pictures": pictures, SECTION: filters}


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


@dataclass(frozen=True)
class ShownItems:
    """The items of an image set that are shown under a model with every request's heatmap."""

    audit: AuditSpec
    spec: ModelSpec
    image_set: ImageSet
    requests: Sequence[HeatmapRequest]
    reasons: Mapping[str, tuple[str, ...]]  # by the item's id

    @cached_property
    def items(self) -> tuple[Item, ...]:
        return tuple(item for item in self.image_set.items if item.id in self.reasons)

    @cached_property
    def _shared(self) -> _Shared:
        return _Shared.of(self.audit, self.spec, self.requests)

    @cached_property
    def _keys(self) -> Mapping[str, _Keys]:
        return {item.id: _Keys(self._shared, item_fields(item)) for item in self.items}

    def errands(self, store: Store) -> Iterator[Errand]:
        """Yield what makes those items of which the store lacks the picture or a heatmap."""
        missing = [item for item in self.items if not self._keys[item.id].complete(store)]
        if missing:
            title = f"{len(missing)} items of {self.image_set.spec.name}, illustrated"
            make = partial(_illustrate, self.audit, self.spec, self._shared, missing)
            yield Errand(title, self.spec, make, partial(_fail, self._shared, missing))

    def stored(self, store: Store) -> list[Illustrated]:
        """Return where the items lie; one that could not be illustrated has no picture to show."""
        return [
            Illustrated(item, self.reasons[item.id], keys.picture, keys.stored(store))
            for item, keys in ((item, self._keys[item.id]) for item in self.items)
            if store.has(keys.picture)
        ]

    def gaps(self, store: Store) -> Iterator[dict[str, Any]]:
        """Yield why pictures and heatmaps failed, and of which items."""
        failed: dict[str, dict[str, set[str]]] = {}  # reason → item → techniques, "" the picture
        for item in self.items:
            for reason, technique in self._keys[item.id].failures(store):
                failed.setdefault(reason, {}).setdefault(item.id, set()).add(technique)
        for reason, items in failed.items():
            techniques = sorted(set().union(*items.values()))
            missing = {name: ["heatmap" if name else "picture"] for name in techniques}
            where = self.spec.name, self.image_set.spec.name
            yield failure(*where, reason, len(items), [*items], missing)


def _illustrate(
    audit: AuditSpec,
    spec: ModelSpec,
    planned: _Shared,
    items: Sequence[Item],
    model: nn.Module,
    store: Store,
) -> None:
    from cnnaudit.illustrate import illustrate

    planned.check(_Shared.of(audit, spec, planned.requests))
    keys = {item.id: _Keys(planned, item_fields(item)) for item in items}

    def keep(item: str, picture: Files, heatmaps: Sequence[tuple[Files, bool]]) -> None:
        keys[item].write(store, picture, heatmaps)

    def fail(item: str, reason: str) -> None:
        keys[item].fail(store, reason)

    # All of them, also after a death: in other batches the last bits would be others.
    illustrate(model, spec, items, planned.requests, audit.batch_size, keep, fail)


def _fail(planned: _Shared, items: Sequence[Item], store: Store, reason: str) -> None:
    for item in items:
        _Keys(planned, item_fields(item)).fail(store, reason)


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

    def check(self, here: _Shared) -> None:
        """Raise AuditError if in another process the same would be other pictures."""
        planned = (self.picture, *self.heatmaps)
        for own, other in zip(planned, (here.picture, *here.heatmaps), strict=True):
            check_same(own, other)


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

    def write(
        self,
        store: Store,
        picture: Files,
        heatmaps: Sequence[tuple[Files, bool]],
        *,
        again: bool = False,
    ) -> None:
        places = zip(self.heatmaps, self.heatmap_fields, heatmaps, strict=True)
        for key, fields, (files, failed) in places:
            store.write(key, files, fields, again=failed)
        # last, so that no picture is there without its heatmaps
        store.write(self.picture, picture, self.picture_fields, again=again)

    def failures(self, store: Store) -> Iterator[tuple[str, str]]:
        """Yield why a heatmap is not there, and its technique; "" is the picture with all of them.

        What failed is stored to be made again, so that it is not complete.
        """
        if self.complete(store):
            return
        if not store.has(self.picture):
            yield str(json.loads(store.read(self.picture, _PICTURE))["reason"]), ""
            return
        for request, _, status, reason in self.stored(store):
            if status == "failed":
                yield reason, request.technique.name

    def fail(self, store: Store, reason: str) -> None:
        """Store why there are none, to be made again; what is there already stays."""
        about = json.dumps({"status": "failed", "reason": reason}).encode()
        heatmaps = [({"heatmap.json": about}, True)] * len(self.heatmaps)
        self.write(store, {_PICTURE: about}, heatmaps, again=True)


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
