"""The filters of a model's layers: their picture, and how far they are from a random start."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cnnaudit.executors import Errand
from cnnaudit.figures import eight_bit, encoded
from cnnaudit.metrics.channels import smoothness
from cnnaudit.models import build_model
from cnnaudit.plan import Asked, check_same, request_fields, run_fields
from cnnaudit.specs import AuditSpec, ModelSpec
from cnnaudit.store import Store, cell_key
from cnnaudit.techniques import TECHNIQUES, NotApplicable
from cnnaudit.totals import failure
from cnnaudit.types import ANY_ERROR, HeatmapRequest, path_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

SECTION = "kernels"  # of what a run illustrates
KERNELS_SHOWN = 64  # of a layer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """The store's key of one layer's filters, and what is said about them."""

    request: HeatmapRequest
    key: str
    about: dict[str, Any]  # status, reason, and where it is ok the numbers


@dataclass(frozen=True)
class ShownKernels:
    """The layers of a model whose filters are shown: a picture with their numbers."""

    audit: AuditSpec
    spec: ModelSpec
    requests: Sequence[HeatmapRequest]

    def fields(self, request: HeatmapRequest) -> dict[str, Any]:
        """Return what determines a layer's filters."""
        spec = self.spec
        return {**run_fields(self.audit, spec), **request_fields(spec, request), "kind": "kernels"}

    def errands(self, store: Store) -> Iterator[Errand]:
        """Yield what makes those that the store lacks."""
        fields = [(request, self.fields(request)) for request in self.requests]
        missing = [(request, own) for request, own in fields if not store.has(cell_key(own))]
        if missing:
            title = f"the filters of {', '.join(request.layer for request, _ in missing)}"
            yield Errand(title, self.spec, partial(_make, self, missing), partial(_fail, missing))

    def gaps(self, store: Store) -> Iterator[dict[str, Any]]:
        """Yield which of them could not be made."""
        for one in self.stored(store):
            if one.about["status"] == "failed":
                missing = {one.request.technique.name: ["filters"]}
                yield failure(self.spec.name, "", one.about["reason"], 0, [], missing)

    def stored(self, store: Store) -> list[Kernels]:
        """Return where they lie, and what is said about them."""
        keys = [cell_key(self.fields(request)) for request in self.requests]
        return [
            Kernels(request, key, json.loads(store.read(key, "kernels.json")))
            for request, key in zip(self.requests, keys, strict=True)
        ]


def _make(shown: ShownKernels, asked: Asked, model: nn.Module, store: Store) -> None:
    for request, fields in asked:
        check_same(fields, shown.fields(request))
        files = kernel_files(model, shown.spec, request, shown.audit.seed)
        _write(store, fields, files)


def _fail(asked: Asked, store: Store, reason: str) -> None:
    for _, fields in asked:
        _write(store, fields, _about("failed", reason))


def _write(store: Store, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    failed = json.loads(files["kernels.json"])["status"] == "failed"
    store.write(cell_key(fields), files, fields, again=failed)


def kernel_files(
    model: nn.Module, spec: ModelSpec, request: HeatmapRequest, seed: int
) -> dict[str, bytes]:
    """Return the files of a layer's filters: one picture below the other, and numbers.

    Or the reason for which there are none: whatever a technique raises concerns its own alone.
    """
    try:
        return _kernel_files(model, spec, request, seed)
    except NotApplicable as reason:
        return _about("not_applicable", str(reason))
    except ANY_ERROR as error:
        log.exception("%s failed", request.technique.name)
        return _about("failed", f"{type(error).__name__}: {error}")


def _kernel_files(
    model: nn.Module, spec: ModelSpec, request: HeatmapRequest, seed: int
) -> dict[str, bytes]:
    filters = _filters(model, request)
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
