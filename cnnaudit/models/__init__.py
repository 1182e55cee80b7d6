"""Models: built from a spec, with weights that fit, and inspected before any work depends on them.

A builder is named in `BUILDERS` and makes an untrained network; torch is imported only when one is
built.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from cnnaudit.metrics.behaviour import CLASSIFICATION
from cnnaudit.models.layers import Layer
from cnnaudit.numerics import seeded
from cnnaudit.own_code import source_digests
from cnnaudit.shipped import from_here
from cnnaudit.specs import CHANNEL_COUNTS, ModelSpec
from cnnaudit.store import digest_file
from cnnaudit.types import ANY_ERROR, AuditError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_ROUNDING = 1e-4  # what a sum of single-precision probabilities may lack to 1


@dataclass(frozen=True)
class Builder:
    """Where networks are made: by a class or function of a module."""

    module: str
    make: str
    library: str = ""  # whose architectures they are: `arch` names one, `weights` published ones
    loads_published: bool = False  # `make` gives a network that has its published weights already
    own_code: bool = False  # `factory` names a user's own code, which makes it


BUILDERS: Mapping[str, Builder] = {
    "perception": Builder("cnnaudit.models.perception", "SimpleCNN"),
    "detector_pooled": Builder("cnnaudit.models.detector", "pooled"),
    "detector_flat": Builder("cnnaudit.models.detector", "flat"),
    "torchvision": Builder("cnnaudit.models.classifiers", "build", library="torchvision"),
    "timm": Builder("cnnaudit.models.timm_models", "build", library="timm", loads_published=True),
    "factory": Builder("cnnaudit.models.factory", "build", own_code=True),
}


@dataclass(frozen=True)
class ModelFacts:
    """What planning needs to know of a model, so that only executing has to build it again."""

    layers: tuple[Layer, ...]  # in execution order
    roles: Mapping[str, str]  # layer role → module path, declared or found by tracing
    parameters: int
    input: tuple[int, int, int]  # (C, H, W)
    outputs: int
    places: int  # at which each class has a score


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Build a model with its weights, on the CPU, in evaluation mode.

    Raises AuditError if the weights cannot be read, do not fit, or have changed since the spec was
    resolved. Untrained networks are seeded.
    """
    from cnnaudit import hooks
    from cnnaudit.models.weights import load_weights
    from cnnaudit.outputs import of_model

    spec = resolve_model(spec)
    builder = BUILDERS[spec.builder]
    module = import_module(builder.module)
    make: Callable[..., nn.Module] = getattr(module, builder.make)
    with seeded(seed):
        model = make(spec) if builder.library or builder.own_code else make()
    if spec.weights is not None and not (spec.pretrained and builder.loads_published):
        load_weights(model, spec, getattr(module, "adapt", None))
    if spec.weights is not None and _digest_of(spec) != spec.weights_digest:
        raise AuditError(
            f"model.{spec.name}.weights: {spec.weights} has changed since the audit was planned; "
            "run it again"
        )
    if spec.output_entry:
        # Here, so that nothing after it has to know.
        hooks.pick_output(model, of_model(spec.output_entry))
    try:
        return model.eval()
    except NotImplementedError as error:  # torch.export's: the mode is that of the export
        raise AuditError(
            f"model.{spec.name}: it is made by torch.export, and cannot be set to evaluation mode; "
            "the torch.nn.Module that it was made from is expected"
        ) from error


def resolve_model(spec: ModelSpec) -> ModelSpec:
    """Return a spec with what its names stand for: labels, and a file of weights with its digest.

    Raises AuditError if there is no such file.
    """
    module = BUILDERS[spec.builder].module
    if spec.labels_from and not spec.labels:
        spec = replace(spec, labels=import_module(module).labels_of(spec, spec.labels_from))
    if spec.pretrained and spec.weights is None:
        spec = import_module(module).resolve(spec)
    if spec.weights is not None and not spec.weights.is_file():
        said = f"there is no file {spec.weights}{from_here(spec.weights)}"
        raise AuditError(f"model.{spec.name}.weights: {said}")
    if spec.weights is not None and not spec.weights_digest:
        spec = replace(spec, weights_digest=_digest_of(spec))
    return spec


def _digest_of(spec: ModelSpec) -> str:
    assert spec.weights is not None
    try:
        return digest_file(spec.weights)
    except OSError as error:
        where = f"model.{spec.name}.weights"
        raise AuditError(f"{where}: {spec.weights} cannot be read ({error.strerror})") from error


def library_version(spec: ModelSpec) -> str:
    """Return the version of the library that a model's architecture is from, if it is from one."""
    library = BUILDERS[spec.builder].library
    return version_of(library) if library else ""


@cache  # every cell asks, and it is read from a file each time
def version_of(library: str) -> str:
    return importlib.metadata.version(library)


def source_digests_of(spec: ModelSpec) -> list[str]:
    """Return the digests of the files that a model's architecture is written in."""
    name = BUILDERS[spec.builder].module
    if spec.factory:
        make = import_module(name).find(spec)
        return [*source_digests(make, spec.factory.partition(":")[0])]
    module = find_spec(name)  # found, not imported: that would load torch
    assert module is not None
    return [digest_file(Path(str(module.origin)))]


def inspect_model(spec: ModelSpec, seed: int) -> ModelFacts:
    """Build a model, run it once on a grey picture, and note its layers in execution order."""
    import torch

    from cnnaudit.models.layers import check_model, check_score_from, trace
    from cnnaudit.outputs import WrongEntry

    model = build_model(spec, seed)
    input_shape = (CHANNEL_COUNTS[spec.preprocessing.channels], *spec.preprocessing.size)
    check_model(model, f"model.{spec.name}")
    check_score_from(model, spec.score_from, f"model.{spec.name}.score_from")
    try:
        traced = trace(model, torch.zeros(1, *input_shape), spec.score_from)
    except WrongEntry as error:
        raise AuditError(f"model.{spec.name}.{error}") from error
    except AuditError:
        raise
    except ANY_ERROR as error:  # somebody's model may raise anything
        raise AuditError(
            f"model.{spec.name}.preprocessing: the model does not accept an input of shape "
            f"{input_shape} ({type(error).__name__}: {error})"
        ) from error
    outputs, scores = traced.outputs, traced.scores
    _check_outputs(spec, scores.shape[1])
    _check_task(spec, outputs.shape[1])
    _check_gives(spec, outputs)
    return ModelFacts(
        layers=traced.layers,
        roles={**traced.roles, **spec.roles},
        parameters=sum(p.numel() for p in model.parameters()),
        input=input_shape,
        outputs=scores.shape[1],
        places=traced.places,
    )


def read_labels(path: Path, where: str) -> tuple[str, ...]:
    """Return the labels of a text file, one in each line, in the order of the outputs."""
    try:
        labels = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{where}: {path} cannot be read as a text file ({error})") from error
    if not labels:
        raise AuditError(f"{where}: {path} holds no label")
    return tuple(label.strip() for label in labels)


def _check_outputs(spec: ModelSpec, n: int) -> None:
    declared = math.prod(len(axis.labels) for axis in spec.outputs)
    if spec.outputs and declared != n:
        axes = " × ".join(f"{axis.name} ({len(axis.labels)})" for axis in spec.outputs)
        raise AuditError(
            f"model.{spec.name}.outputs: {axes} makes {declared} outputs, the model has {n}"
        )
    if spec.labels and len(spec.labels) != n:
        raise AuditError(
            f"model.{spec.name}.labels: {len(spec.labels)} labels, the model has {n} outputs"
        )


def _check_task(spec: ModelSpec, n: int) -> None:
    """Refuse a classification by one score: softmax makes any number of it 1, always right."""
    if spec.task == CLASSIFICATION and n == 1:
        raise AuditError(
            f"model.{spec.name}.task: 'classification', but the model has 1 output, and of one "
            "class the probability is always 1; of a yes/no score the task is "
            "structured_regression, with gives: logits unless it ends in a sigmoid"
        )


def _check_gives(spec: ModelSpec, outputs: Tensor) -> None:
    """Hold what a model's outputs are said to be against those of one picture.

    What is no number says nothing: a network that standardises each picture has 0/0 of a grey one.
    """
    if outputs.isnan().any():
        return
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    adds_up = within and outputs.shape[1] > 1 and abs(float(outputs.sum()) - 1) < _ROUNDING
    if spec.gives == "probabilities" and not within:
        low, high = float(outputs.min()), float(outputs.max())
        raise AuditError(
            f"model.{spec.name}.gives: 'probabilities', but the outputs of a grey picture lie "
            f"between {low:.3g} and {high:.3g}; they look like logits"
        )
    if spec.gives == "logits" and adds_up:
        raise AuditError(
            f"model.{spec.name}.gives: 'logits', but the outputs of a grey picture lie between 0 "
            "and 1 and their sum is 1; say gives: probabilities, and name in score_from the module "
            "whose output goes into the softmax"
        )


def choose_device(device: str) -> torch.device:
    """Return the device that a config names; ``auto`` is CUDA where there is one, else the CPU."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise AuditError(
            f"device: {device!r} is not available here ({str(error).splitlines()[0]}); "
            "allowed are auto, cpu, and cuda or cuda:N where there is a GPU"
        ) from error
    return chosen


def device_of(model: nn.Module) -> torch.device:
    """Return where a model lies; one without parameters and buffers computes on the CPU."""
    import torch

    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
