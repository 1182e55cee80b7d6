"""What a run shows: the chosen items under every model, and the filters of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from cnnaudit.executors import loaded
from cnnaudit.illustrate import Illustrated, exemplars, illustrate
from cnnaudit.kernels import SECTION, Kernels, show_kernels
from cnnaudit.models import ModelFacts
from cnnaudit.plan import requests_of
from cnnaudit.store import Store
from cnnaudit.summary import worst_items
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import DIED, AuditSpec, ImageSet

if TYPE_CHECKING:
    import torch

Illustrations = Mapping[str, Sequence[Mapping[str, Any]]]  # of items, and of models alone


def illustrations_of(
    audit: AuditSpec,
    facts: Mapping[str, ModelFacts],
    image_sets: Iterable[ImageSet],
    device: torch.device,
    rows: pd.DataFrame,
    store: Store,
) -> Illustrations:
    """Store what the report shows, and return where it lies: exemplars, and the worst by `rows`."""
    image_sets, metrics = tuple(image_sets), audit.metrics
    worst = worst_items(rows, metrics[0].name) if metrics else {}
    deadly = _deadly(rows)
    pictures, kernels = [], []
    for spec in audit.models:
        requests = requests_of(audit, spec, facts[spec.name])
        of_model = [one for one in requests if TECHNIQUES[one.technique.uses].sees_no_image]
        of_items = [one for one in requests if one not in of_model]
        with ExitStack() as held:
            load = cache(partial(held.enter_context, loaded(spec, audit, device)))
            for image_set in image_sets:
                why = exemplars(image_set)
                for item, reasons in worst.get((spec.name, image_set.spec.name), {}).items():
                    why[item] = (*why.get(item, ()), *reasons)
                for item in deadly.get((spec.name, image_set.spec.name), ()):
                    why.pop(item, None)
                shown = illustrate(audit, load, spec, image_set, of_items, why, store)
                pictures += [_picture(spec.name, image_set, one) for one in shown]
            shown_kernels = show_kernels(audit, load, spec, of_model, store)
            kernels += [_kernels(spec.name, one) for one in shown_kernels]
    return {"pictures": pictures, SECTION: kernels}


def _deadly(rows: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    """Return, per model and image set, the items that would end this process like another's."""
    died = rows[(rows.status == "failed") & rows.reason.str.startswith(DIED)]
    groups = died.groupby(["model", "image_set"], observed=True)["item"]
    return {(str(model), str(image_set)): set(items) for (model, image_set), items in groups}


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
