"""A network's layers made random from the top down, and what that does to heatmaps."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cnnaudit import hooks
from cnnaudit.heatmaps import compute_heatmaps, weights_of
from cnnaudit.image_sets.batches import batches
from cnnaudit.measure import truths_of
from cnnaudit.metrics import NOT_FINITE
from cnnaudit.models import device_of
from cnnaudit.models.preprocessing import preparing
from cnnaudit.models.untrained import own_parameters, reinitialise
from cnnaudit.numerics import is_out_of_memory
from cnnaudit.passes import forward
from cnnaudit.specs import ModelSpec, SanitySpec, TargetSpec
from cnnaudit.statistics import Array, unit_ranks
from cnnaudit.types import (
    ANY_ERROR,
    AuditError,
    Batch,
    HeatmapRequest,
    Heatmaps,
    Item,
    NoHeatmaps,
    Status,
)

if TYPE_CHECKING:
    from cnnaudit.heatmaps import Result

log = logging.getLogger(__name__)

_AT_ONCE = 16  # images

Layers = list[tuple[str, nn.Module]]
Weights = list[Array | None]  # of each image, (N,); None: there is nothing to explain
Ranks = dict[str, Array | None]  # of each item; None: its heatmap does not vary
Failures = dict[str, str]  # item → why it has no heatmap, as it is or with random layers
Curve = dict[str, Any]  # status, reason, the steps, and failures

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


def curves(
    model: nn.Module,
    spec: ModelSpec,
    items: Sequence[Item],
    sanity: SanitySpec,
    requests: Sequence[HeatmapRequest],
    batch_size: int,
) -> list[Curve]:
    """Return for each request each step's layers, share, and correlation of each item.

    Or why there is none: what goes wrong concerns these requests only. A batch that the memory does
    not take is halved.
    """
    size = min(batch_size, _AT_ONCE)
    while True:
        try:
            given = batches(items, *preparing(spec.preprocessing), size)
            return _curves(model, spec, given, sanity, requests)
        except AuditError:
            raise
        except ANY_ERROR as error:  # memory, or a module that cannot be copied or re-initialised
            if size > 1 and is_out_of_memory(error):
                log.warning("out of memory with a batch of %d; halving it", size)
                size //= 2
                continue
            log.exception("%s could not be re-initialised", spec.name)
            reason = f"{type(error).__name__}: {error}"
            return [_lost({item.id: reason for item in items}) for _ in requests]


def _curves(
    model: nn.Module,
    spec: ModelSpec,
    given: Iterable[Batch],
    sanity: SanitySpec,
    requests: Sequence[HeatmapRequest],
) -> list[Curve]:
    explained: list[_Explained] = []
    unread: Failures = {}
    for batch in given:
        unread |= batch.failures
        if batch.items:
            explained.append(_Explained(spec, model, batch, requests))
    if not explained:
        return [_lost(unread) for _ in requests]
    if not any(map(own_parameters, model.modules())):
        return [_lacking("not_applicable", "the network has no weights") for _ in requests]
    before = [one.results(model, requests) for one in explained]
    failures = [{**unread} for _ in requests]
    ranks = [
        [one.ranks(*pair) for pair in zip(results, failures, strict=True)]
        for one, results in zip(explained, before, strict=True)
    ]
    made = [
        _about([results[place] for results in before], failed)
        for place, failed in enumerate(failures)
    ]
    for twin, layers, share in _cascade(model, explained[0].images[:1], spec, sanity):
        found: list[dict[str, float | None]] = [{} for _ in requests]
        for one, old in zip(explained, ranks, strict=True):
            for place, result in enumerate(one.results(twin, requests)):
                found[place] |= _correlations(old[place], one.ranks(result, failures[place]))
        for curve, correlations in zip(made, found, strict=True):
            if curve["status"] == "ok":
                step = {"layers": layers, "share": share, "correlations": correlations}
                curve["steps"].append(step)
    return made


class _Explained:
    """A batch with what is explained of each image: what the network itself made its target."""

    def __init__(
        self, spec: ModelSpec, model: nn.Module, batch: Batch, requests: Iterable[HeatmapRequest]
    ) -> None:
        self.ids, self.score_from = batch.ids, spec.score_from
        self.images = batch.images.to(device_of(model))
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

    def ranks(self, result: Result, failures: Failures) -> Ranks:
        """Return the ranks of each item's heatmap; none of those that cannot have one.

        Those that should and have none are added to `failures`.
        """
        if not isinstance(result, Heatmaps):
            if isinstance(result, NoHeatmaps) and result.status == "failed":
                failures |= dict.fromkeys(self.ids, result.reason)
            return {}
        maps = result.maps.double().cpu().numpy()
        eligible = [pair for pair in enumerate(self.ids) if pair[0] not in result.ineligible]
        finite = {item: bool(np.isfinite(maps[index]).all()) for index, item in eligible}
        failures |= {item: NOT_FINITE for item in finite if not finite[item]}
        return {item: unit_ranks(maps[index]) for index, item in eligible if finite[item]}


def _same(weights: Weights, _outputs: int) -> Weights:
    return weights


def _about(results: Sequence[Result], failures: Failures) -> Curve:
    """Return a curve without steps, by each batch's heatmaps of the network as it is."""
    lacking = [result for result in results if isinstance(result, NoHeatmaps)]
    if len(lacking) < len(results):
        return {"status": "ok", "reason": "", "steps": [], "failures": failures}
    return _lacking(lacking[0].status, lacking[0].reason) | {"failures": failures}


def _lacking(status: Status, reason: str) -> Curve:
    return {"status": status, "reason": reason, "steps": [], "failures": {}}


def _lost(failures: Failures) -> Curve:
    return _lacking("failed", next(iter(failures.values()))) | {"failures": failures}


def _correlations(before: Ranks, after: Ranks) -> dict[str, float | None]:
    """Return each item's rank correlation, None where one of the two heatmaps has no ranks."""
    pairs = {item: (ranks, after.get(item)) for item, ranks in before.items()}
    return {
        item: None if first is None or second is None else float(first @ second)
        for item, (first, second) in pairs.items()
    }
