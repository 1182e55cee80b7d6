"""What ``cnnaudit compare`` is asked: its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnaudit.comparing.pairing import Models
from cnnaudit.sections import read_options
from cnnaudit.types import AuditError

USAGE = """\
cnnaudit compare RUN_A RUN_B [OPTION …]

Say what changed from the first run to the second, before and after a fix: paired differences, what
got better and what worse, checks, contrasts and heatmaps side by side. Writes a self-contained HTML
page, and a CSV and a JSON file of the same name beside it.

  RUN_A, RUN_B   run directories, such as outputs/robot/…; the second is compared with the first
  --output FILE  the page; RUN_B/comparison-<name of RUN_A>/comparison.html if not given
  --pair A=B     the model A of the first run and B of the second belong together; may be repeated.
                 Not needed for models of the same name, or where each run has a single model
  --force        compare also runs in which an image of both, its mask, its truth or how it is
                 prepared differs; the page marks what is affected

Exit codes: 0 compared, whatever was found; 1 an error; 2 refused, because inputs differ.
"""

_OPTIONS = {"output": True, "pair": True, "force": False}
_PAGE = "comparison.html"


@dataclass(frozen=True)
class Asked:
    """One call of ``cnnaudit compare``."""

    before: Path
    after: Path
    page: Path
    pairs: tuple[Models, ...]
    force: bool


def read_arguments(rest: Sequence[str]) -> Asked | None:
    """Return what the arguments ask for, None if for help; raise AuditError if they are off."""
    options, runs = read_options("compare", rest, _OPTIONS, several=("pair",))
    if "help" in options:
        return None
    if len(runs) != 2:
        raise AuditError(
            "compare takes two run directories, before and after: "
            "cnnaudit compare outputs/robot/… outputs/robot/…"
        )
    before, after = map(Path, runs)
    for run in (before, after):
        if not run.is_dir():
            raise AuditError(f"compare: there is no run directory {str(run)!r}")
    default = after / f"comparison-{before.resolve().name}" / _PAGE
    return Asked(
        before=before,
        after=after,
        page=_page(options["output"][0]) if "output" in options else default,
        pairs=tuple(map(_pair, options.get("pair", ()))),
        force="force" in options,
    )


def _page(name: str) -> Path:
    """Return the page that --output names; in a folder, it has its own name."""
    path = Path(name)
    if path.is_dir():
        return path / _PAGE
    if path.suffix.lower() not in (".html", ".htm"):
        raise AuditError(
            f"--output: {name!r} is no .html file; the table and the sentences get its name with "
            ".csv and .json"
        )
    return path


def _pair(text: str) -> Models:
    before, equals, after = text.partition("=")
    if not (before and equals and after):
        raise AuditError(f"--pair {text}: write a model of the first run, =, and one of the second")
    return Models(before, after)
