"""What decides whether torch computes the same numbers again, and with how much memory."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from cnnaudit.specs import AuditSpec
from cnnaudit.types import Device

if TYPE_CHECKING:
    import torch

TF32 = False
_ARENA_MAX = -8  # glibc's M_ARENA_MAX: how many heaps there may be
_DETERMINISM = {"off": "default", "warn": "warn", "strict": "error"}  # as torch calls it


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory is short; on the CPU torch has no class for it."""
    import torch

    no_room = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return no_room or isinstance(error, torch.OutOfMemoryError | MemoryError)


def share_heap() -> None:
    """Have all threads allocate from one heap; of others, glibc gives little back."""
    _have_glibc("mallopt", _ARENA_MAX, 1)


def release_memory() -> None:
    """Give back what was freed; the C library would keep it, in pieces that nothing else fits."""
    _have_glibc("malloc_trim", 0)


def _have_glibc(do: str, *arguments: int) -> None:
    """Call a function of glibc's own, which other C libraries do not have."""
    function = getattr(ctypes.CDLL(None), do, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)


def seldom(do: Callable[[], None], seconds: float) -> Callable[[], None]:
    """Return what does something when it is called, unless it did so a moment ago."""
    done = monotonic()

    def maybe() -> None:
        nonlocal done
        if monotonic() - done >= seconds:
            do()
            done = monotonic()

    return maybe


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Hold torch's generators seeded; afterwards they are as they were, of GPUs in use as well."""
    import torch

    known = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    in_use = range(torch.cuda.device_count()) if known else ()
    with torch.random.fork_rng(devices=in_use):
        torch.manual_seed(seed)
        yield


@contextmanager
def configured(audit: AuditSpec) -> Iterator[None]:
    """Hold torch seeded and as deterministic as an audit asks for; full float32, no TF32.

    Afterwards all is as it was, but for what cuBLAS reads once from the environment: a run in
    somebody's own process changes nothing of theirs.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    deterministic = torch.get_deterministic_debug_mode()
    if audit.determinism == "strict":  # cuBLAS asks for it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with seeded(audit.seed):
        try:
            matmul.allow_tf32 = cudnn.allow_tf32 = TF32
            cudnn.benchmark = audit.determinism == "off"
            # `use_deterministic_algorithms` is the same, but loads the compiler: 1 s, 150 MB
            torch.set_deterministic_debug_mode(_DETERMINISM[audit.determinism])
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = flags
            torch.set_deterministic_debug_mode(deterministic)


@contextmanager
def noted_operations() -> Iterator[list[str]]:
    """Collect the operations of which torch warns that they may give other numbers again.

    Warnings must be logged: ``logging.captureWarnings``.
    """
    found: list[str] = []

    class Noted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for name in re.findall(r"(\S+) does not have a deterministic", record.getMessage()):
                if name not in found:
                    found.append(name)

    handler = Noted()
    logger = logging.getLogger("py.warnings")
    logger.setLevel(logging.WARNING)  # whatever the root's level is
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def named(device: torch.device) -> Device:
    """Return what a device is called, and the name of the GPU that it is, or None."""
    import torch

    return str(device), torch.cuda.get_device_name(device) if device.type == "cuda" else None
