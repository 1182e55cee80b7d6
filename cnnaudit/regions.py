"""The interesting region of every kept heatmap, cut out as a picture, with a table of their boxes.

Boxes are in pixels of the stored picture: the part of it that the network sees, its longer side at
most `illustrate.LARGEST_SIDE`; `width` and `height` say how large that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from cnnaudit import figures
from cnnaudit.store import Store, digest_bytes, write_atomically
from cnnaudit.summary import to_csv

NAMED = ("model", "image_set", "item", "technique", "target")
BOX = ("left", "top", "right", "bottom")  # the last two are exclusive
COLUMNS = (*NAMED, "file", *BOX, "width", "height", "share", "threshold", "reason")
_LONGEST = 60  # characters of a name in a path

Record = Mapping[str, Any]


def write_regions(pictures: Iterable[Record], store: Store, folder: Path) -> None:
    """Write the region of each heatmap of illustrated items below a folder, and `regions.csv`.

    A heatmap that is not there, or the same everywhere, has a row with the reason and no box.
    """
    rows = []
    for picture in pictures:
        view = figures.decode(store.read(picture["key"], "view.webp"))
        height, width = view.shape[:2]
        for heatmap in picture["heatmaps"]:
            if not heatmap["target"]:
                continue  # a view of a layer explains none
            names = {name: str({**picture, **heatmap}[name]) for name in NAMED}
            found = _write(_region(view, heatmap, store), names, folder)
            size = {"width": width, "height": height, "threshold": figures.THRESHOLD}
            rows.append({**names, **size, **found})
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(BOX, "Int64"))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "regions.csv", to_csv(table))


def file_name(names: Mapping[str, str]) -> Path:
    """Return where a region lies: readable, safe whatever the names hold, and unlike any other."""
    safe = {key: re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:_LONGEST] for key, name in names.items()}
    digest = digest_bytes(json.dumps(dict(names), sort_keys=True).encode())[:12]
    parts = [safe[key] for key in ("item", "technique", "target")]
    return Path(safe["model"] or "_", safe["image_set"] or "_", "-".join([*parts, digest]) + ".png")


def _region(view: figures.Pixels, heatmap: Record, store: Store) -> figures.Region | str:
    """Return a heatmap's region, or why it has none."""
    if heatmap["key"] is None:
        return f"{heatmap['status']}: {heatmap['reason']}"
    about = json.loads(store.read(heatmap["key"], "heatmap.json"))
    if about["dead"]:
        return "dead: zero everywhere"
    code = figures.decode_grey(store.read(heatmap["key"], "heatmap.png"))
    shown = figures.shown(code, about["brightest"])
    return figures.interesting_region(view, shown) or "flat: the same everywhere"


def _write(found: figures.Region | str, names: Mapping[str, str], folder: Path) -> dict[str, Any]:
    if isinstance(found, str):
        return {"file": "", "reason": found}
    path = file_name(names)
    (folder / path.parent).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / path, figures.encoded(Image.fromarray(found.crop), "PNG"))
    box = dict(zip(BOX, found.box, strict=True))
    return {"file": path.as_posix(), **box, "share": found.share, "reason": ""}
