"""What the viewer needs beside the page: heatmaps and masks of the pictures that tiles show."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from cnnaudit import figures
from cnnaudit.report.run import Run, variant_of
from cnnaudit.report.tiles import Picture, Tiles, explained, lacking


def viewer_data(run: Run, tiles: Iterable[Tiles]) -> Markup:
    """Return the viewer's data as JSON that can stand in a script element, whatever names hold."""
    pictures = {
        number: _picture(made, picture, places)
        for made in tiles
        for number, picture, places in made.looked_at()
    }
    data = {
        "colours": {name: _base64(_colours(name)) for name in figures.COLOUR_MAPS},
        "opacity": figures.ALPHA,
        "threshold": figures.THRESHOLD,
        "meanings": {
            name: run.meaning(name)
            for kind in ("overlap", "faithfulness")
            for name in run.metrics(kind)
        },
        "pictures": pictures,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704


def _picture(tiles: Tiles, picture: Picture, places: Iterable[int]) -> dict[str, Any]:
    heatmaps = explained(picture)
    return {
        "item": picture["item"],
        "name": tiles.full_name(picture),
        "imageSet": picture["image_set"],
        "model": tiles.run.model_label(picture["model"]),
        "regions": list(_regions(tiles, picture)),
        "heatmaps": {place: _heatmap(tiles, picture, heatmaps[place]) for place in places},
    }


def _regions(tiles: Tiles, picture: Picture) -> Iterable[dict[str, str]]:
    """Yield the masks as heatmaps are measured on them, the one that tiles outline first."""
    regions = tiles.about(picture).get("regions", ())
    for region in sorted(regions, key=lambda one: one["name"] != tiles.outlined):
        mask = tiles.run.store.read(picture["key"], region["received"])
        yield {"name": region["name"], "mask": _png(mask)}


def _heatmap(tiles: Tiles, picture: Picture, one: Mapping[str, Any]) -> dict[str, Any]:
    variant = variant_of(one)
    about = {"label": tiles.label(variant), "layer": one["layer"]}
    if one["key"] is None:
        return {**about, "lacking": lacking(one)}
    read = tiles.run.store.read
    stated = json.loads(read(one["key"], "heatmap.json"))
    return {
        **about,
        "map": _png(read(one["key"], "heatmap.png")),
        "brightest": stated["brightest"],
        "dead": stated["dead"],
        "end": tiles.run.brightest([one["technique"]]),
        "scores": tiles.measured(picture, variant),
    }


def _colours(name: str) -> bytes:
    """Return red, green and blue of the 256 colours of a map."""
    return figures.colourise(np.arange(256, dtype=np.uint8)[np.newaxis], name).tobytes()


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{_base64(content)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
