"""A device beside the CPU for tests where there is no GPU: only copies reach its memory.

Each of its tensors holds one of the CPU, which computes for it. Tensors of two devices in one
operation are an error, as on a GPU, and each time that the host waits for a value is noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "apart:0"
_LIBRARY = torch.library.Library("aten", "IMPL")
_ATEN = torch.ops.aten
_COPIES = (_ATEN._to_copy.default, _ATEN.copy_.default)
_OF_UNKNOWN_SIZE = (_ATEN.nonzero.default, _ATEN.masked_select.default)

waits: list[str] = []  # operations in which the host waited for the device


class _Apart(Tensor):
    """A tensor of the device."""

    held: Tensor  # the same numbers on the CPU

    @staticmethod
    def __new__(cls, held: Tensor) -> _Apart:
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"{self.held!r} on {DEVICE}"

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        elsewhere = [each for each in given if not isinstance(each, _Apart) and each.ndim]
        if elsewhere and func not in _COPIES:
            raise RuntimeError(f"{func} got tensors on {DEVICE} and on {elsewhere[0].device}")
        own_args, own_kwargs = tree_map(_down, (args, kwargs))
        stays = isinstance(args[0], _Apart) if func is _ATEN.copy_.default else True
        if target := kwargs.get("device"):
            stays = str(target).startswith("apart")
            own_kwargs["device"] = "cpu"
        found = func(*own_args, **own_kwargs)
        if not stays or func in _OF_UNKNOWN_SIZE or _chooses(func, args) or _is_number(found):
            waits.append(str(func))
        if not stays or not any(isinstance(each, Tensor) for each in tree_leaves(found)):
            return found
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_up, found))


def _down(value: Any) -> Any:
    return value.held if isinstance(value, _Apart) else value


def _up(value: Any) -> Any:
    return _Apart(value) if isinstance(value, Tensor) else value


def _chooses(func: Any, args: Any) -> bool:
    """Say whether elements are chosen by a mask: how many there are, the device has to tell."""
    masks = args[1] if func in (_ATEN.index.Tensor, _ATEN.index_put_.default) else ()
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in masks)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _empty(size: Any, *, memory_format: Any = None, dtype: Any = None, **_: Any) -> Tensor:
    made = torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format)
    return _Apart(made)


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return _Apart(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, to: Tensor, _non_blocking: bool = False) -> Tensor:
    _down(to).copy_(_down(source))
    return to


@cache
def _register() -> None:
    """Tell torch of the device; once, since a process cannot forget it."""
    backend_registration._setup_privateuseone_for_python_backend("apart")
    _LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
    _LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
    _LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Hold the device ready; models go there by new parameters, as tensors of a class must."""
    _register()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        # Autograd has threads for the devices that were there when it was first used, no others.
        with torch.autograd.set_multithreading_enabled(False):
            yield torch.device(DEVICE)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
