"""From Python: the runner's own code on tensors that are at hand, and runs read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd

from cnnaudit.given import (
    Explained,
    Masks,
    Named,
    Several,
    images_of,
    maps_of,
    masks_of,
    named,
    plain,
    target_of,
)
from cnnaudit.metrics import OVERLAP, measure_overlap
from cnnaudit.metrics.readout import Readout
from cnnaudit.models.layers import Traced, check_model, check_score_from, resolve_layer, trace
from cnnaudit.numerics import is_out_of_memory
from cnnaudit.report.run import latest_run, read_json, read_parquet, run_table
from cnnaudit.sections import bind, parameters_of
from cnnaudit.specs import MetricSpec, TargetSpec, TechniqueSpec
from cnnaudit.targets import TARGETS, check_one_place
from cnnaudit.techniques import TECHNIQUES, Technique
from cnnaudit.types import AuditError, HeatmapRequest, LayerChoice, NoHeatmaps

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

_SCORED = ["item", "metric", "value", "chance", "lift", "flag", "status", "reason"]

# An explanation puts hooks on the model and changes its mode: of two at once, each would see both.
_one_at_a_time = RLock()


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run's results, read back."""

    rows: pd.DataFrame  # one number about one image each, or the reason why there is none
    summary: pd.DataFrame  # the mean of every number by the levels of each factor; "*": over all
    contrasts: pd.DataFrame  # one comparison of two levels at one place each
    checks: pd.DataFrame  # one requirement of one check at one place each, with its verdict
    agreement: pd.DataFrame  # empty where nothing was declared to be compared
    randomisation: pd.DataFrame  # empty where no sanity check was declared
    verdict: str  # "" where nothing was declared to be checked

    def __repr__(self) -> str:
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        tables = {name: table.shape for name, table in found.items() if name != "verdict"}
        sizes = ", ".join(f"{name}: {n} × {columns}" for name, (n, columns) in tables.items())
        return f"FinishedRun(verdict: {self.verdict or 'none'}, {sizes})"


@overload
def explain(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
    model: nn.Module,
    images: Tensor | NDArray[np.floating],
    technique: str = "grad_cam",
    *,
    layer: LayerChoice | None = None,
    target: Explained = "predicted",
    upsample: bool = True,
    score_from: str | None = None,
    output_entry: str = "",
) -> Tensor: ...
@overload
def explain(
    model: nn.Module,
    images: Tensor | NDArray[np.floating],
    technique: Several,
    *,
    layer: LayerChoice | None = None,
    target: Explained = "predicted",
    upsample: bool = True,
    score_from: str | None = None,
    output_entry: str = "",
) -> dict[str, Tensor]: ...
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

    - `technique`: a name; or several (a list, or names with their parameters), which share passes
      and come back as a dict. What there is: `cnnaudit.techniques()`.
    - `layer`: a module path, a role such as "last_features", or an index into the execution order,
      of techniques that have one.
    - `target`: what is explained: "predicted", "all_outputs", a class index, the class of each
      image (B,) as whole numbers, or a weight for each output (N,); a list or an array will do.
      The "predicted" of one yes/no score is that score, also below 0: [-1.0] explains a no.
    - `upsample`: if False, heatmaps stay as coarse as their layer, (B, h, w). "activations" are
      (B, K, h, w) always.
    - `score_from`: the module whose output is explained, where that is not the model's own.
    - `output_entry`: the part of a tuple, dict or dataclass that counts, such as "logits" or "0".

    The model is left as it was. Several threads may explain one model: they are answered in turn.
    Raises AuditError for what cannot be taken, and where a technique has no meaning on this model.
    """
    import torch

    from cnnaudit.heatmaps import compute_heatmaps
    from cnnaudit.hooks import buffers_kept, pick_output
    from cnnaudit.outputs import of_model

    check_model(model, "model")
    check_score_from(model, score_from, "score_from")
    images = images_of(images)
    wanted = named(technique, _heatmap_techniques(), "technique")
    spec, truths = target_of(target, len(images))
    # Under inference mode, where somebody may call this, nothing has a gradient.
    inferring = torch.is_inference_mode_enabled()
    with (
        _one_at_a_time,
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
    """Return every technique by name: title, what it gives, its passes, parameters and source.

    Passes are shared with other techniques, or many of its own.
    """
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
    masks: Masks,
    metric: Named = "mass_in_mask",
    *,
    tolerance: int | None = None,
) -> pd.DataFrame:
    """Return how much of heatmaps (B, H, W) lies on masks (B, H, W), a row per image and metric.

    - `masks`: bool, or 0 outside and one other value inside; in a list None stands for an image
      without the object. Arrays of NumPy will do for both. Several values beside 0 are refused.
    - `metric`: a name, a list of names, or names with their parameters.
    - `tolerance`: in pixels, of metrics that have one.

    The columns are item, metric, value, chance (what a map without information scores), lift
    ((value - chance) / (1 - chance)), flag ("dead": zero everywhere), status and reason (why there
    is no value). Raises AuditError for what cannot be taken.
    """
    maps = maps_of(maps)
    own = masks_of(masks, maps)
    panel = [
        MetricSpec(name, name, "mask", bind(OVERLAP[name].compute, parameters, f"metric.{name}"))
        for name, parameters in _tolerant(named(metric, OVERLAP, "metric"), tolerance).items()
    ]
    found = [
        (item, name, one.value, one.chance, one.lift, one.flag, one.status, one.reason)
        for name, scores in measure_overlap(maps, own, panel, Readout())().items()
        for item, one in enumerate(scores)
    ]
    # Numbers also where there is none of a kind.
    return pd.DataFrame(found, columns=_SCORED).astype(dict.fromkeys(_SCORED[2:5], float))


def load_run(run_dir: str | Path) -> FinishedRun:
    """Read the results of a finished run back; raise AuditError if there are none."""
    folder = Path(run_dir)
    if not (folder / "summary.json").is_file():
        raise AuditError(f"{folder} is no finished run: it has no summary.json{latest_run(folder)}")
    return FinishedRun(
        rows=read_parquet(folder / "results" / "rows.parquet"),
        summary=run_table(folder, "summary"),
        contrasts=run_table(folder, "contrasts"),
        checks=run_table(folder, "checks"),
        agreement=run_table(folder, "agreement"),
        randomisation=run_table(folder, "randomisation"),
        verdict=str(read_json(folder / "summary.json")["verdict"]),
    )


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
        name: {"tolerance": plain(tolerance), **given} if name in able else given
        for name, given in wanted.items()
    }


def _heatmap_techniques() -> dict[str, Technique]:
    """Return what can be computed of images: filters are a network's own, whatever it sees."""
    return {name: one for name, one in TECHNIQUES.items() if not one.sees_no_image}


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
        if is_out_of_memory(error):
            raise
        raise AuditError(
            f"images: the model does not accept an input of shape {tuple(images.shape)} "
            f"({type(error).__name__}: {error})"
        ) from error


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
        given.setdefault("layer", plain(layer))
    bound = bind(registered.compute, given, f"technique.{name}")
    if registered.check is not None:
        registered.check(bound, f"technique.{name}")
    if registered.needs.layer:
        found = traced()
        resolved = resolve_layer(found.layers, found.roles, bound["layer"], f"{name}.layer")
    return HeatmapRequest(TechniqueSpec(name, name, bound), target, resolved)
