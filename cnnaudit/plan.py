"""Specs → cells with their keys → the units of work that the store lacks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnnaudit.metrics import OVERLAP, behaviour_of
from cnnaudit.models import BUILDERS, ModelFacts, resolve_layer
from cnnaudit.store import Store, canonical_json, cell_key, digest_bytes, digest_file
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import (
    AuditSpec,
    Cell,
    HeatmapRequest,
    ImageSet,
    Item,
    ModelSpec,
    TargetSpec,
    Unit,
)

CHUNK = 128  # items of a chunk, at most on average


@dataclass(frozen=True)
class Plan:
    cells: tuple[Cell, ...]  # all that the audit consists of
    units: tuple[Unit, ...]  # what is left to compute

    @property
    def missing(self) -> int:
        return sum(len(unit.cells) for unit in self.units)


def make_plan(
    audit: AuditSpec,
    image_sets: Iterable[ImageSet],
    facts: Mapping[str, ModelFacts],
    store: Store,
) -> Plan:
    """Lay out every cell of an audit, and unite those that the store lacks into units.

    `facts` has the name of each model as a key. Raises AuditError for a layer that does not exist.
    """
    image_sets = tuple(image_sets)
    requests = {model.name: requests_of(audit, model, facts[model.name]) for model in audit.models}
    cells: list[Cell] = []
    units: list[Unit] = []
    for model in audit.models:
        for image_set in image_sets:
            for chunk in chunks(image_set.items):
                made = list(_cells(audit, model, image_set, chunk, requests[model.name]))
                missing = tuple(cell for cell in made if not store.has(cell.key))
                cells += made
                if missing:
                    units.append(Unit(model, image_set, chunk, missing))
    return Plan(tuple(cells), tuple(units))


def requests_of(
    audit: AuditSpec, model: ModelSpec, facts: ModelFacts
) -> tuple[HeatmapRequest, ...]:
    """Return every technique on every target of a model, layers resolved to module paths."""
    targets = audit.targets or (TargetSpec(model.target, model.target, {}),)
    requests = []
    for technique in audit.techniques:
        layer = ""
        if TECHNIQUES[technique.uses].needs.layer:
            where = f"technique.{technique.name}"
            layer = resolve_layer(model, facts, technique.parameters["layer"], where)
        requests += [HeatmapRequest(technique, target, layer) for target in targets]
    return tuple(requests)


def chunks(items: tuple[Item, ...]) -> Iterator[tuple[Item, ...]]:
    """Yield an image set in parts, assigned by a hash of the id: a new item changes one part only.

    (Or all of them, when the number of parts doubles.)
    """
    number = 1
    while number * CHUNK < len(items):
        number *= 2
    parts: list[list[Item]] = [[] for _ in range(number)]
    for item in items:
        parts[int(digest_bytes(item.id.encode())[:8], 16) % number].append(item)
    yield from (tuple(part) for part in parts if part)


def request_fields(request: HeatmapRequest) -> dict[str, Any]:
    """Return what determines the heatmaps of a request, beside the model and the pictures."""
    parameters = dict(request.technique.parameters)
    if request.layer:
        parameters["layer"] = request.layer
    return {
        "technique": request.technique.uses,
        "version": TECHNIQUES[request.technique.uses].version,
        "parameters": parameters,
        "target": {"uses": request.target.uses, **request.target.parameters},
    }


def run_fields(audit: AuditSpec, model: ModelSpec) -> dict[str, Any]:
    """Return what determines every signal of a model: the network, its input, the numerics."""
    source = importlib.util.find_spec(BUILDERS[model.builder].partition(":")[0])
    assert source is not None
    assert source.origin is not None
    return {
        "model": {
            "builder": model.builder,
            "source": digest_file(Path(source.origin)),
            "weights": None if model.weights is None else digest_file(model.weights),
            "score_from": model.score_from,
            "preprocessing": asdict(model.preprocessing),
        },
        "dtype": "float32",
        "determinism": audit.determinism,
        "seed": audit.seed,
        "torch": importlib.metadata.version("torch"),
    }


def item_fields(image_set: ImageSet, item: Item) -> dict[str, Any]:
    """Return what an item consists of: its id and the digests of its files."""
    truth = item.truth
    return {
        "id": item.id,
        "image": image_set.digests[item.image],
        "regions": {name: image_set.digests[path] for name, path in item.regions.items()},
        "truth": image_set.digests[truth] if isinstance(truth, Path) else truth,
    }


def image_set_digest(image_set: ImageSet) -> str:
    """Return one digest of all that an image set consists of."""
    return digest_bytes(
        canonical_json([item_fields(image_set, item) for item in image_set.items]).encode()
    )


def _cells(
    audit: AuditSpec,
    model: ModelSpec,
    image_set: ImageSet,
    chunk: tuple[Item, ...],
    requests: Iterable[HeatmapRequest],
) -> Iterator[Cell]:
    common = {
        **run_fields(audit, model),
        "chunk": [item_fields(image_set, item) for item in chunk],
    }
    panel = [
        {
            "name": metric.name,
            "uses": metric.uses,
            "version": OVERLAP[metric.uses].version,
            "region": metric.region,
            "parameters": dict(metric.parameters),
        }
        for metric in audit.metrics
    ]
    behaviour = {
        **common,
        "kind": "behaviour",
        "task": model.task,
        "metrics": {name: metric.version for name, metric in behaviour_of(model.task).items()},
    }
    yield Cell(cell_key(behaviour), behaviour, model, image_set, chunk, None)
    if not panel:
        return
    for request in requests:
        fields = {
            **common,
            "kind": "heatmap_scores",
            "metrics": panel,
            **request_fields(request),
        }
        yield Cell(cell_key(fields), fields, model, image_set, chunk, request)
