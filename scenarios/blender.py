"""Run a scene script with Blender's Python package, in an environment of its own.

Blender's package needs a NumPy that the audit's packages refuse. The interpreter is the one that
the environment variable ``CNNAUDIT_BLENDER_PYTHON`` names, or else that of a virtual environment
which is made once, next to this file, from ``blender-requirements.txt``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "blender-requirements.txt"
ENVIRONMENT = HERE / ".blender-venv"
VARIABLE = "CNNAUDIT_BLENDER_PYTHON"
PYTHON = "python3.11"  # the only Python that Blender 4.5's package is built for
TAIL_LINES = 15

Job = dict[str, Any]


class BlenderError(Exception):
    """Blender cannot be found, made or run; the message is meant for the user."""


def find_interpreter() -> Path | None:
    """Return the Python that has Blender, or None where it would first have to be made.

    Raises BlenderError when the variable names something that does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise BlenderError(f"{VARIABLE} is {named!r}, but there is no such Python interpreter.")
        return Path(named)
    return _python_of(ENVIRONMENT) if _is_finished(ENVIRONMENT) else None


def interpreter() -> Path:
    """Return the Python that has Blender, making its environment if need be."""
    found = find_interpreter()
    if found is not None:
        return found
    print(f"Making Blender's environment in {ENVIRONMENT} (once, about 1 GB) …", file=sys.stderr)
    return make_environment(ENVIRONMENT)


def make_environment(folder: Path) -> Path:
    """Make the virtual environment beside its place and move it there once it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        partial = Path(scratch) / "venv"
        _check_call([_base_python(), "-m", "venv", str(partial)], "making the environment")
        install = ["-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)]
        _check_call([str(_python_of(partial)), *install], "installing Blender's package")
        shutil.copy(REQUIREMENTS, partial / REQUIREMENTS.name)
        _move_into_place(partial, folder)
    return _python_of(folder)


def run_batches(
    script: Path,
    batches: Sequence[Sequence[Job]],
    *,
    workers: int,
    on_job: Callable[[], None],
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Run the script once per batch of jobs, ``workers`` at a time.

    ``on_job`` is called after each finished job, ``on_batch`` with the index of each finished
    batch. Raises BlenderError, with the end of what the script said, if one fails; the others
    are stopped then.
    """
    if not batches:
        return  # nor is Blender needed then
    python = interpreter()
    processes: set[subprocess.Popen[str]] = set()

    def run(index: int) -> None:
        with _started(python, script, batches[index], processes) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("DONE "):
                    on_job()
        if on_batch is not None:
            on_batch(index)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run, index) for index in range(len(batches))]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failure = next((error for future in done if (error := future.exception())), None)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            # Empty unless a batch failed or the user interrupted.
            for process in list(processes):
                process.terminate()
    if failure is not None:
        raise failure


@contextmanager
def _started(
    python: Path, script: Path, jobs: Sequence[Job], processes: set[subprocess.Popen[str]]
) -> Iterator[subprocess.Popen[str]]:
    """Start the script on these jobs; on leaving, wait for it and judge its exit code."""
    with tempfile.TemporaryDirectory(prefix="cnnaudit-blender-") as scratch:
        jobs_file, errors = Path(scratch) / "jobs.json", Path(scratch) / "stderr.txt"
        jobs_file.write_text(json.dumps(list(jobs)))
        command = [str(python), str(script), str(jobs_file)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where scripts find `scenarios`
        with (
            errors.open("w") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            ) as process,
        ):
            processes.add(process)
            try:
                yield process
                code = process.wait()
            except BaseException:
                process.terminate()  # or else leaving would wait for its remaining frames
                raise
            finally:
                processes.discard(process)
        if code != 0:
            raise BlenderError(_failure(f"{script.name} with {python}", code, errors.read_text()))


def _failure(what: str, code: int, errors: str) -> str:
    tail = "\n".join(f"  {line}" for line in errors.strip().splitlines()[-TAIL_LINES:])
    return f"{what} failed (exit code {code}). It ended with:\n{tail or '  (no message)'}"


def _check_call(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BlenderError(_failure(what, done.returncode, done.stderr))


def _base_python() -> str:
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which(PYTHON)
    if found is None:
        raise BlenderError(
            f"Blender's package needs {PYTHON}, which is not on the path. Install it, or name a "
            f"Python that has Blender's package in {VARIABLE}."
        )
    return found


def _is_finished(folder: Path) -> bool:
    """Tell whether the environment is whole and has the pins of today's requirements."""
    installed = folder / REQUIREMENTS.name
    return installed.is_file() and installed.read_bytes() == REQUIREMENTS.read_bytes()


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _move_into_place(partial: Path, folder: Path) -> None:
    if folder.exists() and not _is_finished(folder):
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        if not _is_finished(folder):  # or else another process was faster, and its one is as good
            raise
