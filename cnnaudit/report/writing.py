"""A run directory → its report, in one file or in a folder with a page for each model."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

from cnnaudit.report.page import audit_page, model_page, templates
from cnnaudit.report.run import Run, load
from cnnaudit.report.tiles import EXEMPLAR, explained
from cnnaudit.store import write_atomically

MOST_BYTES = 25_000_000  # of a page


def write_report(run_dir: Path) -> Path:
    """Write a run's report beside its results and return its path; needs no network or torch.

    The same run always gives the same pages. One shows fewer pictures, and says so, where it would
    be too large to be mailed.
    """
    run = load(run_dir)
    if run.manifest.get("report") == "folder":
        return _write_folder(run, run_dir / "report")
    return _write(run_dir / "report.html", "report.html.j2", run, audit_page)


def _write_folder(run: Run, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    models = run.catalogue["models"]
    pages = {model: f"model-{number}.html" for number, model in enumerate(models, start=1)}
    for model, name in pages.items():
        _write(folder / name, "model.html.j2", run, partial(model_page, model=model))
    labelled = {run.model_label(model): name for model, name in pages.items()}
    return _write(folder / "index.html", "report.html.j2", run, partial(audit_page, pages=labelled))


def _write(path: Path, template: str, run: Run, page: Callable[[Run], dict[str, Any]]) -> Path:
    """Write a page with as many exemplars as keep it small enough."""
    made = templates().get_template(template)
    counts = Counter((one["model"], one["image_set"]) for one in run.pictures)
    most, closer = max(counts.values(), default=1), _most_closer(run)
    while True:
        context = page(replace(run, most=most, closer=closer))
        content = made.render(context).encode("utf-8", "backslashreplace")
        if len(content) <= MOST_BYTES or most == 1:
            break
        most = max(1, min(most - 1, int(0.95 * most * MOST_BYTES / len(content))))
    write_atomically(path, content)
    return path


def _most_closer(run: Run) -> int:
    """Return how many pictures of each model on an image set the viewer can have: 2/5 of a page."""
    sizes: dict[tuple[str, str], list[int]] = {}
    for one in sorted(run.pictures, key=lambda one: EXEMPLAR not in one["why"]):
        keys = [heatmap["key"] for heatmap in explained(one) if heatmap["key"]]
        maps = sum(run.store.size(key, "heatmap.png") for key in keys)
        sizes.setdefault((one["model"], one["image_set"]), []).append(maps * 4 // 3)  # as base64
    together = accumulate(map(sum, zip_longest(*sizes.values(), fillvalue=0)))
    return max(1, bisect_right([*together], MOST_BYTES * 2 // 5))
