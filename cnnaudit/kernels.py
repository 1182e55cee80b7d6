"""The filters of a model's layers: their picture, and how far they are from a random start."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cnnaudit.figures import eight_bit, encoded
from cnnaudit.metrics.channels import smoothness
from cnnaudit.models import build_model
from cnnaudit.plan import request_fields, run_fields
from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.store import Store, cell_key
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.types import HeatmapRequest, path_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

SECTION = "kernels"  # of what a run illustrates
KERNELS_SHOWN = 64  # of a layer


@dataclass(frozen=True)
class Kernels:
    """The store's key of one layer's filters, and what is said about them."""

    request: HeatmapRequest
    key: str
    about: dict[str, Any]  # status, reason, and where it is ok the numbers


def show_kernels(
    audit: AuditSpec,
    load: Callable[[], nn.Module],
    spec: ModelSpec,
    requests: Sequence[HeatmapRequest],
    store: Store,
) -> list[Kernels]:
    """Store each requested layer's filters as a picture with their numbers.

    The model is loaded if the store lacks any of them.
    """
    shown = []
    for request in requests:
        fields = {**run_fields(audit, spec), **request_fields(spec, request), "kind": "kernels"}
        key = cell_key(fields)
        if not store.has(key):
            store.write(key, kernel_files(load(), spec, request, audit.seed), fields)
        shown.append(Kernels(request, key, json.loads(store.read(key, "kernels.json"))))
    return shown


def kernel_files(
    model: nn.Module, spec: ModelSpec, request: HeatmapRequest, seed: int
) -> dict[str, bytes]:
    """Return the files of a layer's filters: one picture below the other, and numbers."""
    try:
        filters = _filters(model, request)
    except NotApplicable as reason:
        return _about("not_applicable", str(reason))
    start = build_model(replace(spec, weights=None, pretrained=""), seed + 1)
    count, inputs, height, width = filters.shape
    shown = filters[:KERNELS_SHOWN].double().cpu().numpy()
    # Three input channels are a colour picture's; of more, the one that weighs most is shown.
    pictures = [_coloured(one) if inputs == 3 else _strongest(one) for one in shown]
    return {
        "kernels.png": encoded(Image.fromarray(np.concatenate(pictures)), "PNG"),
        **_about(
            "ok",
            "",
            filters=count,
            inputs=inputs,
            size=[height, width],
            shown=len(shown),
            smoothness=_known(smoothness(filters)),
            untrained=_known(smoothness(_filters(start, request))),
        ),
    }


def _filters(model: nn.Module, request: HeatmapRequest) -> Tensor:
    module = model.get_submodule(path_of(request.layer))
    filters: Tensor = TECHNIQUES[request.technique.uses].compute(module, layer=request.layer)
    return filters


def _coloured(weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    return eight_bit(weights.transpose(1, 2, 0))


def _strongest(weights: NDArray[np.float64]) -> NDArray[np.uint8]:
    return eight_bit(weights[np.argmax((weights**2).sum(axis=(1, 2)))])


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _about(status: str, reason: str, **more: Any) -> dict[str, bytes]:
    return {"kernels.json": json.dumps({"status": status, "reason": reason, **more}).encode()}
