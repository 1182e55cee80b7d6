"""Models: built from a spec, with weights that fit, and inspected before any work depends on them.

A builder is named in `BUILDERS` and makes an untrained network; torch is imported only when one is
built.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.types import AuditError, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Builder:
    """Where networks are made: by a class or function of a module."""

    module: str
    make: str
    library: str = ""  # whose architectures they are: `arch` names one, `weights` published ones


BUILDERS: Mapping[str, Builder] = {
    "perception": Builder("cnnaudit.models.perception", "SimpleCNN"),
    "torchvision": Builder("cnnaudit.models.classifiers", "build", library="torchvision"),
}


@dataclass(frozen=True)
class Layer:
    """One call of one module in the forward pass."""

    path: str
    kind: str  # the module's class name
    shape: tuple[int, ...] | None  # of its output for one image; None: not a tensor


@dataclass(frozen=True)
class ModelFacts:
    """What planning needs to know of a model, so that only executing has to build it again."""

    layers: tuple[Layer, ...]  # in execution order
    roles: Mapping[str, str]  # layer role → module path, declared or found by tracing
    parameters: int
    input: tuple[int, int, int]  # (C, H, W)
    outputs: int


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Build a model with its weights, on the CPU, in evaluation mode.

    Raises AuditError if the weights cannot be read or do not fit. Untrained networks are seeded.
    """
    import torch

    from cnnaudit.models.weights import load_weights

    spec = resolve_model(spec)
    builder = BUILDERS[spec.builder]
    module = import_module(builder.module)
    make: Callable[..., nn.Module] = getattr(module, builder.make)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(spec) if builder.library else make()
    if spec.weights is not None:
        load_weights(model, spec, module.adapt if builder.library else None)
    return model.eval()


def resolve_model(spec: ModelSpec) -> ModelSpec:
    """Return a spec whose published weights, where it names some, are a verified file."""
    if not spec.pretrained or spec.weights is not None:
        return spec
    resolved: ModelSpec = import_module(BUILDERS[spec.builder].module).resolve(spec)
    return resolved


def library_version(spec: ModelSpec) -> str:
    """Return the version of the library that a model's architecture is from, if it is from one."""
    library = BUILDERS[spec.builder].library
    return importlib.metadata.version(library) if library else ""


def inspect_model(spec: ModelSpec, seed: int) -> ModelFacts:
    """Build a model, run it once on a grey picture, and note its layers in execution order."""
    import torch

    from cnnaudit import hooks
    from cnnaudit.models.tracing import trace_roles
    from cnnaudit.passes import forward

    model = build_model(spec, seed)
    input_shape = (3, *spec.preprocessing.size)
    _check_score_from(model, spec)
    with hooks.execution_order(model) as calls:
        try:
            _, scores = forward(model, torch.zeros(1, *input_shape), spec.score_from)
        except AuditError:
            raise
        except Exception as error:  # somebody's model may raise anything
            raise AuditError(
                f"model.{spec.name}.preprocessing: the model does not accept an input of shape "
                f"{input_shape} ({type(error).__name__}: {error})"
            ) from error
    _check_outputs(spec, scores.shape[1])
    return ModelFacts(
        layers=tuple(
            Layer(path, type(module).__name__, _shape(out)) for path, module, out in calls
        ),
        roles={**trace_roles(calls), **spec.roles},
        parameters=sum(p.numel() for p in model.parameters()),
        input=input_shape,
        outputs=scores.shape[1],
    )


def resolve_layer(spec: ModelSpec, facts: ModelFacts, layer: str, where: str) -> str:
    """Return the module path that a role or path names; raise AuditError listing what exists.

    The layer must have a spatial output (K, h, w).
    """
    path = facts.roles.get(layer, layer)
    spatial = {known.path for known in facts.layers if known.shape and len(known.shape) == 3}
    if path in spatial:
        return path
    known = {known.path for known in facts.layers}
    problem = "has no spatial output" if path in known else "does not exist"
    roles = ", ".join(f"{role} ({path})" for role, path in facts.roles.items()) or "none"
    ordered = ", ".join(dict.fromkeys(x.path for x in facts.layers if x.path in spatial))
    raise AuditError(
        f"{where}.layer: {layer!r} {problem} in model {spec.name!r}; "
        f"allowed are the roles {roles}, and the modules {ordered}"
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


def _check_score_from(model: nn.Module, spec: ModelSpec) -> None:
    paths = [path for path, _ in model.named_modules() if path]
    if spec.score_from is not None and spec.score_from not in paths:
        raise AuditError(
            f"model.{spec.name}.score_from: {spec.score_from!r} is no module of the model; "
            f"allowed are {', '.join(paths)}"
        )


def _check_outputs(spec: ModelSpec, n: int) -> None:
    declared = 1
    for axis in spec.outputs:
        declared *= len(axis.labels)
    if spec.outputs and declared != n:
        axes = " × ".join(f"{axis.name} ({len(axis.labels)})" for axis in spec.outputs)
        raise AuditError(
            f"model.{spec.name}.outputs: {axes} makes {declared} outputs, the model has {n}"
        )
    if spec.labels and len(spec.labels) != n:
        raise AuditError(
            f"model.{spec.name}.labels: {len(spec.labels)} labels, the model has {n} outputs"
        )


def _shape(output: Any) -> tuple[int, ...] | None:
    return tuple(output.shape[1:]) if hasattr(output, "shape") else None


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
