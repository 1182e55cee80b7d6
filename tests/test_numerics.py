"""A run sets torch up as its audit asks, and leaves somebody's own process as it was."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cnnaudit.config import load_specs
from cnnaudit.numerics import configured, noted_operations, seldom


def _state() -> tuple[object, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("determinism", ["strict", "warn", "off"])
def test_torch_is_set_up_inside_and_as_it_was_afterwards(determinism: str) -> None:
    audit = replace(load_specs([]), determinism=determinism)
    torch.manual_seed(11)
    before = _state()
    draws = []
    for _ in range(2):
        with configured(audit):
            assert torch.are_deterministic_algorithms_enabled() == (determinism != "off")
            if determinism != "off":
                only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
                assert only_warns == (determinism == "warn")
            assert torch.backends.cudnn.benchmark == (determinism == "off")
            assert not torch.backends.cuda.matmul.allow_tf32
            draws.append(torch.rand(3).tolist())
    assert _state() == before
    assert draws[0] == draws[1]  # seeded


def test_torch_is_as_it_was_after_an_exception_too() -> None:
    before = _state()
    with pytest.raises(ZeroDivisionError), configured(load_specs([])):
        raise ZeroDivisionError
    assert _state() == before


@pytest.mark.filterwarnings("always")
def test_operations_that_may_vary_are_noted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # What captureWarnings(True) does, whatever another test made of it.
    monkeypatch.setattr(warnings, "showwarning", logging._showwarning)  # type: ignore[attr-defined]
    with configured(load_specs([])), noted_operations() as found:
        for _ in range(2):
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        warnings.warn("something else", stacklevel=1)
    assert found == ["put_"]


def test_what_is_done_seldom_waits_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = [100], []
    monkeypatch.setattr("cnnaudit.numerics.monotonic", lambda: clock[-1])
    maybe = seldom(lambda: done.append(clock[-1]), seconds=10)
    for now in (101, 109, 110, 111, 119, 150, 159, 160):
        clock.append(now)
        maybe()
    assert done == [110, 150, 160]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are glibc's")
@pytest.mark.parametrize("asked", [True, False])
def test_threads_allocate_from_one_heap_where_it_is_asked_for(asked: bool, tmp_path: Path) -> None:
    script = f"""
import ctypes, sys, threading
from cnnaudit.numerics import share_heap
if {asked}:
    share_heap()
together = threading.Barrier(4)
def allocate():
    together.wait()
    kept = bytearray(10_000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
    told = tmp_path / "malloc.xml"
    subprocess.run([sys.executable, "-c", script, str(told)], check=True)
    heaps = told.read_text().count("<heap nr=")
    assert (heaps == 1) == asked
