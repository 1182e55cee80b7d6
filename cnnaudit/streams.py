"""The standard streams of a command, which may be closed, full, or read by nobody."""

from __future__ import annotations

import os
import select
import sys
from typing import IO

from cnnaudit.printable import printable


def tell(text: str, end: str = "\n") -> None:
    """Say it on standard output: names in it, which others chose, must not steer the terminal."""
    print(printable(text), end=end)


def is_read() -> bool:
    """Say whether somebody still reads what is printed, unlike under `| head`."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # that a pipe has no reader is told unasked
    return not output.poll(0)


def say(text: str) -> None:
    """Say it on standard error, if anybody still reads it."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        let_go(sys.stderr)


def open_what_is_closed() -> None:
    """Put nothing where the caller has closed a stream, or the store's next file would be it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8", errors="replace"))


def let_go(output: IO[str]) -> None:
    """Send what is still buffered nowhere, or Python would fail to write it as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
