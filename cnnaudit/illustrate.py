"""Pictures, masks, 8-bit maps and predictions of chosen items, computed for the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnnaudit import figures
from cnnaudit.fitting import Fitting
from cnnaudit.heatmaps import Result, compute_heatmaps
from cnnaudit.image_sets.batches import batches, unchanged
from cnnaudit.image_sets.files import told
from cnnaudit.image_sets.perturbed import read_mask_of, read_picture
from cnnaudit.measure import truths_of
from cnnaudit.metrics import NOT_FINITE, behaviour, is_dead
from cnnaudit.metrics.truths import truth_array
from cnnaudit.models import device_of
from cnnaudit.models.preprocessing import frame, preparing, received
from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError, Batch, Channels, HeatmapRequest, Item, NoHeatmaps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cnnaudit.store import Files

LARGEST_SIDE = 640  # pixels of a stored picture
CHANNELS_SHOWN = 16  # of a layer


def illustrate(
    model: nn.Module,
    spec: ModelSpec,
    items: Sequence[Item],
    requests: Sequence[HeatmapRequest],
    batch_size: int,
    keep: Callable[[str, Files, Sequence[tuple[Files, bool]]], None],
    fail: Callable[[str, str], None],
) -> None:
    """Compute the items' pictures and every request's heatmaps, in shared passes.

    `keep` gets the id of each item that can be read and put to the network, with the files of its
    picture, and of each heatmap the files and whether it failed; `fail` the others' ids, and why.
    """
    fitting = Fitting(batch_size)

    def add(batch: Batch) -> None:
        images = batch.images.to(device_of(model))
        truths = partial(truths_of, spec, batch)
        outputs, computed = compute_heatmaps(model, spec.score_from, images, requests, truths)
        answers, results = outputs.cpu(), [*map(_on_host, computed)]
        for index, item in enumerate(batch.items):
            heatmaps = [
                result_files(result, index, request.technique.display)
                for request, result in zip(requests, results, strict=True)
            ]
            try:
                with unchanged(item.image, *item.regions.values()):
                    picture = _picture_files(spec, item, batch, index, answers[index])
            except AuditError as error:
                fail(item.id, told(error, item))
            else:
                keep(item.id, picture, heatmaps)

    for batch in batches(items, *preparing(spec.preprocessing), batch_size):
        for item, reason in batch.failures.items():
            fail(item, reason)
        if batch.items:
            fitting.run(batch, add, fail)


def _on_host(result: Result) -> Result:
    """Copy what was computed to the host at once; image by image each copy would be waited for."""
    return result if isinstance(result, NoHeatmaps) else replace(result, maps=result.maps.cpu())


def _picture_files(spec: ModelSpec, item: Item, batch: Batch, index: int, output: Tensor) -> Files:
    view = frame(read_picture(item), spec.preprocessing)
    view.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    files = {
        "view.webp": figures.encoded(view, "WEBP", quality=90),
        "input.png": figures.encoded(
            Image.fromarray(received(batch.images[index], spec.preprocessing)), "PNG"
        ),
    }
    regions = []
    for number, name in enumerate(item.regions):
        file = f"region-{number}.png"  # a region's name may be no file name
        mask = frame(read_mask_of(item, name), spec.preprocessing)
        mask = mask.resize(view.size, Image.Resampling.NEAREST)
        files[file] = figures.encoded(mask, "PNG")
        regions.append({"name": name, "file": file, "received": f"received-{file}"})
        received_mask = batch.masks[name].pixels[index].numpy()  # as heatmaps are measured on it
        files[f"received-{file}"] = figures.encoded(Image.fromarray(received_mask), "PNG")
    about = {"regions": regions, "prediction": _prediction(spec, output, batch.truths.get(item.id))}
    files["picture.json"] = json.dumps(about).encode()
    return files


def _prediction(spec: ModelSpec, output: Tensor, truth: Any) -> dict[str, Any]:
    """Return what the network answered and what is true, folded into the output's axes."""
    axes = () if spec.task == behaviour.CLASSIFICATION else spec.outputs  # its bars are no map
    shape = [len(axis.labels) for axis in axes] or [output.numel()]
    known = truth_array(spec, truth, output.numel())
    if known is None or spec.task != behaviour.CLASSIFICATION:  # of a class its label is shown
        truth = known
    numbers = output.double().cpu().numpy()
    return {
        "task": spec.task,
        "axes": [{"name": axis.name, "labels": list(axis.labels)} for axis in axes],
        "labels": list(spec.labels),
        "values": _rounded(behaviour.answer(spec.task, numbers, spec.gives), shape),
        "truth": _rounded(truth, shape) if isinstance(truth, np.ndarray) else truth,
    }


def _rounded(values: NDArray[np.float64], shape: Sequence[int]) -> Any:
    return np.round(values.reshape(shape), 4).tolist()


def result_files(result: Result, index: int, display: str) -> tuple[Files, bool]:
    """Return the files of what was computed of one image, and whether it failed."""
    if isinstance(result, NoHeatmaps):
        return _about(result.status, result.reason), result.status == "failed"
    if isinstance(result, Channels):
        return _channel_files(result.maps[index])
    if index in result.ineligible:
        return _about("ineligible", result.ineligible[index]), False
    heatmap = result.maps[index]
    if not torch.isfinite(heatmap).all():
        return _about("failed", NOT_FINITE), True
    return _heatmap_files(heatmap, display), False


def _heatmap_files(heatmap: Tensor, display: str) -> Files:
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
    return {"heatmap.png": figures.encoded(Image.fromarray(code), "PNG"), **about}


def _channel_files(maps: Tensor) -> tuple[Files, bool]:
    """Return the first channel images (K, h, w) one below the other, each scaled to 8 bits."""
    count, height, _ = maps.shape
    shown = maps[:CHANNELS_SHOWN].double().cpu().numpy()
    if not np.isfinite(shown).all():
        return _about("failed", "the channels are not finite"), True
    strip = np.concatenate([figures.eight_bit(channel) for channel in shown])
    about = _about("ok", "", channels=count, shown=len(shown), height=height)
    return {"channels.png": figures.encoded(Image.fromarray(strip), "PNG"), **about}, False


def _about(status: str, reason: str, **more: Any) -> Files:
    return {"heatmap.json": json.dumps({"status": status, "reason": reason, **more}).encode()}
