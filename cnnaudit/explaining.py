"""``cnnaudit explain``: pictures under some techniques → PNG files, the way a run does it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from cnnaudit import figures
from cnnaudit.asking import Asked
from cnnaudit.executors import loaded
from cnnaudit.figures import encoded
from cnnaudit.heatmaps import compute_heatmaps
from cnnaudit.illustrate import result_files
from cnnaudit.image_sets.files import read_image
from cnnaudit.kernels import kernel_files
from cnnaudit.metrics import behaviour
from cnnaudit.models import choose_device, device_of, inspect_model, resolve_model
from cnnaudit.models.labels import class_index
from cnnaudit.models.preprocessing import frame, prepare_image
from cnnaudit.plan import requests_of
from cnnaudit.specs import AuditSpec, ModelSpec, TargetSpec
from cnnaudit.store import check_writable, write_atomically
from cnnaudit.targets import TARGETS, weigh
from cnnaudit.techniques import TECHNIQUES, Technique
from cnnaudit.types import AuditError, HeatmapRequest

# What `--target` names beside classes: they need no parameters, and no truth of the picture.
_TARGETS = [name for name, target in TARGETS.items() if target.is_plain]
_GRIDS = {"channels": (4, 224), "kernels": (8, 64)}  # how many in a row, and pixels of a side


@dataclass(frozen=True)
class _Explained:
    """What was computed for one request, of a picture or of the model itself."""

    picture: Path | None
    request: HeatmapRequest
    files: Mapping[str, bytes]  # as a run stores them
    target: str = ""  # what of the output is explained

    @property
    def gives(self) -> str:
        return _registered(self.request).gives

    @property
    def about(self) -> dict[str, Any]:
        (name,) = (name for name in self.files if name.endswith(".json"))
        found: dict[str, Any] = json.loads(self.files[name])
        return found


def explain_pictures(audit: AuditSpec, asked: Asked) -> Iterator[str]:
    """Write a PNG per picture and technique, and yield where each lies and what it shows.

    Raises AuditError for what cannot be explained, once everything else is written.
    """
    for picture in asked.pictures:
        read_image(picture)  # before anything is computed
    check_writable(asked.out, "--out")
    device = choose_device(audit.device)
    spec = resolve_model(_only_model(audit))
    facts = inspect_model(spec, audit.seed)
    requests = requests_of(_as_asked(audit, asked, spec, facts.outputs), spec, facts)
    places = _places(asked, spec, requests)
    lacking = []
    with loaded(spec, audit, device) as model:
        for one in _explained(audit, spec, model, asked.pictures, requests):
            about = one.about
            if about["status"] == "ok":
                place = places[one.picture, *_names(one.request)]
                write_atomically(place, encoded(Image.fromarray(_pixels(one, spec)), "PNG"))
                yield f"{place}: {_said(one)}"
            else:
                status = about["status"].replace("_", " ")
                lacking.append(f"{one.request.technique.name}: {status}, {about['reason']}")
    if lacking:
        raise AuditError("; ".join(dict.fromkeys(lacking)))


def _only_model(audit: AuditSpec) -> ModelSpec:
    if len(audit.models) > 1:
        names = ", ".join(model.name for model in audit.models)
        raise AuditError(f"MODEL: this stands for {len(audit.models)} models; name one of {names}")
    return audit.models[0]


def _registered(request: HeatmapRequest) -> Technique:
    return TECHNIQUES[request.technique.uses]


# --- what is asked --------------------------------------------------------------------------------


def _as_asked(audit: AuditSpec, asked: Asked, spec: ModelSpec, outputs: int) -> AuditSpec:
    """Return the audit with the targets and the layer that the arguments name."""
    targets = (*audit.targets, *(_target(name, spec, outputs) for name in asked.targets))
    if not asked.layer:
        return replace(audit, targets=targets)
    layer = int(asked.layer) if asked.layer.isdecimal() else asked.layer
    at_layer = [t.name for t in audit.techniques if TECHNIQUES[t.uses].needs.layer]
    if not at_layer:
        names = ", ".join(technique.name for technique in audit.techniques)
        raise AuditError(f"--layer: {layer!r} is given, but no layer is asked for by {names}")
    techniques = tuple(
        replace(t, parameters={**t.parameters, "layer": layer}) if t.name in at_layer else t
        for t in audit.techniques
    )
    return replace(audit, targets=targets, techniques=techniques)


def _target(name: str, spec: ModelSpec, outputs: int) -> TargetSpec:
    if name in _TARGETS:
        return TargetSpec(name, name, {})
    try:
        class_index(spec, name, outputs, "--target")
    except AuditError as error:
        raise AuditError(f"{error}, or {', '.join(_TARGETS)}") from error
    return TargetSpec(name, "class", {"of": name})


def _places(
    asked: Asked, spec: ModelSpec, requests: Sequence[HeatmapRequest]
) -> dict[tuple[Path | None, str, str], Path]:
    """Return the file of each request of each picture; AuditError where one would be lost."""
    targets = {r.target.name for r in requests if _registered(r).gives == "heatmap"}
    taken = {picture.resolve(): f"the picture {picture}" for picture in asked.pictures}
    places = {}
    for request in requests:
        several = len(targets) > 1 and request.target.name in targets
        names = (spec.name, *(_names(request) if several else _names(request)[:1]))
        ending = ".".join(re.sub(r"[^\w-]+", "_", name) for name in names)
        for picture in _pictures(asked, request):
            place = asked.out / f"{f'{picture.stem}.' if picture else ''}{ending}.png"
            if place.resolve() in taken:
                raise AuditError(
                    f"--out: {place} would overwrite {taken[place.resolve()]}; "
                    "name another folder, or fewer pictures at a time"
                )
            taken[place.resolve()] = f"what is written for {picture or spec.name}"
            places[picture, *_names(request)] = place
    return places


def _names(request: HeatmapRequest) -> tuple[str, str]:
    return request.technique.name, request.target.name


def _pictures(asked: Asked, request: HeatmapRequest) -> Sequence[Path | None]:
    return (None,) if _registered(request).gives == "kernels" else asked.pictures


# --- what is computed -----------------------------------------------------------------------------


def _explained(
    audit: AuditSpec,
    spec: ModelSpec,
    model: nn.Module,
    pictures: Sequence[Path],
    requests: Sequence[HeatmapRequest],
) -> Iterator[_Explained]:
    """Yield every request of the model, then of each picture, which share one forward pass."""
    of_model = [request for request in requests if _registered(request).gives == "kernels"]
    of_pictures = [request for request in requests if request not in of_model]
    for request in of_model:
        yield _Explained(None, request, kernel_files(model, spec, request, audit.seed))
    device = device_of(model)
    for picture in pictures if of_pictures else ():
        image = prepare_image(read_image(picture), spec.preprocessing)[None].to(device)
        outputs, computed = compute_heatmaps(model, spec.score_from, image, of_pictures)
        for request, result in zip(of_pictures, computed, strict=True):
            files, _ = result_files(result, 0, request.technique.display)
            yield _Explained(picture, request, files, _explained_output(spec, request, outputs))


def _explained_output(spec: ModelSpec, request: HeatmapRequest, outputs: Tensor) -> str:
    """Say what of the outputs (1, N) is explained: a class with its probability, or the target."""
    registered, target = _registered(request), request.target
    if registered.sees_no_network or registered.gives != "heatmap":
        return ""
    weights = weigh(target, outputs, outputs.new_zeros(outputs.shape))[0]
    explained = weights.nonzero().flatten().tolist()
    if spec.task != behaviour.CLASSIFICATION or len(explained) != 1:
        return target.name
    (index,) = explained
    answer = behaviour.answer(spec.task, outputs[0].double().cpu().numpy(), spec.gives)
    label = f"{spec.labels[index]} ({index})" if spec.labels else f"class {index}"
    against = "against " if weights[index] < 0 else ""
    return f"{against}{label}, probability {answer[index]:.3g}"


# --- what is shown --------------------------------------------------------------------------------


def _pixels(one: _Explained, spec: ModelSpec) -> figures.Pixels:
    """Lay a heatmap over its picture, at the picture's resolution, or channels side by side."""
    content = one.files[f"{one.gives}.png"]
    if one.picture is None or one.gives != "heatmap":
        tiles = np.split(figures.decode(content), one.about["shown"])
        return figures.montage(tiles, *_GRIDS[one.gives])
    view = np.asarray(frame(read_image(one.picture), spec.preprocessing))
    heatmap = figures.shown(figures.decode_grey(content), one.about["brightest"])
    return figures.overlay(view, heatmap)


def _said(one: _Explained) -> str:
    """Say what a file shows: technique, target and layer, and how much of it."""
    about, at = one.about, f" at {one.request.layer}" if one.request.layer else ""
    said = f"{_registered(one.request).title}{at}{one.target and f' of {one.target}'}"
    if about.get("dead"):
        return f"{said}; zero everywhere"
    for kind in ("channels", "filters"):
        if kind in about:
            return f"{said}; {about['shown']} of {about[kind]} {kind}"
    return said
