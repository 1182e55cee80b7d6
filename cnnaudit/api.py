"""From Python: the runner's own code on tensors that are at hand, and runs read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from cnnaudit.metrics import OVERLAP, measure_overlap
from cnnaudit.metrics.readout import Readout
from cnnaudit.metrics.registry import FAITHFULNESS
from cnnaudit.models.layers import Traced, check_model, check_score_from, resolve_layer, trace
from cnnaudit.report.run import read_json, read_parquet, run_table
from cnnaudit.sections import bind, parameters_of, unknown
from cnnaudit.specs import MetricSpec, TargetSpec, TechniqueSpec
from cnnaudit.targets import TARGETS, check_one_place
from cnnaudit.techniques import TECHNIQUES, Technique
from cnnaudit.types import AuditError, HeatmapRequest, LayerChoice, NoHeatmaps

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from cnnaudit.heatmaps import Truths

Named = str | Sequence[str] | Mapping[str, Mapping[str, Any]]
Explained: TypeAlias = "int | np.integer | str | Tensor | NDArray[Any] | Sequence[float]"


@dataclass(frozen=True)
class FinishedRun:
    """A run's results, read back."""

    rows: pd.DataFrame  # one number about one image each, or the reason why there is none
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    checks: pd.DataFrame
    agreement: pd.DataFrame  # empty where nothing was declared to be compared
    randomisation: pd.DataFrame  # empty where no sanity check was declared
    verdict: str  # "" where nothing was declared to be checked


def explain(
    model: nn.Module,
    images: Tensor | NDArray[np.floating],
    technique: Named = "grad_cam",
    *,
    layer: LayerChoice | None = None,
    target: Explained = "predicted",
    upsample: bool = True,
    score_from: str | None = None,
    output_entry: str = "",
) -> Tensor | dict[str, Tensor]:
    """Return heatmaps (B, H, W) of preprocessed images (B, C, H, W), raw values.

    `technique` is a name, or several (a list, or names with their parameters), which share passes
    and come back as a dict. `layer` is a module path, a role such as "last_features", or an index
    into the execution order. `target` is a class index, "predicted" or "all_outputs", the class of
    each image (B,) as whole numbers, or a weight for each output (N,); a list or an array will do.
    The "predicted" of one yes/no score is that score, also below 0: [-1.0] explains a no.
    Without `upsample` heatmaps stay as coarse as their layer, (B, h, w); "activations" are
    (B, K, h, w) always. `score_from` names the module whose output is explained where that is not
    the model's own, `output_entry` the part of a tuple, dict or dataclass that the model returns,
    such as "logits" or "0". The model is left as it was. Raises AuditError for a name that does not
    exist, and where a technique has no meaning on this model.
    """
    import torch

    from cnnaudit.heatmaps import compute_heatmaps
    from cnnaudit.hooks import buffers_kept, pick_output
    from cnnaudit.outputs import of_model

    check_model(model, "model")
    check_score_from(model, score_from, "score_from")
    images = _images(images)
    wanted = _named(technique, _heatmap_techniques(), "technique")
    spec, truths = _target(target, len(images))
    # Under inference mode, where somebody may call this, nothing has a gradient.
    inferring = torch.is_inference_mode_enabled()
    with (
        torch.inference_mode(False) if inferring else nullcontext(),
        buffers_kept(model),
        pick_output(model, of_model(output_entry)),
        _fitting(model, images),
    ):
        images = images.clone() if images.is_inference() else images
        # Two images where there are two: a model that squeezes its output does not take one.
        traced = cache(partial(trace, model, images[:2], score_from))
        if TARGETS[spec.uses].of_class:
            check_one_place(spec, traced().places, "the model")
        requests = [
            _request(name, parameters, layer, spec, traced) for name, parameters in wanted.items()
        ]
        _, computed = compute_heatmaps(
            model, score_from, images, requests, truths, upsample=upsample
        )
    maps = {}
    for name, result in zip(wanted, computed, strict=True):
        if isinstance(result, NoHeatmaps):
            raise AuditError(f"{name}: {result.status.replace('_', ' ')}, {result.reason}")
        maps[name] = result.maps
    return maps[technique] if isinstance(technique, str) else maps


def techniques() -> pd.DataFrame:
    """Return every technique by name: title, what it gives, what it costs, parameters, source."""
    return pd.DataFrame(
        {
            "name": name,
            "title": one.title,
            "gives": "reference heatmap" if one.sees_no_network else one.gives,
            "passes": "many" if one.needs.queries or one.needs.network else "shared",
            "parameters": ", ".join(
                p.name if p.default is p.empty else f"{p.name}={p.default}"
                for p in parameters_of(one.compute).values()
            ),
            "source": one.citation,
        }
        for name, one in sorted(TECHNIQUES.items())
    ).set_index("name")


def score(
    maps: Tensor | NDArray[np.floating],
    masks: Tensor | NDArray[np.bool_] | Sequence[Tensor | NDArray[np.bool_] | None],
    metric: Named = "mass_in_mask",
    *,
    tolerance: int | None = None,
) -> pd.DataFrame:
    """Hold heatmaps (B, H, W) against masks (B, H, W) bool; None: an image without the region.

    Arrays of NumPy will do for both. `metric` is a name, a list of names, or names with their
    parameters; `tolerance` in pixels is for those that have one. Returns a row per image and
    metric: item, metric, value, chance, lift, flag, status, reason.
    """
    import torch

    if isinstance(maps, Mapping):
        raise AuditError(
            f"maps: a dict of {', '.join(map(str, maps)) or 'nothing'}; score takes the maps of "
            "one technique (B, H, W), maps[technique]"
        )
    if masks is None:
        raise AuditError("masks: None; (B, H, W) is expected, or a list with None for some images")
    maps = torch.as_tensor(maps)
    if maps.ndim != 3:
        raise AuditError(f"maps: shape {tuple(maps.shape)}, (B, H, W) is expected")
    own = [mask if mask is None else torch.as_tensor(mask).to(maps.device).bool() for mask in masks]
    for index, mask in enumerate(own):
        if mask is not None and mask.shape != maps.shape[1:]:
            raise AuditError(
                f"masks[{index}]: shape {tuple(mask.shape)}, {tuple(maps.shape[1:])} is expected"
            )
    if len(own) != len(maps):
        raise AuditError(f"masks: {len(own)} of them for {len(maps)} maps")
    panel = [
        MetricSpec(name, name, "mask", bind(OVERLAP[name].compute, parameters, f"metric.{name}"))
        for name, parameters in _tolerant(_named(metric, OVERLAP, "metric"), tolerance).items()
    ]
    return pd.DataFrame(
        {"item": item, "metric": name, "value": one.value, "chance": one.chance}
        | {"lift": one.lift, "flag": one.flag, "status": one.status, "reason": one.reason}
        for name, scores in measure_overlap(maps, own, panel, Readout())().items()
        for item, one in enumerate(scores)
    )


def load_run(run_dir: str | Path) -> FinishedRun:
    """Read a run directory; raise AuditError if it is none."""
    folder = Path(run_dir)
    if not (folder / "summary.json").is_file():
        raise AuditError(f"{folder} is no finished run: it has no summary.json")
    return FinishedRun(
        rows=read_parquet(folder / "results" / "rows.parquet"),
        summary=run_table(folder, "summary"),
        contrasts=run_table(folder, "contrasts"),
        checks=run_table(folder, "checks"),
        agreement=run_table(folder, "agreement"),
        randomisation=run_table(folder, "randomisation"),
        verdict=str(read_json(folder / "summary.json")["verdict"]),
    )


def _named(names: Named, known: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    if isinstance(names, str):
        names = [names]
    wanted = dict(names) if isinstance(names, Mapping) else {name: {} for name in names}
    for name in wanted:
        if name not in known:
            raise AuditError(f"{kind}: {_said_of(name, sorted(known), kind)}")
    return wanted


def _said_of(name: str, allowed: Sequence[str], kind: str) -> str:
    """Say why a name cannot be used here, although a run or a config may know it."""
    from cnnaudit.config import group_options

    if kind == "metric" and name in FAITHFULNESS:
        return f"{name!r} asks the network, which score does not know; a run measures it"
    if kind == "technique" and name in TECHNIQUES:
        return f"{name!r} shows a network's own filters, whatever its images; a run shows them"
    if name in group_options(kind, None):
        return (
            f"{name!r} is a choice in configs, for one or several of these with their settings; "
            f"name them here: {', '.join(allowed)}"
        )
    return unknown(name, allowed, kind)


def _tolerant(
    wanted: Mapping[str, Mapping[str, Any]], tolerance: int | None
) -> dict[str, Mapping[str, Any]]:
    """Give a tolerance to the metrics that have one; raise AuditError if none has."""
    if tolerance is None:
        return dict(wanted)
    able = [name for name in wanted if "tolerance" in parameters_of(OVERLAP[name].compute)]
    if not able:
        raise AuditError(f"tolerance: none of {', '.join(wanted)} has one")
    return {
        name: {"tolerance": tolerance, **given} if name in able else given
        for name, given in wanted.items()
    }


def _heatmap_techniques() -> dict[str, Technique]:
    """Return what can be computed of images: filters are a network's own, whatever it sees."""
    return {name: one for name, one in TECHNIQUES.items() if not one.sees_no_image}


def _images(images: Tensor | NDArray[np.floating]) -> Tensor:
    """Return preprocessed images as a tensor; raise AuditError for what they cannot be."""
    import torch

    if isinstance(images, np.ndarray):
        images = torch.as_tensor(np.array(images, order="C"))
    if not isinstance(images, torch.Tensor):
        raise AuditError(
            f"images: a {type(images).__name__}; a tensor (B, C, H, W) is expected, preprocessed"
        )
    if images.ndim != 4 or not len(images):
        raise AuditError(
            f"images: shape {tuple(images.shape)}, (B, C, H, W) is expected, with B at least 1"
        )
    if not images.is_floating_point():
        raise AuditError(f"images: {images.dtype}; floating point, as preprocessed, is expected")
    bad = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise AuditError(f"images[{bad[0]}]: it holds NaN or infinity; finite numbers are expected")
    return images


@contextmanager
def _fitting(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn an error of torch's into one about images that do not fit the network, if that is it."""
    try:
        yield
    except RuntimeError as error:
        weights = [p for p in model.parameters() if p.is_floating_point()]
        kinds = {f"{p.dtype} on {p.device}" for p in weights}
        kind = f"{images.dtype} on {images.device}"
        if kinds and kind not in kinds:
            raise AuditError(f"images: {kind}; the network is {', '.join(kinds)}") from error
        if any(p.is_inference() for p in weights):
            raise AuditError(
                "model: it was made under torch.inference_mode, so that nothing has a gradient; "
                "make it under torch.no_grad, or outside"
            ) from error
        raise


def _target(target: Explained, b: int) -> tuple[TargetSpec, Truths | None]:
    """Return a resolved target, and the truths of B images where it is each one's own class."""
    import torch

    plain = [name for name, one in TARGETS.items() if one.is_plain]
    others = ["a class index", f"({b},) whole numbers", "(N,) weights"]
    if isinstance(target, str):
        if target not in plain:
            raise AuditError(f"target: {unknown(target, [*plain, *others], 'target')}")
        return TargetSpec(target, target, {}), None
    try:
        given = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        allowed = ", ".join([*plain, *others])
        raise AuditError(f"target: {target!r} is none of {allowed}") from error
    if given.ndim == 1 and given.is_floating_point():
        return TargetSpec("target", "weights", {"values": given.tolist()}), None
    is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if is_whole and given.ndim == 0:
        return TargetSpec(str(int(given)), "class", {"indices": [int(given)]}), None
    if is_whole and given.shape == (b,):
        classes = given.tolist()
        return TargetSpec("target", "truth", {}), lambda n: [_one_hot(c, n) for c in classes]
    raise AuditError(
        f"target: shape {tuple(given.shape)} of {given.dtype}, {', '.join(others)} is expected"
    )


def _one_hot(index: int, n: int) -> NDArray[np.float64]:
    if not 0 <= index < n:
        raise AuditError(f"target: class {index} is out of range, the model has {n} outputs")
    weights = np.zeros(n)
    weights[index] = 1
    return weights


def _request(
    name: str,
    parameters: Mapping[str, Any],
    layer: LayerChoice | None,
    target: TargetSpec,
    traced: Callable[[], Traced],
) -> HeatmapRequest:
    registered = TECHNIQUES[name]
    given, resolved = dict(parameters), ""
    if registered.needs.layer and layer is not None:
        given.setdefault("layer", layer)
    bound = bind(registered.compute, given, f"technique.{name}")
    if registered.check is not None:
        registered.check(bound, f"technique.{name}")
    if registered.needs.layer:
        found = traced()
        resolved = resolve_layer(found.layers, found.roles, bound["layer"], f"{name}.layer")
    return HeatmapRequest(TechniqueSpec(name, name, bound), target, resolved)
