"""The chosen items under every technique, once more: pictures, masks, 8-bit maps, predictions.

They go to the store, so that a report needs neither torch nor the model.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnnaudit import figures
from cnnaudit.heatmaps import Result, compute_heatmaps
from cnnaudit.image_sets.batches import batches
from cnnaudit.image_sets.perturbed import read_mask_of, read_picture
from cnnaudit.measure import truths_of
from cnnaudit.metrics import behaviour, is_dead
from cnnaudit.metrics.truths import truth_array
from cnnaudit.models.preprocessing import frame, prepare_image, prepare_mask, received
from cnnaudit.plan import answer_fields, item_fields, run_fields, signal_fields
from cnnaudit.store import Store, cell_key, digest_bytes
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import (
    AuditSpec,
    Batch,
    Channels,
    HeatmapRequest,
    ImageSet,
    Item,
    ModelSpec,
    NoHeatmaps,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_SIDE = 640  # pixels of a stored picture
CHANNELS_SHOWN = 16  # of a layer


@dataclass(frozen=True)
class Illustrated:
    """The store's keys of one item's pictures under one model."""

    item: Item
    why: tuple[str, ...]
    picture: str
    heatmaps: tuple[tuple[HeatmapRequest, str | None, str, str], ...]  # key or none, status, reason


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


def illustrate(
    audit: AuditSpec,
    load: Callable[[], nn.Module],
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
    keys = {item.id: _Keys(shared, item_fields(image_set, item)) for item in items}
    missing = [item for item in items if not keys[item.id].complete(store)]
    preprocessing = spec.preprocessing
    for batch in batches(
        missing,
        partial(prepare_image, preprocessing=preprocessing),
        partial(prepare_mask, preprocessing=preprocessing),
        audit.batch_size,
        workers=0,
    ):
        if batch.items:
            _store_batch(load(), spec, batch, requests, keys, store)
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


def _store_batch(
    model: nn.Module,
    spec: ModelSpec,
    batch: Batch,
    requests: Sequence[HeatmapRequest],
    keys: Mapping[str, _Keys],
    store: Store,
) -> None:
    images = batch.images.to(next(model.parameters()).device)
    truths = partial(truths_of, spec, batch)
    outputs, computed = compute_heatmaps(model, spec.score_from, images, requests, truths)
    for index, item in enumerate(batch.items):
        at = keys[item.id]
        files = _picture_files(spec, item, batch, index, outputs[index])
        store.write(at.picture, files, at.picture_fields)
        for place, (key, fields) in enumerate(zip(at.heatmaps, at.heatmap_fields, strict=True)):
            display = requests[place].technique.display
            files, failed = result_files(computed[place], index, display)
            store.write(key, files, fields, again=failed)


def _picture_files(
    spec: ModelSpec, item: Item, batch: Batch, index: int, output: Tensor
) -> dict[str, bytes]:
    view = frame(read_picture(item), spec.preprocessing)
    view.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    files = {
        "view.webp": encoded(view, "WEBP", quality=90),
        "input.png": encoded(
            Image.fromarray(received(batch.images[index], spec.preprocessing)), "PNG"
        ),
    }
    regions = []
    for number, name in enumerate(item.regions):
        file = f"region-{number}.png"  # a region's name may be no file name
        mask = frame(read_mask_of(item, name), spec.preprocessing)
        mask = mask.resize(view.size, Image.Resampling.NEAREST)
        files[file] = encoded(mask, "PNG")
        regions.append({"name": name, "file": file})
        if item.id in batch.masks.get(name, {}):  # as heatmaps are measured on it
            received_mask = batch.masks[name][item.id].cpu().numpy()
            files[f"received-{file}"] = encoded(Image.fromarray(received_mask), "PNG")
            regions[-1]["received"] = f"received-{file}"
    about = {"regions": regions, "prediction": _prediction(spec, output, batch.truths.get(item.id))}
    files["picture.json"] = json.dumps(about).encode()
    return files


def _prediction(spec: ModelSpec, output: Tensor, truth: Any) -> dict[str, Any]:
    """Return what the network answered and what is true, folded into the output's axes."""
    shape = [len(axis.labels) for axis in spec.outputs] or [output.numel()]
    if truth_array(spec, truth, output.numel()) is None:
        truth = None  # a label, say, where the network's task is a regression
    numbers = output.double().cpu().numpy()
    return {
        "task": spec.task,
        "axes": [{"name": axis.name, "labels": list(axis.labels)} for axis in spec.outputs],
        "labels": list(spec.labels),
        "values": _rounded(behaviour.answer(spec.task, numbers, spec.gives), shape),
        "truth": _rounded(truth.numpy(), shape) if isinstance(truth, Tensor) else truth,
    }


def _rounded(values: NDArray[np.float64], shape: Sequence[int]) -> Any:
    return np.round(values.reshape(shape), 4).tolist()


def result_files(result: Result, index: int, display: str) -> tuple[dict[str, bytes], bool]:
    """Return the files of what was computed of one image, and whether it failed."""
    if isinstance(result, NoHeatmaps):
        return _about(result.status, result.reason), result.status == "failed"
    if isinstance(result, Channels):
        return _channel_files(result.maps[index]), False
    if index in result.ineligible:
        return _about("ineligible", result.ineligible[index]), False
    heatmap = result.maps[index]
    if not torch.isfinite(heatmap).all():
        return _about("failed", "the heatmap is not finite"), True
    return _heatmap_files(heatmap, display), False


def _heatmap_files(heatmap: Tensor, display: str) -> dict[str, bytes]:
    """Return a heatmap in 8 bits, and which share of its maximum is shown as the brightest."""
    values = heatmap.double().cpu().numpy()
    code = figures.coded(values)
    maximum = max(float(values.max()), 0.0)
    brightest = float(np.percentile(values, 99)) / maximum if display == "p99" and maximum else 1.0
    about = _about(
        "ok",
        "",
        maximum=maximum,
        brightest=brightest if brightest > 0 else 1.0,
        dead=bool(is_dead(heatmap[None])[0]),
    )
    return {"heatmap.png": encoded(Image.fromarray(code), "PNG"), **about}


def _channel_files(maps: Tensor) -> dict[str, bytes]:
    """Return the first channel images (K, h, w) one below the other, each scaled to 8 bits."""
    count, height, _ = maps.shape
    shown = maps[:CHANNELS_SHOWN].double().cpu().numpy()
    if not np.isfinite(shown).all():
        return _about("failed", "the channels are not finite")
    strip = np.concatenate([eight_bit(channel) for channel in shown])
    about = _about("ok", "", channels=count, shown=len(shown), height=height)
    return {"channels.png": encoded(Image.fromarray(strip), "PNG"), **about}


def eight_bit(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale values to 0–255, their lowest to 0; all 0 where they are equal."""
    low, high = values.min(), values.max()
    scaled: NDArray[np.uint8] = np.round((values - low) * (255 / (high - low or 1))).astype(
        np.uint8
    )
    return scaled


def _about(status: str, reason: str, **more: Any) -> dict[str, bytes]:
    return {"heatmap.json": json.dumps({"status": status, "reason": reason, **more}).encode()}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as the content of a file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()
