"""What `explain` and `score` are given → what the runner's own code takes, or a clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnnaudit.metrics.registry import FAITHFULNESS
from cnnaudit.sections import unknown
from cnnaudit.specs import TargetSpec
from cnnaudit.targets import TARGETS
from cnnaudit.techniques import TECHNIQUES
from cnnaudit.types import AuditError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cnnaudit.heatmaps import Truths

Several = Sequence[str] | Mapping[str, Mapping[str, Any]]
Named = str | Several
Explained: TypeAlias = "int | np.integer | str | Tensor | NDArray[Any] | Sequence[float]"
Masks: TypeAlias = "Tensor | NDArray[np.bool_] | Sequence[Tensor | NDArray[np.bool_] | None]"


def named(names: Named, known: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    """Return the parameters of each technique or metric that is named; AuditError for others."""
    if isinstance(names, str):
        names = [names]
    try:
        wanted = dict(names) if isinstance(names, Mapping) else {name: {} for name in names}
    except TypeError as error:
        raise AuditError(
            f"{kind}: {names!r} is no name, no list of names and no names with their parameters"
        ) from error
    for name, parameters in wanted.items():
        if name not in known:
            raise AuditError(f"{kind}: {_said_of(str(name), sorted(known), kind)}")
        if not isinstance(parameters, Mapping):
            raise AuditError(f"{kind}.{name}: {parameters!r} is not a set of keys")
    return {
        name: {key: plain(value) for key, value in parameters.items()}
        for name, parameters in wanted.items()
    }


def plain(value: Any) -> Any:
    """Return a number of NumPy as Python's own, which parameters are."""
    return value.item() if isinstance(value, np.generic) else value


def _said_of(name: str, allowed: Sequence[str], kind: str) -> str:
    """Say why a name cannot be used here, although a run or a config may know it."""
    from cnnaudit.config import group_options

    if kind == "metric" and name in FAITHFULNESS:
        return f"{name!r} asks the network, which score does not know; a run measures it"
    if kind == "technique" and name in TECHNIQUES:
        return f"{name!r} shows a network's own filters, whatever its images; a run shows them"
    if name in group_options(kind, None):
        return (
            f"{name!r} is a choice in configs, for one or several of these with their settings; "
            f"name them here: {', '.join(allowed)}"
        )
    return unknown(name, allowed, kind)


def images_of(images: Tensor | NDArray[np.floating]) -> Tensor:
    """Return preprocessed images as a tensor; raise AuditError for what they cannot be."""
    import torch

    if isinstance(images, np.ndarray):
        images = _tensor(images, "images")
    if not isinstance(images, torch.Tensor):
        raise AuditError(
            f"images: a {type(images).__name__}; a tensor (B, C, H, W) is expected, preprocessed"
        )
    if images.ndim != 4 or not len(images):
        raise AuditError(
            f"images: shape {tuple(images.shape)}, (B, C, H, W) is expected, with B at least 1"
        )
    if not images.is_floating_point():
        raise AuditError(f"images: {images.dtype}; floating point, as preprocessed, is expected")
    bad = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise AuditError(f"images[{bad[0]}]: it holds NaN or infinity; finite numbers are expected")
    return images


def maps_of(maps: Tensor | NDArray[np.floating]) -> Tensor:
    """Return heatmaps as a tensor (B, H, W)."""
    if isinstance(maps, Mapping):
        raise AuditError(
            f"maps: a dict of {', '.join(map(str, maps)) or 'nothing'}; score takes the maps of "
            "one technique (B, H, W), maps[technique]"
        )
    found = _tensor(maps, "maps")
    if found.ndim != 3:
        raise AuditError(f"maps: shape {tuple(found.shape)}, (B, H, W) is expected")
    return found


def masks_of(masks: Masks, maps: Tensor) -> list[Tensor | None]:
    """Return the mask (H, W) bool of each heatmap of `maps` (B, H, W), None where it has none."""
    import torch

    if isinstance(masks, torch.Tensor | np.ndarray) and masks.ndim not in (1, 3):  # 1: of objects
        raise AuditError(f"masks: shape {tuple(masks.shape)}, (B, H, W) is expected")
    try:
        each = list(masks)
    except TypeError as error:
        raise AuditError(
            f"masks: {masks!r}; (B, H, W) is expected, or a list with None for some images"
        ) from error
    own = [m if m is None else _mask(m, maps, f"masks[{place}]") for place, m in enumerate(each)]
    if len(own) != len(maps):
        raise AuditError(f"masks: {len(own)} of them for {len(maps)} maps")
    return own


def target_of(target: Explained, b: int) -> tuple[TargetSpec, Truths | None]:
    """Return a resolved target, and the truths of B images where it is each one's own class."""
    import torch

    known = [name for name, one in TARGETS.items() if one.is_plain]
    others = ["a class index", f"({b},) whole numbers", "(N,) weights"]
    if isinstance(target, str):
        if target not in known:
            raise AuditError(f"target: {unknown(target, [*known, *others], 'target')}")
        return TargetSpec(target, target, {}), None
    try:
        given = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        allowed = ", ".join([*known, *others])
        raise AuditError(f"target: {target!r} is none of {allowed}") from error
    if given.ndim == 1 and given.is_floating_point():
        if not given.isfinite().all():
            raise AuditError("target: it holds NaN or infinity; finite weights are expected")
        return TargetSpec("target", "weights", {"values": given.tolist()}), None
    is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if is_whole and given.ndim == 0:
        return TargetSpec(str(int(given)), "class", {"indices": [int(given)]}), None
    if is_whole and given.shape == (b,):
        classes = given.tolist()
        return TargetSpec("target", "truth", {}), lambda n: [_one_hot(c, n) for c in classes]
    raise AuditError(
        f"target: shape {tuple(given.shape)} of {given.dtype}, {', '.join(others)} is expected"
    )


def _one_hot(index: int, n: int) -> NDArray[np.float64]:
    if not 0 <= index < n:
        raise AuditError(f"target: class {index} is out of range, the model has {n} outputs")
    weights = np.zeros(n)
    weights[index] = 1
    return weights


def _tensor(given: Any, where: str) -> Tensor:
    """Return a tensor, or an array of NumPy as one; raise AuditError for what is neither."""
    import torch

    try:
        if isinstance(given, np.ndarray):  # whose strides may be below 0
            given = np.array(given, order="C")
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AuditError(
            f"{where}: a {type(given).__name__}; a tensor or an array of numbers is expected"
        ) from error


def _mask(given: Any, maps: Tensor, where: str) -> Tensor:
    """Return the mask of a heatmap, (H, W) bool; raise AuditError for what is none."""
    import torch

    mask = _tensor(given, where).to(maps.device)
    if mask.shape != maps.shape[1:]:
        raise AuditError(f"{where}: shape {tuple(mask.shape)}, {tuple(maps.shape[1:])} is expected")
    inside = mask[mask != 0]
    if mask.dtype != torch.bool and (inside != inside[:1]).any():
        raise AuditError(
            f"{where}: it has several values beside 0; bool is expected, or 0 outside and one "
            "other value inside"
        )
    return mask.bool()
