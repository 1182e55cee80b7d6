"""What the render commands share: a progress bar, and errors that a user can read."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scenarios.blender import BlenderError
from scenarios.shards import FramesError


def run(render: Callable[[Progress], None]) -> int:
    """Render something, with a progress bar; return the exit code."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
            render(progress)
    except (BlenderError, FramesError) as error:
        console.print(f"Error: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. The same command continues.")
        return 130
    return 0


def bar(progress: Progress, name: str, total: int) -> Callable[[int], None]:
    """Add a bar; return what moves it on by a number."""
    task = progress.add_task(name, total=total)
    return lambda number: progress.advance(task, number)
