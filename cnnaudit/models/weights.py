"""Weights as people have them: safetensors or plain tensors, wrapped and prefixed or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cnnaudit.specs import ModelSpec
from cnnaudit.types import AuditError

# Keys under which training scripts keep the state dict.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_COUNTER = ".num_batches_tracked"
_PREFIXES = ("module.", "model.", "_orig_mod.")  # DataParallel's, Lightning's, torch.compile's


Adapt = Callable[[ModelSpec, Mapping[str, Tensor]], dict[str, Tensor]]


def load_weights(model: nn.Module, spec: ModelSpec, adapt: Adapt | None) -> None:
    """Load the weights of a spec; raise AuditError if they cannot be read or do not fit.

    `adapt` brings a file's names up to date.
    """
    assert spec.weights is not None
    where = f"model.{spec.name}.weights"
    own = model.state_dict()
    state = _without_prefix(_read_state(spec.weights, where), own)
    if adapt is not None:
        state = adapt(spec, state)
    # Counters of batches came later than many files, and evaluation does not read them.
    state = {**{name: own[name] for name in own if name.endswith(_COUNTER)}, **state}
    expected = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    lacking = [f"{name} is missing" for name in expected if name not in found]
    stray = [f"{name} is not part of the model" for name in found if name not in expected]
    problems = [
        # In turn: what is missing may have another name.
        *filter(None, chain(*zip_longest(lacking, stray))),
        *(
            f"{name} has the shape {found[name]}, {shape} is expected"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" * (len(problems) > 5))
        what = spec.arch or spec.factory or spec.builder
        raise AuditError(f"{where}: {spec.weights} does not fit {what!r}: {shown}")
    own.update(state)  # keeps the versions that some modules ask for when they load
    model.load_state_dict(own)


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that training put before every name."""
    for prefix in _PREFIXES:
        if _all_begin(state, prefix) and not _all_begin(own, prefix):
            bare = {name.removeprefix(prefix): value for name, value in state.items()}
            return _without_prefix(bare, own)
    return state


def _all_begin(state: Mapping[str, Any], prefix: str) -> bool:
    return bool(state) and all(name.startswith(prefix) for name in state)


def _read_state(path: Path, where: str) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

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
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    if not (isinstance(state, Mapping) and all(hasattr(v, "shape") for v in state.values())):
        kept = f", but {', '.join(map(str, [*state][:5]))}" if isinstance(state, Mapping) else ""
        raise AuditError(f"{where}: {path} holds no state dict (name → tensor){kept}")
    return {str(name): value for name, value in state.items()}
