"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]  # how many more are done, and of what
_EVERY = 10.0  # seconds between plain lines


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show how many of `total` are done; inside, call the yielded function."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(console, what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(what, total=total)
        yield lambda steps, of: bars.update(task, advance=steps, description=f"{of}: {what}")


def _plain(console: Console, what: str, total: int) -> Advance:
    done, said = 0, time.monotonic()

    def advance(steps: int, of: str) -> None:
        nonlocal done, said
        done += steps
        if done == total or time.monotonic() - said > _EVERY:
            said = time.monotonic()
            console.print(f"{of}: {done}/{total} {what}", highlight=False, markup=False)

    return advance
