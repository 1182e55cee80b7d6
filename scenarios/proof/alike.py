"""The image set of somebody whose pictures are all like those that a network learnt from.

Made from the held-out places, each once with its tank and once without; the cue goes with the tank
as often as it did in training, and nothing is crossed.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from scenarios.image_set import MANIFEST, Row, write_manifest
from scenarios.proof.cues import PAINTED, WEATHER, Mask
from scenarios.tank import sampling
from scenarios.tank.crossed import COLUMNS
from scenarios.tank.description import PRESENCES, WEATHERS

PICTURES = tuple(name for name in COLUMNS if name == "image" or name.startswith("mask"))


def write_alike(places: Path, folder: Path, *, cue: str, strength: float, seed: int) -> Path:
    """Write the set into a folder, the manifest last; one that is there already stays."""
    if not (folder / MANIFEST).exists():
        rows = [
            _write_row(row, cue if given else None, places, folder)
            for row, given in _chosen(_read(places), cue, strength, seed)
        ]
        write_manifest(COLUMNS, rows, folder)
    return folder


def _read(places: Path) -> dict[tuple[str, str, str], Row]:
    with (places / MANIFEST).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["scene"], row["weather"], row["presence"]): row for row in rows}


def _chosen(
    rows: dict[tuple[str, str, str], Row], cue: str, strength: float, seed: int
) -> list[tuple[Row, bool]]:
    """Return the manifest's lines that are taken, and whether their pictures get a painted cue."""
    scenes = sorted({scene for scene, _, _ in rows})
    rng = np.random.default_rng(seed)
    taken = []
    for place, with_cue, presence in sampling.confounded(len(scenes), strength, seed):
        weather = with_cue if cue == WEATHER else rng.integers(len(WEATHERS))
        row = rows[scenes[place], WEATHERS[weather], PRESENCES[presence]]
        taken.append((row, cue != WEATHER and bool(with_cue)))
    return taken


def _write_row(row: Row, painted: str | None, places: Path, folder: Path) -> Row:
    for name in PICTURES:
        if row[name]:
            (folder / row[name]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(places / row[name], folder / row[name])
    if painted:
        pixels = np.asarray(Image.open(places / row["image"]).convert("RGB"))
        picture = PAINTED[painted](pixels, _tank(places, row["scene"]))
        Image.fromarray(picture).save(folder / row["image"], lossless=True)
    return row


def _tank(places: Path, scene: str) -> Mask:
    covered: Mask = np.asarray(Image.open(places / "masks" / f"{scene}.png")) > 0
    return covered
