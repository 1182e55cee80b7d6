"""Models: built from a spec, with weights that fit, and inspected before any work depends on them.

A builder is named in `BUILDERS` and makes an untrained network without arguments; torch is imported
only when one is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnaudit.types import AuditError, ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

BUILDERS: Mapping[str, str] = {
    "perception": "cnnaudit.models.perception:SimpleCNN",
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
    parameters: int
    input: tuple[int, int, int]  # (C, H, W)
    outputs: int


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Build a model with its weights, on the CPU, in evaluation mode.

    Raises AuditError if the weights cannot be read or do not fit. Untrained networks are seeded.
    """
    import torch

    module, _, name = BUILDERS[spec.builder].partition(":")
    make: Callable[[], nn.Module] = getattr(import_module(module), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    if spec.weights is not None:
        _load_weights(model, spec)
    return model.eval()


def inspect_model(spec: ModelSpec, seed: int) -> ModelFacts:
    """Build a model, run it once on a grey picture, and note its layers in execution order."""
    import torch

    from cnnaudit import hooks
    from cnnaudit.passes import forward

    model = build_model(spec, seed)
    input_shape = (3, *spec.preprocessing.resize)
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
        parameters=sum(p.numel() for p in model.parameters()),
        input=input_shape,
        outputs=scores.shape[1],
    )


def resolve_layer(spec: ModelSpec, facts: ModelFacts, layer: str, where: str) -> str:
    """Return the module path that a role or path names; raise AuditError listing what exists.

    The layer must have a spatial output (K, h, w).
    """
    path = spec.roles.get(layer, layer)
    spatial = {known.path for known in facts.layers if known.shape and len(known.shape) == 3}
    if path in spatial:
        return path
    known = {known.path for known in facts.layers}
    problem = "has no spatial output" if path in known else "does not exist"
    roles = ", ".join(f"{role} ({path})" for role, path in spec.roles.items()) or "none"
    ordered = ", ".join(dict.fromkeys(x.path for x in facts.layers if x.path in spatial))
    raise AuditError(
        f"{where}.layer: {layer!r} {problem} in model {spec.name!r}; "
        f"allowed are the roles {roles}, and the modules {ordered}"
    )


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


def _shape(output: Any) -> tuple[int, ...] | None:
    return tuple(output.shape[1:]) if hasattr(output, "shape") else None


def _load_weights(model: nn.Module, spec: ModelSpec) -> None:
    assert spec.weights is not None
    state = _read_state(spec.weights, f"model.{spec.name}.weights")
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    problems = [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} is not part of the model" for name in found if name not in expected),
        *(
            f"{name} has the shape {found[name]}, {shape} is expected"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" * (len(problems) > 5))
        raise AuditError(
            f"model.{spec.name}.weights: {spec.weights} does not fit {spec.builder!r}: {shown}"
        )
    model.load_state_dict(state)


def _read_state(path: Path, where: str) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise AuditError(f"{where}: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise AuditError(f"{where}: {path} cannot be read as weights ({error})") from error
    except Exception as error:  # pickle's own errors have no common base
        raise AuditError(
            f"{where}: {path} is not a plain file of tensors, and anything else could run code "
            f"({type(error).__name__}); save the state dict as safetensors"
        ) from error
    if not (isinstance(state, Mapping) and all(hasattr(v, "shape") for v in state.values())):
        raise AuditError(f"{where}: {path} holds no state dict (name → tensor)")
    return dict(state)


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
