"""How far a run is: bars on a terminal, plain lines elsewhere, and a file for others to poll."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cnnaudit.printable import printable
from cnnaudit.store import write_json
from cnnaudit.types import RUN_SCHEMA, AuditError

Advance = Callable[[int, str], None]  # how many more images are done, and of which model
_EVERY = 10.0  # seconds between plain lines
_POLLED = 1.0  # seconds between two versions of the file


class Status:
    """The file that says what a run is doing and how far it is: ``status.json``."""

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0
        # A process that is killed cannot say so: where it ran, others can see that it is gone.
        running = {"host": platform.node(), "process": os.getpid()}
        self._facts: dict[str, Any] = {"schema": RUN_SCHEMA, "state": "running", **running}

    def say(self, **facts: Any) -> None:
        """Add facts to the file, or change them."""
        self._facts |= facts
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        write_json(self._path, {**self._facts, "updated": now})
        self._written = time.monotonic()

    def say_often(self, **facts: Any) -> None:
        """The same, but write the file only if its last version is old, and if it can be."""
        self._facts |= facts
        if time.monotonic() - self._written > _POLLED:
            with suppress(AuditError):  # who polls must not end a week's work
                self.say()


@contextmanager
def reported(path: Path) -> Iterator[Status]:
    """Keep a run's status in a file; at its end it says how the run ended."""
    status = Status(path)
    try:
        status.say()
        yield status
        status.say(state="finished")
    except BaseException as error:
        with suppress(AuditError):  # or a full disk would hide what has stopped the run
            if isinstance(error, KeyboardInterrupt):
                status.say(state="interrupted")
            else:
                status.say(state="stopped", error=f"{type(error).__name__}: {error}")
        raise


class _MayBeGone:
    """Standard error that may go away: a closed terminal or pipe must not end a week's work."""

    def __init__(self) -> None:
        self._to = sys.stderr  # while bars are shown, rich puts something of its own there

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._to.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._to.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)


@contextmanager
def progress(totals: Mapping[str, int], status: Status) -> Iterator[Advance]:
    """Show how many images of each model are done; inside, call the yielded function.

    `totals` has how many there are of each model.
    """
    counted = _Counted(totals, status)
    console = Console(file=cast(IO[str], _MayBeGone()))
    if not console.is_terminal:
        yield _plain(console, counted)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        tasks = {
            name: bars.add_task(printable(name), total=total) for name, total in totals.items()
        }
        whole = bars.add_task("in total", total=counted.total) if len(tasks) > 1 else None

        def advance(images: int, model: str) -> None:
            counted.add(images, model)
            bars.advance(tasks[model], images)
            if whole is not None:
                bars.advance(whole, images)

        yield advance


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} images/s")


class _Counted:
    """How many images are done, of each model and in total, and how fast."""

    def __init__(self, totals: Mapping[str, int], status: Status) -> None:
        self._totals, self._status = totals, status
        self._done = dict.fromkeys(totals, 0)
        self._started = time.monotonic()
        self.total = sum(totals.values())
        self._tell(status.say)

    @property
    def done(self) -> int:
        return sum(self._done.values())

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.done / max(time.monotonic() - self._started, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds; None before the first image is done."""
        return (self.total - self.done) / self.rate if self.done else None

    def add(self, images: int, model: str) -> None:
        self._done[model] += images
        self._tell(self._status.say_often)

    def _tell(self, say: Callable[..., None]) -> None:
        say(
            images={"done": self.done, "total": self.total},
            models={n: {"done": self._done[n], "total": t} for n, t in self._totals.items()},
            images_per_second=round(self.rate, 3),
            seconds_left=None if self.left is None else round(self.left, 1),
        )


def _plain(console: Console, counted: _Counted) -> Advance:
    said = time.monotonic()

    def advance(images: int, model: str) -> None:
        nonlocal said
        counted.add(images, model)
        if counted.done == counted.total or time.monotonic() - said > _EVERY:
            said = time.monotonic()
            text = f"{model}: {counted.done}/{counted.total} images, {counted.rate:.1f}/s"
            if counted.done < counted.total and counted.left is not None:
                text += f", {clock(counted.left)} left"
            console.print(printable(text), highlight=False, markup=False)

    return advance


def clock(seconds: float) -> str:
    """Write a duration as people say it: 40 s, 12 min, 3 h 05 min, 2 d 4 h."""
    minutes, hours = round(seconds / 60), int(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"
