"""Which layers of a network play which role, found by following one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

Calls = Sequence[tuple[str, nn.Module, Any]]  # (path, module, output), containers after their parts

_POOL = "Pool"
_NO_FEATURES = (_POOL, "Dropout", "Flatten", "Identity")  # in the name of a module's class


def trace_roles(calls: Calls, size: tuple[int, int]) -> dict[str, str]:
    """Return the module path of each role that these calls on images of a size have a layer for."""
    spatial = [call for call in calls if _is_spatial(call[2])]
    convolutions = [path for path, module, _ in spatial if isinstance(module, nn.Conv2d)]
    grids = {out.shape[2:] for _, module, out in spatial if isinstance(module, nn.Conv2d)}
    seen = [
        (index, path, module)
        for index, (path, module, out) in enumerate(calls)
        if _is_spatial(out)
        and not _works_along_the_last_axis(module)
        and (out.shape[2:] in grids or _follows(out.shape[2:], size))
    ]
    features = [path for index, path, _ in seen if _has_features(index, calls)]
    roles = {}
    if convolutions:
        roles = {"first_conv": convolutions[0], "last_conv": convolutions[-1]}
    if features:
        roles["last_features"] = features[-1]
    pools = [path for _, path, module in seen if _POOL in type(module).__name__]
    if pools:
        roles["first_pool"] = pools[0]
    return roles


def _is_spatial(output: Any) -> bool:
    """Say whether an output is (B, K, h, w) of more than one place."""
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1


def _follows(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Say whether a grid has an image's shape but for a cell: (h, w, K) and attention have not."""
    (h, w), (height, width) = grid, size
    return min(abs(h - w * height / width), abs(w - h * width / height)) <= 1


def _works_along_the_last_axis(module: nn.Module) -> bool:
    """Say whether a module has channels, or what attention is paid to, where a picture has w."""
    if isinstance(module, nn.Softmax):
        return module.dim in (-1, 3)
    name = type(module).__name__.lower()
    norm = name.endswith(("layernorm", "rmsnorm"))  # of one axis; LayerNorm2d is for (B, K, h, w)
    axes = getattr(module, "normalized_shape", (0,))
    return isinstance(module, nn.Linear) or (norm and len(axes) == 1)


def _has_features(index: int, calls: Calls) -> bool:
    """Say whether the output of a call was computed, not merely pooled or handed on."""
    path, module, output = calls[index]
    if not any(module.children()):
        return not _pools(module)
    # A container that ends in a pooling layer hands on that very tensor; what hands it on behind
    # the container, or within it, does not make it less computed.
    makers = [
        part
        for inside, part, out in calls[:index]
        if out is output and inside.startswith(f"{path}.") and not any(part.children())
    ]
    return not makers or not all(map(_pools, makers))


def _pools(module: nn.Module) -> bool:
    return any(word in type(module).__name__ for word in _NO_FEATURES)
