"""Whether heatmaps depend on what a network learnt: its layers become random from the top down.

After each group of layers, the rank correlation of each image's heatmap with what it was before.
Every image keeps the target that it had. Source: Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018 (cascading randomisation).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cnnaudit import hooks
from cnnaudit.agreement import listed
from cnnaudit.executors import loaded
from cnnaudit.heatmaps import compute_heatmaps, weights_of
from cnnaudit.image_sets.batches import batches
from cnnaudit.measure import truths_of
from cnnaudit.models import ModelFacts
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.models.untrained import own_parameters, reinitialise
from cnnaudit.passes import forward
from cnnaudit.plan import item_fields, request_fields, requests_of, run_fields
from cnnaudit.statistics import Array, estimate, unit_ranks
from cnnaudit.store import Store, cell_key, digest_bytes
from cnnaudit.types import (
    AuditError,
    AuditSpec,
    Batch,
    HeatmapRequest,
    Heatmaps,
    ImageSet,
    Item,
    ModelSpec,
    NoHeatmaps,
    SanitySpec,
    Status,
    TargetSpec,
)

if TYPE_CHECKING:
    from cnnaudit.heatmaps import Result

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same key would give other numbers
COLUMNS = [
    *("sanity", "image_set", "model", "target", "technique", "step", "layers", "share"),
    *("correlation", "low", "high", "units", "scored", "total", "bound", "status"),
]
_FILE = "randomisation.json"
_AT_ONCE = 16  # images

Layers = list[tuple[str, nn.Module]]
Weights = list[Array | None]  # of each image, (N,); None: there is nothing to explain
Ranks = dict[str, Array | None]  # of each item; None: its heatmap does not vary


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
        pictures = [item_fields(self.image_set, item) for item in self.items]
        return {
            **run_fields(self.audit, self.spec),
            **request_fields(request),
            "kind": "randomisation",
            "of_randomisation": [VERSION, self.sanity.steps, self.sanity.seed],
            "items": [{**fields, "regions": None} for fields in pictures],
        }


def randomisation_table(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    device: torch.device,
    store: Store,
) -> pd.DataFrame:
    """Return the mean correlation over units after each step, with its t interval (95 %).

    Image sets count as they are, not under perturbations. A model is loaded if the store lacks any
    of its curves.
    """
    lines: list[dict[str, Any]] = []
    as_they_are = [one for one in image_sets if not any(item.perturbed for item in one.items)]
    for spec in audit.models if audit.sanities else ():
        requests = requests_of(audit, spec, facts[spec.name])
        with ExitStack() as held:
            load = cache(partial(held.enter_context, loaded(spec, audit, device)))
            for sanity in audit.sanities:
                mine = [one for one in requests if one.technique.name in sanity.techniques]
                for image_set in as_they_are:
                    work = _Work(audit, spec, image_set, sanity)
                    for request, about in zip(mine, _stored(work, load, mine, store), strict=True):
                        lines += _lines(work, request, about)
    return pd.DataFrame(lines, columns=COLUMNS)


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
            **{name: one[name] for name in ("model", "image_set", "technique")},
            "metric": one["sanity"],
            "status": "failed",
            "reason": one["status"].partition(": ")[2],
            "items": one["total"],
            "examples": [],
        }
        for one in failed.to_dict("records")
    ]


# --- re-initialising ------------------------------------------------------------------------------


def layers_from_the_top(model: nn.Module, images: torch.Tensor, score_from: str | None) -> Layers:
    """Return the modules with parameters of their own, those that a forward pass ends with first.

    Those that it does not call by themselves come last.
    """
    with hooks.execution_order(model) as calls:
        forward(model, images, score_from)
    called = [(path, module) for path, module, _ in reversed(calls)]
    others = reversed([*model.named_modules()])
    paths: dict[nn.Module, str] = {}
    for path, module in (*called, *others):
        paths.setdefault(module, path)
    return [(path, module) for module, path in paths.items() if own_parameters(module)]


def _count(layers: Layers) -> int:
    return sum(parameter.numel() for _, module in layers for parameter in own_parameters(module))


def _cascade(
    model: nn.Module, image: torch.Tensor, spec: ModelSpec, sanity: SanitySpec
) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield a copy of a model with ever more layers random, which they are, and their share."""
    twin = deepcopy(model)
    layers = layers_from_the_top(twin, image, spec.score_from)
    generator = torch.Generator().manual_seed(sanity.seed)
    for ends in np.array_split(np.arange(len(layers)), min(sanity.steps, len(layers))):
        twin.cpu()
        for _, module in layers[ends[0] : ends[-1] + 1]:
            reinitialise(module, generator)
        done = layers[: ends[-1] + 1]
        names = dict.fromkeys(path or "the model itself" for path, _ in (done[0], done[-1]))
        yield twin.to(image.device), " … ".join(names), _count(done) / _count(layers)


# --- what it does to heatmaps ---------------------------------------------------------------------


def _stored(
    work: _Work, load: Callable[[], nn.Module], requests: Sequence[HeatmapRequest], store: Store
) -> list[dict[str, Any]]:
    """Return the curve of each request, from the store if it was made before."""
    fields = [work.fields(request) for request in requests]
    keys = [cell_key(one) for one in fields]
    missing = [place for place, key in enumerate(keys) if not store.has(key)]
    if missing:
        made = _made(work, load(), [requests[place] for place in missing])
        for place, about in zip(missing, made, strict=True):
            content = json.dumps(about).encode()
            failed = about["status"] == "failed"
            store.write(keys[place], {_FILE: content}, fields[place], again=failed)
    return [json.loads(store.read(key, _FILE)) for key in keys]


def _made(
    work: _Work, model: nn.Module, requests: Sequence[HeatmapRequest]
) -> list[dict[str, Any]]:
    """Return the curve of each request, or why there is none: it concerns its own cell only."""
    try:
        return _curves(work, model, requests)
    except AuditError:
        raise
    except Exception as error:  # memory, or a module that cannot be copied or re-initialised
        log.exception("%s could not be re-initialised", work.spec.name)
        return [_lacking("failed", f"{type(error).__name__}: {error}") for _ in requests]


def _curves(
    work: _Work, model: nn.Module, requests: Sequence[HeatmapRequest]
) -> list[dict[str, Any]]:
    """Return for each request each step's layers, share, and correlation of each item."""
    explained = [_Explained(work.spec, model, batch, requests) for batch in _batches(work)]
    if not explained:
        return [_lacking("failed", "no image could be read") for _ in requests]
    before = [one.results(model, requests) for one in explained]
    curves = [_about(result) for result in before[0]]
    ranks = [
        [one.ranks(result) for result in results]
        for one, results in zip(explained, before, strict=True)
    ]
    for twin, layers, share in _cascade(model, explained[0].images[:1], work.spec, work.sanity):
        found: list[dict[str, float | None]] = [{} for _ in requests]
        for one, old in zip(explained, ranks, strict=True):
            for place, result in enumerate(one.results(twin, requests)):
                found[place] |= _correlations(old[place], one.ranks(result))
        for curve, correlations in zip(curves, found, strict=True):
            if curve["status"] == "ok":
                step = {"layers": layers, "share": share, "correlations": correlations}
                curve["steps"].append(step)
    return curves


def _batches(work: _Work) -> Iterator[Batch]:
    geometry = work.spec.preprocessing
    prepare = (
        partial(prepare_image, preprocessing=geometry),
        partial(prepare_mask, preprocessing=geometry),
    )
    size = min(work.audit.batch_size, _AT_ONCE)
    for batch in batches(work.items, *prepare, size, workers=0):
        if batch.items:
            yield batch


class _Explained:
    """A batch with what is explained of each image: what the network itself made its target."""

    def __init__(
        self, spec: ModelSpec, model: nn.Module, batch: Batch, requests: Iterable[HeatmapRequest]
    ) -> None:
        self.ids, self.score_from = batch.ids, spec.score_from
        self.images = batch.images.to(next(model.parameters()).device)
        _, scores = forward(model, self.images, spec.score_from)
        truths = partial(truths_of, spec, batch)
        targets = {request.target.name: request.target for request in requests}
        self.weights: dict[str, Weights] = {
            name: [row if row.any() else None for row in weights.double().cpu().numpy()]
            for name, target in targets.items()
            for weights in [weights_of(target, truths, scores)]
        }

    def results(self, model: nn.Module, requests: Sequence[HeatmapRequest]) -> list[Result]:
        """Return each request's heatmaps under a model, for the targets as they were."""
        found: dict[int, Result] = {}
        for name, weights in self.weights.items():
            target = TargetSpec(name, "truth", {})
            mine = {
                place: replace(request, target=target)
                for place, request in enumerate(requests)
                if request.target.name == name
            }
            _, results = compute_heatmaps(
                model, self.score_from, self.images, mine.values(), partial(_same, weights)
            )
            found |= zip(mine, results, strict=True)
        return [found[place] for place in range(len(requests))]

    def ranks(self, result: Result) -> Ranks:
        """Return the ranks of each item's heatmap; none of those that cannot have one."""
        if not isinstance(result, Heatmaps):
            return {}
        maps = result.maps.double().cpu().numpy()
        return {
            item: unit_ranks(maps[index]) if np.isfinite(maps[index]).all() else None
            for index, item in enumerate(self.ids)
            if index not in result.ineligible
        }


def _same(weights: Weights, _outputs: int) -> Weights:
    return weights


def _about(result: Result) -> dict[str, Any]:
    if isinstance(result, NoHeatmaps):
        return _lacking(result.status, result.reason)
    return {"status": "ok", "reason": "", "steps": []}


def _lacking(status: Status, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason, "steps": []}


def _correlations(before: Ranks, after: Ranks) -> dict[str, float | None]:
    """Return each item's rank correlation, None where one of the two heatmaps has no ranks."""
    pairs = {item: (ranks, after.get(item)) for item, ranks in before.items()}
    return {
        item: None if first is None or second is None else float(first @ second)
        for item, (first, second) in pairs.items()
    }


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
