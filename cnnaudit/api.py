"""From Python: the runner's own code on tensors that are at hand, and runs read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cnnaudit.metrics import OVERLAP, measure_overlap
from cnnaudit.sections import bind, unknown
from cnnaudit.targets import TARGETS
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import (
    AuditError,
    HeatmapRequest,
    MetricSpec,
    NoHeatmaps,
    TargetSpec,
    TechniqueSpec,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

Named = str | Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class FinishedRun:
    """A run's results, read back."""

    rows: pd.DataFrame  # one number about one image each, or the reason why there is none
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    checks: pd.DataFrame
    verdict: str  # "" where nothing was declared to be checked


def explain(
    model: nn.Module,
    images: Tensor,
    technique: Named,
    *,
    layer: str | None = None,
    target: int | str = "predicted",
    score_from: str | None = None,
) -> Tensor | dict[str, Tensor]:
    """Return heatmaps (B, H, W) of preprocessed images (B, C, H, W), raw values.

    `technique` is a name, or several (a list, or names with their parameters), which share passes
    and come back as a dict. `layer` is a module path for those that need one. `target` is a class
    index, "predicted" or "all_outputs"; `score_from` names the module whose output is explained
    where that is not the model's own. The model is left as it was. Raises AuditError for a name
    that does not exist, and where a technique has no meaning on this model.
    """
    from cnnaudit.execute import compute_heatmaps

    if images.ndim != 4:
        raise AuditError(f"images: shape {tuple(images.shape)}, (B, C, H, W) is expected")
    wanted = _named(technique, TECHNIQUES, "technique")
    requests = [
        _request(name, parameters, layer, _target(target), model)
        for name, parameters in wanted.items()
    ]
    _, computed = compute_heatmaps(model, score_from, images, requests)
    maps = {}
    for name, result in zip(wanted, computed, strict=True):
        if isinstance(result, NoHeatmaps):
            raise AuditError(f"{name}: {result.status.replace('_', ' ')}, {result.reason}")
        maps[name] = result.maps
    return maps[technique] if isinstance(technique, str) else maps


def score(
    maps: Tensor, masks: Tensor | Sequence[Tensor | None], metric: Named = "mass_in_mask"
) -> pd.DataFrame:
    """Hold heatmaps (B, H, W) against masks (B, H, W) bool; None: an image without the region.

    `metric` is a name, a list of names, or names with their parameters. Returns a row per image and
    metric: item, metric, value, chance, lift, flag, status, reason.
    """
    if maps.ndim != 3:
        raise AuditError(f"maps: shape {tuple(maps.shape)}, (B, H, W) is expected")
    own = [mask if mask is None else mask.bool() for mask in masks]
    for index, mask in enumerate(own):
        if mask is not None and mask.shape != maps.shape[1:]:
            raise AuditError(
                f"masks[{index}]: shape {tuple(mask.shape)}, {tuple(maps.shape[1:])} is expected"
            )
    if len(own) != len(maps):
        raise AuditError(f"masks: {len(own)} of them for {len(maps)} maps")
    panel = [
        MetricSpec(name, name, "mask", bind(OVERLAP[name].compute, parameters, f"metric.{name}"))
        for name, parameters in _named(metric, OVERLAP, "metric").items()
    ]
    return pd.DataFrame(
        {"item": item, "metric": name, "value": one.value, "chance": one.chance}
        | {"lift": one.lift, "flag": one.flag, "status": one.status, "reason": one.reason}
        for name, scores in measure_overlap(maps, own, panel).items()
        for item, one in enumerate(scores)
    )


def load_run(run_dir: str | Path) -> FinishedRun:
    """Read a run directory; raise AuditError if it is none."""
    folder = Path(run_dir)
    try:
        summary, contrasts, checks = (
            pd.read_csv(folder / "results" / f"{name}.csv", keep_default_na=False, na_values=[""])
            for name in ("summary", "contrasts", "checks")
        )
        rows = pd.read_parquet(folder / "results" / "rows.parquet")
        verdict = str(json.loads((folder / "summary.json").read_bytes())["verdict"])
    except (OSError, ValueError, KeyError) as error:
        raise AuditError(f"{folder} is no finished run ({error})") from error
    return FinishedRun(rows, summary, contrasts, checks, verdict)


def _named(names: Named, known: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    if isinstance(names, str):
        names = [names]
    wanted = dict(names) if isinstance(names, Mapping) else {name: {} for name in names}
    for name in wanted:
        if name not in known:
            raise AuditError(f"{kind}: {unknown(name, sorted(known), kind)}")
    return wanted


def _target(target: int | str) -> TargetSpec:
    if isinstance(target, int):
        return TargetSpec(str(target), "class", {"index": target})
    if target not in TARGETS or target == "class":
        allowed = [*(name for name in TARGETS if name != "class"), "a class index"]
        raise AuditError(f"target: {unknown(target, allowed, 'target')}")
    return TargetSpec(target, target, {})


def _request(
    name: str,
    parameters: Mapping[str, Any],
    layer: str | None,
    target: TargetSpec,
    model: nn.Module,
) -> HeatmapRequest:
    registered = TECHNIQUES[name]
    given = dict(parameters)
    if registered.needs.layer:
        layer = given.setdefault("layer", layer)
        paths = [path for path, _ in model.named_modules() if path]
        if layer not in paths:
            raise AuditError(f"layer: {unknown(str(layer), paths, 'layer')}")
    bound = bind(registered.compute, given, f"technique.{name}")
    return HeatmapRequest(TechniqueSpec(name, name, bound), target, bound.get("layer", ""))
