"""Which layers of a network play which role, found by following one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

Calls = Sequence[tuple[str, nn.Module, Any]]  # (path, module, output), containers after their parts

_POOL = "Pool"
_NO_FEATURES = (_POOL, "Dropout", "Flatten", "Identity")  # in the name of a module's class


def trace_roles(calls: Calls) -> dict[str, str]:
    """Return the module path of each role that these calls have a layer for."""
    spatial = [call for call in calls if _is_spatial(call[2])]
    convolutions = [path for path, module, _ in spatial if isinstance(module, nn.Conv2d)]
    features = [path for path, module, out in spatial if _has_features(module, out, calls)]
    roles = {}
    if convolutions:
        roles = {"first_conv": convolutions[0], "last_conv": convolutions[-1]}
    if features:
        roles["last_features"] = features[-1]
    pools = [path for path, module, _ in spatial if _POOL in type(module).__name__]
    if pools:
        roles["first_pool"] = pools[0]
    return roles


def _is_spatial(output: Any) -> bool:
    """Say whether an output is (B, K, h, w) of more than one place."""
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1


def _has_features(module: nn.Module, output: Any, calls: Calls) -> bool:
    """Say whether an output was computed, not merely pooled or handed on."""
    if not any(module.children()):
        return not _pools(module)
    # A container that ends in a pooling layer hands on that very tensor.
    makers = [part for _, part, out in calls if out is output and not any(part.children())]
    return not (makers and _pools(makers[-1]))


def _pools(module: nn.Module) -> bool:
    return any(word in type(module).__name__ for word in _NO_FEATURES)
