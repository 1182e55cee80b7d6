"""What a report says about each model, image set, technique and metric that an audit names."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from cnnaudit.image_sets import told_apart
from cnnaudit.metrics import CHANNELS, OVERLAP, behaviour_of, metrics_of_heatmaps
from cnnaudit.metrics.registry import (
    BehaviourMetric,
    ChannelMetric,
    FaithfulnessMetric,
    OverlapMetric,
)
from cnnaudit.models import ModelFacts
from cnnaudit.specs import AuditSpec, ModelSpec, TechniqueSpec
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.techniques.registry import Diagnostic
from cnnaudit.types import HeatmapRequest, ImageSet


def make_catalogue(
    audit: AuditSpec,
    image_sets: Sequence[ImageSet],
    facts: Mapping[str, ModelFacts],
    requests: Mapping[str, Sequence[HeatmapRequest]],
) -> dict[str, Any]:
    """Return titles, meanings, sources and sizes, as `manifest.json` keeps them for the report."""
    apart = told_apart(image_sets)
    return {
        "metrics": _metrics(audit),
        "techniques": {t.name: _technique(t, requests) for t in audit.techniques},
        "models": {m.name: _model(m, audit, facts[m.name]) for m in audit.models},
        "image_sets": {s.spec.name: _image_set(s, apart) for s in image_sets},
    }


def _metrics(audit: AuditSpec) -> dict[str, Any]:
    heatmaps = {}
    for metric in audit.metrics:
        registered = metrics_of_heatmaps()[metric.uses]
        kind = "overlap" if metric.uses in OVERLAP else "faithfulness"
        about = _metric(registered, kind, higher_is_better=registered.higher_is_better)
        if metric.name != metric.uses:
            about["title"] = metric.name.replace("_", " ")
        if metric.region not in ("", "mask"):
            about["meaning"] = about["meaning"].replace("the object", f"the {metric.region}")
        heatmaps[metric.name] = about
    behaviour = {
        name: _metric(metric, "behaviour", higher_is_better=metric.higher_is_better)
        for model in audit.models
        for name, metric in behaviour_of(model.task).items()
    }
    used = [TECHNIQUES[technique.uses] for technique in audit.techniques]
    diagnostics = {
        name: _metric(one, "diagnostic", higher_is_better=False)
        for technique in used
        for name, one in technique.diagnostics.items()
    }
    channels = {
        name: _metric(metric, "channels", higher_is_better=None)
        for name, metric in CHANNELS.items()
        if any(technique.gives == "channels" for technique in used)
    }
    return {**heatmaps, **behaviour, **channels, **diagnostics}


def _metric(
    metric: OverlapMetric | FaithfulnessMetric | BehaviourMetric | ChannelMetric | Diagnostic,
    kind: str,
    *,
    higher_is_better: bool | None,
) -> dict[str, Any]:
    return {
        "title": metric.title,
        "kind": kind,
        "range": [limit if isfinite(limit) else None for limit in metric.bounds],
        "higher_is_better": higher_is_better,
        "binary": getattr(metric, "binary", False),  # whether an image scores 0 or 1
        # a diagnostic's is its technique's
        "version": None if isinstance(metric, Diagnostic) else metric.version,
        "meaning": metric.meaning,
    }


def _technique(
    technique: TechniqueSpec, requests: Mapping[str, Sequence[HeatmapRequest]]
) -> dict[str, Any]:
    registered = TECHNIQUES[technique.uses]
    layers = {
        model: request.layer
        for model, own in requests.items()
        for request in own
        if request.technique == technique and request.layer
    }
    title = registered.title
    if technique.name != technique.uses:
        title += f" ({technique.name})"
    return {
        "title": title,
        "citation": registered.citation,
        "version": registered.version,
        "layer": layers,
        "reference": registered.sees_no_network,
        "gives": registered.gives,
        "display": technique.display,
    }


def _model(model: ModelSpec, audit: AuditSpec, facts: ModelFacts) -> dict[str, Any]:
    return {
        "parameters": facts.parameters,
        "input": facts.input,
        "preprocessing": asdict(model.preprocessing),
        "target": ", ".join(target.name for target in audit.targets) or model.target,
        "weights": "none" if model.weights is None else model.weights.name,
    }


def _image_set(image_set: ImageSet, apart: Container[str]) -> dict[str, Any]:
    spec = image_set.spec
    factors = [factor for factor in image_set.conditions if factor in apart]
    return {
        "items": len(image_set.items),
        "unit": spec.unit,
        "units": len({image_set.unit_of(item) for item in image_set.items}),
        "factors": factors,
        "levels": {factor: image_set.levels(factor) for factor in factors},
        "grids": [{"rows": g.rows, "cols": g.cols, "levels": g.levels} for g in spec.grids],
        "words": {factor: dict(words) for factor, words in spec.words.items()},
        "places": {factor: dict(places) for factor, places in spec.places.items()},
    }
