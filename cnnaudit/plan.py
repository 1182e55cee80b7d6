"""Specs → cells with their keys → the units of work that the store lacks."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from cnnaudit.image_sets import with_few_levels
from cnnaudit.image_sets.perturbations import VERSION
from cnnaudit.metrics import CHANNELS, behaviour_of, metrics_of_heatmaps, truths
from cnnaudit.metrics.behaviour import STRUCTURED_REGRESSION
from cnnaudit.metrics.registry import BehaviourMetric, FaithfulnessMetric, OverlapMetric
from cnnaudit.models import (
    ModelFacts,
    library_version,
    source_digests_of,
    untrained,
    version_of,
)
from cnnaudit.models.layers import resolve_layer
from cnnaudit.own_code import source_digests
from cnnaudit.specs import AuditSpec, ModelSpec, TargetSpec
from cnnaudit.store import Store, cell_key, digest_bytes, digest_json, digest_list
from cnnaudit.targets import TARGETS, check_one_place, resolve_target
from cnnaudit.techniques import TECHNIQUES, Technique
from cnnaudit.types import (
    PERTURBATION,
    SEVERITY,
    AuditError,
    Cell,
    File,
    HeatmapRequest,
    ImageSet,
    Item,
    Unit,
)

CHUNK = 128  # items of a chunk at most
HEATMAP_SCORES = "heatmap_scores"  # the kind of cell in which heatmaps are measured
NO_TARGET = TargetSpec("", "all_outputs", {})  # of what shows a layer and explains no score

Asked = Sequence[tuple[HeatmapRequest, Mapping[str, Any]]]  # requests, and what determines each


@dataclass(frozen=True)
class Plan:
    cells: tuple[Cell, ...]  # all that the audit consists of
    units: tuple[Unit, ...]  # what is left to compute

    @property
    def keys(self) -> int:
        """How many different cells there are."""
        return len({cell.key for cell in self.cells})

    @property
    def missing(self) -> int:
        """How many of them are left to compute."""
        return sum(len(unit.cells) for unit in self.units)


def make_plan(
    audit: AuditSpec,
    image_sets: Iterable[ImageSet],
    requests: Mapping[str, Sequence[HeatmapRequest]],
    store: Store,
) -> Plan:
    """Lay out every cell of an audit, and unite those that the store lacks into units.

    `requests` are by the name of their model.
    """
    parts = [part for image_set in image_sets for part in _parts(image_set)]
    cells: list[Cell] = []
    units: list[Unit] = []
    planned: set[str] = set()  # what sees no network is the same cell for all models of one input
    for model in audit.models:
        kinds, own = list(_kinds(audit, model, requests[model.name])), []
        for part in parts:
            made = list(_cells(kinds, model, part))
            new = {cell.key: cell for cell in made if cell.key not in planned}
            missing = tuple(cell for key, cell in new.items() if not store.has(key))
            cells += made
            planned |= set(new)
            if missing:
                own.append(Unit(model, part.image_set, part.chunk, missing, part.partners))
        # Size by size, the largest first: what a batch leaves free in memory then fits the next.
        units += sorted(own, key=lambda unit: -_largest_batch(len(unit.chunk), audit.batch_size))
    return Plan(tuple(cells), tuple(units))


def _largest_batch(images: int, most: int) -> int:
    """Return the size of the largest of the batches that take so many images, as even as can be."""
    return ceil(images / ceil(images / most))


def requests_of(
    audit: AuditSpec, model: ModelSpec, facts: ModelFacts
) -> tuple[HeatmapRequest, ...]:
    """Return every technique on every target of a model, layers and targets resolved for it.

    Raises AuditError for a layer or a target that it does not have.
    """
    declared = audit.targets or (TargetSpec(model.target, model.target, {}),)
    targets = [one for spec in declared for one in resolve_target(spec, model, facts.outputs)]
    has_cells = bool(model.outputs) or model.task == STRUCTURED_REGRESSION  # not classes
    requests = []
    for technique in audit.techniques:
        registered, layer = TECHNIQUES[technique.uses], ""
        if registered.needs.layer:
            layer = resolve_layer(
                facts.layers,
                facts.roles,
                technique.parameters["layer"],
                f"technique.{technique.name}.layer",
                f"model {model.name!r}",
            )
        explained = targets if registered.gives == "heatmap" else [NO_TARGET]
        if registered.explains_network and not has_cells:
            for target in explained:
                check_one_place(target, facts.places, f"model.{model.name}")
        requests += [HeatmapRequest(technique, target, layer) for target in explained]
    return tuple(requests)


def chunks_of(image_set: ImageSet) -> Iterator[tuple[Item, ...]]:
    """Yield the chunks of an image set, each of one perturbation and severity or of none.

    So one more perturbation leaves every other chunk as it was.
    """
    alike: dict[tuple[str, ...], list[Item]] = {}
    for item in image_set.items:
        levels = (item.factors[PERTURBATION], item.factors[SEVERITY]) if item.perturbed else ()
        alike.setdefault(levels, []).append(item)
    for items in alike.values():
        yield from chunks(items)


def chunks(items: Iterable[Item]) -> Iterator[tuple[Item, ...]]:
    """Yield an image set in parts, assigned by a hash of the id: a new item changes one part only.

    A part that would be too large is split in two, whatever becomes of the others. The order of
    items is that of their ids, not of a manifest.
    """
    hashed = ((int(digest_bytes(item.id.encode())[:16], 16), item) for item in items)
    yield from _split(sorted(hashed, key=lambda one: one[1].id))


def _split(items: Sequence[tuple[int, Item]], bit: int = 0) -> Iterator[tuple[Item, ...]]:
    if len(items) <= CHUNK:
        yield from [tuple(item for _, item in items)] if items else []
        return
    for half in (0, 1):
        yield from _split([one for one in items if one[0] >> bit & 1 == half], bit + 1)


def swap_partners(image_set: ImageSet) -> dict[str, Item]:
    """Return for each item the one of the next unit at the same factor levels, in digest order.

    An item alone at its levels has no partner.
    """
    conditions = with_few_levels(image_set)  # by a date, say, every item would be alone
    alike: dict[tuple[str | None, ...], list[Item]] = {}
    for item in sorted(image_set.items, key=lambda item: item.id):
        levels = tuple(item.factors.get(name) for name in conditions)
        alike.setdefault(levels, []).append(item)
    partners = {}
    for items in alike.values():
        units = {image_set.unit_of(item): item for item in items}
        order = sorted(units, key=lambda unit: digest_bytes(unit.encode()))
        following = dict(zip(order, [*order[1:], order[0]], strict=True))
        if len(order) > 1:
            for item in items:
                partners[item.id] = units[following[image_set.unit_of(item)]]
    return partners


def request_fields(model: ModelSpec, request: HeatmapRequest) -> dict[str, Any]:
    """Return what determines a request itself, put to a model."""
    target = request.target
    truths = {"truth_of": answer_fields(model)} if TARGETS[target.uses].needs_truth else {}
    parameters = dict(request.technique.parameters)
    if request.layer:
        parameters["layer"] = request.layer
    registered = TECHNIQUES[request.technique.uses]
    library = version_of(registered.library) if registered.library else ""
    return {
        "technique": request.technique.uses,
        **_code_fields(registered),
        "library_of_technique": library,
        "parameters": parameters,
        "target": {"uses": target.uses, "sign": target.sign, **target.parameters, **truths},
    }


def signal_fields(audit: AuditSpec, model: ModelSpec, request: HeatmapRequest) -> dict[str, Any]:
    """Return what determines the heatmaps of a request, beside the pictures."""
    fields = {**run_fields(audit, model), **request_fields(model, request)}
    if TECHNIQUES[request.technique.uses].sees_no_network:
        # It sees no network: models with one input geometry share the cell.
        fields["model"] = {"preprocessing": asdict(model.preprocessing)}
        del fields["target"]
    return fields


def run_fields(audit: AuditSpec, model: ModelSpec) -> dict[str, Any]:
    """Return what determines every signal of a model: the network, its input, the numerics."""
    assert model.weights is None or model.weights_digest, "only of a spec that is resolved"
    return {
        "model": {
            "builder": model.builder,
            "arch": model.arch,
            "made_by": model.factory,
            "arguments": dict(model.arguments),
            "source": source_digests_of(model),
            "library": library_version(model),
            "weights": model.weights_digest or None,
            "pretrained": model.pretrained,
            "outputs": len(model.labels),  # an untrained network has as many as labels
            "score_from": model.score_from,
            "output_entry": model.output_entry,
            "preprocessing": asdict(model.preprocessing),
        },
        "dtype": "float32",
        "determinism": audit.determinism,
        "seed": audit.seed,
        "torch": version_of("torch"),
    }


def answer_fields(model: ModelSpec) -> dict[str, Any]:
    """Return what determines how a model's answer is read."""
    labels = digest_json(model.labels)  # there may be a thousand
    return {"task": model.task, "labels": labels, "gives": model.gives, "truths": truths.VERSION}


def _code_fields(
    registered: Technique | OverlapMetric | FaithfulnessMetric | BehaviourMetric,
) -> dict[str, Any]:
    """Return what tells a registered function from an older one; a user's own by its file."""
    return {"version": registered.version, "source": [*source_digests(registered.compute)]}


def item_fields(item: Item) -> dict[str, Any]:
    """Return what an item consists of: its id and the digests of its files."""
    truth = item.truth
    return {
        "id": item.id,
        "image": item.image.digest,
        "regions": {
            name: region.digest if isinstance(region, File) else asdict(region)
            for name, region in item.regions.items()
        },
        "truth": truth.digest if isinstance(truth, File) else truth,
        **({"perturbed": [VERSION, asdict(item.perturbed)]} if item.perturbed else {}),
    }


def _mask_fields(item: Item) -> dict[str, Any]:
    """Return what determines an item's masks."""
    fields = item_fields(item)
    return {name: fields[name] for name in ("regions", "perturbed") if name in fields}


def image_set_digest(image_set: ImageSet) -> str:
    """Return one digest of all that an image set consists of."""
    return digest_list(map(item_fields, image_set.items))


@dataclass(frozen=True)
class _Part:
    """A chunk of an image set, and what its pictures add to the keys of cells."""

    image_set: ImageSet
    chunk: tuple[Item, ...]
    partners: tuple[Item | None, ...]
    # A digest in the place of all its pictures, which every key would write down again.
    digests: Mapping[str, str]


def _parts(image_set: ImageSet) -> Iterator[_Part]:
    partner_of = swap_partners(image_set)
    for chunk in chunks_of(image_set):
        partners = tuple(partner_of.get(item.id) for item in chunk)
        pictures = _picture_fields(chunk, partners)
        digests = {name: digest_list(about) for name, about in pictures.items()}
        yield _Part(image_set, chunk, partners, digests)


@dataclass(frozen=True)
class _Kind:
    """What the cells of a model on all chunks share, for one request or for behaviour."""

    fields: Mapping[str, Any]
    request: HeatmapRequest | None
    keeps_maps: bool = False


def _kinds(
    audit: AuditSpec, model: ModelSpec, requests: Iterable[HeatmapRequest]
) -> Iterator[_Kind]:
    behaviour = {
        **run_fields(audit, model),
        "kind": "behaviour",
        **answer_fields(model),
        "metrics": {name: _code_fields(m) for name, m in behaviour_of(model.task).items()},
    }
    yield _Kind(behaviour, None)
    registered = metrics_of_heatmaps()
    panel = [
        {
            "name": metric.name,
            "uses": metric.uses,
            **_code_fields(registered[metric.uses]),
            "region": metric.region,
            "parameters": dict(metric.parameters),
        }
        for metric in audit.metrics
    ]
    measured: dict[str, dict[str, Any]] = {
        "heatmap": {"kind": HEATMAP_SCORES, "metrics": panel},
        "channels": {
            "kind": "channel_scores",
            "metrics": {name: metric.version for name, metric in CHANNELS.items()},
        },
    }
    compared = {name for agreement in audit.agreements for name in agreement.techniques}
    for request in requests:
        gives, keeps = TECHNIQUES[request.technique.uses].gives, request.technique.name in compared
        if gives in measured and (panel or keeps or gives != "heatmap"):
            fields = {**signal_fields(audit, model, request), **measured[gives]}
            if audit.untrained_twin and TECHNIQUES[request.technique.uses].explains_network:
                fields["untrained_twin"] = untrained.VERSION
            if keeps:
                fields["maps"] = "kept"
            yield _Kind(fields, request, keeps)


def check_planned(audit: AuditSpec, unit: Unit) -> None:
    """Raise AuditError if a unit's cells would have other keys here: other versions, other code."""
    behaviour, *others = _kinds(audit, unit.model, [c.request for c in unit.cells if c.request])
    of_requests = iter(others)
    for cell in unit.cells:
        check_same(cell.fields, (next(of_requests) if cell.request else behaviour).fields)


def check_same(planned: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise AuditError if what determines a number is not here what it was when it was planned."""
    differing = [name for name in here if here[name] != planned.get(name)]
    if differing:
        raise AuditError(
            f"executor: {', '.join(differing)} would be another one on {platform.node()} than "
            "where the audit was planned; every machine needs the same code and versions"
        )


def _cells(kinds: Iterable[_Kind], model: ModelSpec, part: _Part) -> Iterator[Cell]:
    for kind in kinds:
        names = _about_pictures(kind.fields)
        key = cell_key({**kind.fields, **{name: part.digests[name] for name in names}})
        yield Cell(
            key, kind.fields, model, part.image_set, part.chunk, kind.request, kind.keeps_maps
        )


def stored_fields(unit: Unit) -> dict[str, dict[str, Any]]:
    """Return all that determined the key of each cell, by key, its pictures among it."""
    pictures = _picture_fields(unit.chunk, unit.partners)
    return {
        cell.key: {**cell.fields, **{name: pictures[name] for name in _about_pictures(cell.fields)}}
        for cell in unit.cells
    }


def _about_pictures(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which of the pictures' fields determine a kind of cell."""
    return ("chunk", "partners") if fields["kind"] == HEATMAP_SCORES else ("chunk",)


def _picture_fields(chunk: Iterable[Item], partners: Iterable[Item | None]) -> dict[str, list[Any]]:
    """Return what the items of a chunk consist of, and the masks of each one's partner."""
    return {
        "chunk": [*map(item_fields, chunk)],
        "partners": [partner and _mask_fields(partner) for partner in partners],
    }
