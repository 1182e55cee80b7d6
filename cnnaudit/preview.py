"""One picture of each image set under every perturbation and severity, drawn on a sheet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cnnaudit.figures import Pixels, fit, outline
from cnnaudit.illustrations import exemplars
from cnnaudit.image_sets.perturbed import read_mask_of, read_picture
from cnnaudit.store import write_atomically
from cnnaudit.types import CLEAN, PERTURBATION, SEVERITY, AuditError, ImageSet, Item

LONGEST = 320  # pixels of a picture's longer side
WIDTH = 1.6  # inches of a picture, at 150 pixels each

Line = Sequence[tuple[str, Pixels]]  # pictures, each with what is written above it


def write_preview(image_sets: Iterable[ImageSet], path: Path) -> None:
    """Write a PNG of the first exemplar as it is and perturbed, its regions outlined.

    Raises AuditError if nothing is perturbed or the file cannot be written.
    """
    lines = [line for image_set in image_sets for line in _lines(image_set)]
    if not lines:
        raise AuditError(
            "preview: there is no perturbed picture to show; choose what is done to them: "
            "'perturbation=[brightness,gaussian_noise]'"
        )
    if not path.parent.is_dir():
        raise AuditError(f"preview: there is no folder {path.parent}")
    write_atomically(path, _sheet(lines))


def _lines(image_set: ImageSet) -> list[Line]:
    """Return a line for each perturbation, the clean picture first in each."""
    shown = exemplars(replace(image_set, spec=replace(image_set.spec, exemplars=1)))
    by_level: dict[str, list[Item]] = {}
    for item in image_set.items:
        if item.id in shown and PERTURBATION in item.factors:
            by_level.setdefault(item.factors[PERTURBATION], []).append(item)
    clean = [(item.id, _drawn(item)) for item in by_level.pop(CLEAN, ())]
    return [
        [*clean, *((f"{name} {item.factors[SEVERITY]}", _drawn(item)) for item in items)]
        for name, items in by_level.items()
    ]


def _drawn(item: Item) -> Pixels:
    picture = fit(np.asarray(read_picture(item)), LONGEST)
    for region in item.regions:
        picture = outline(picture, np.asarray(read_mask_of(item, region)))
    return picture


def _sheet(lines: Sequence[Line]) -> bytes:
    columns = max(map(len, lines))
    height, width = lines[0][0][1].shape[:2]
    size = (columns * WIDTH, len(lines) * (WIDTH * height / width + 0.25))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    places = figure.subplots(len(lines), columns, squeeze=False)
    for line, row in zip(lines, places, strict=True):
        for place in row:
            place.axis("off")
        for (title, picture), place in zip(line, row, strict=False):
            place.imshow(picture)
            place.set_title(title, fontsize=7, pad=2)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
