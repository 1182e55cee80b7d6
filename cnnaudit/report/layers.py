"""The report's views of layers: channel images and filters, several models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cnnaudit import figures
from cnnaudit.report.cells import NO_LEVEL, cell, coverage, number, plural
from cnnaudit.report.facets import most_items
from cnnaudit.report.prediction import Image, inline
from cnnaudit.report.run import Run, Subject, Variant
from cnnaudit.report.tables import Row, Table, overall
from cnnaudit.report.tiles import Panel, Picture, Tile, Tiles, lacking

OPEN_ROWS = 3  # pictures whose channels are shown at once; the others are folded
FILTERS_ACROSS, FILTER = 8, 36  # filters in a row, and their longest side in pixels


@dataclass(frozen=True)
class Channels:
    """One layer's channels of every exemplar of an image set, a column for each model."""

    title: str
    image_set: str
    numbers: tuple[Table, ...]
    panel: Panel
    folded: Panel | None


@dataclass(frozen=True)
class Filters:
    """One model's filters."""

    title: str
    layer: str
    image: Image | None
    said: tuple[str, ...]  # what they are; without a picture, why there is none
    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LayerViews:
    channels: tuple[Channels, ...]
    filters: tuple[tuple[str, tuple[Filters, ...]], ...]  # technique → each model's


def layer_views(run: Run, tiles: Mapping[Subject, Tiles]) -> LayerViews:
    """Prepare what the run shows of layers, both parts empty where it shows nothing."""
    channels = []
    for image_set, technique in product(run.catalogue["image_sets"], run.catalogue["techniques"]):
        own = [made for subject, made in tiles.items() if subject.image_set == image_set]
        mine = [made for made in own if _layer(made, technique)]
        if mine and run.gives(technique) == "channels":
            channels.append(_channels(run, image_set, technique, mine))
    filters: dict[str, list[Filters]] = {}
    for one in run.kernels:
        title = run.title("techniques", one["technique"])
        filters.setdefault(title, []).append(_filters(run, one))
    return LayerViews(
        channels=tuple(channels),
        filters=tuple((title, tuple(mine)) for title, mine in filters.items()),
    )


def _channels(run: Run, image_set: str, technique: str, mine: Sequence[Tiles]) -> Channels:
    title, most = run.title("techniques", technique), most_items(run, image_set)
    shown: dict[str, dict[str, Picture]] = {}  # item → model → its picture
    for made in mine:
        for picture in made.exemplars:
            shown.setdefault(picture["item"], {})[made.subject.model] = picture
    layers = {made.subject.model: _layer(made, technique) for made in mine}
    columns = ["picture", *(f"{run.model_label(m)} · {layers[m]}" for m in map(_model, mine))]
    rows = [_row(mine, technique, pictures) for pictures in list(shown.values())[:most]]

    def panel(rows: Sequence[tuple[str, tuple[Tile | None, ...]]]) -> Panel:
        return Panel(title, "", "item", tuple(columns), tuple(rows), "")

    return Channels(
        title=title,
        image_set=image_set,
        numbers=tuple(
            _numbers(run, mine, technique, layers, one) for one in run.metrics("channels")
        ),
        panel=panel(rows[:OPEN_ROWS]),
        folded=panel(rows[OPEN_ROWS:]) if rows[OPEN_ROWS:] else None,
    )


def _model(tiles: Tiles) -> str:
    return tiles.subject.model


def _layer(tiles: Tiles, technique: str) -> str:
    """Return which layer a model shows, its own word for it; "" where it shows none."""
    entries = (one for picture in tiles.exemplars for one in picture["heatmaps"])
    return next((one["layer"] for one in entries if one["technique"] == technique), "")


def _row(
    tiles: Sequence[Tiles], technique: str, pictures: Mapping[str, Picture]
) -> tuple[str, tuple[Tile | None, ...]]:
    there = [(made, pictures.get(_model(made))) for made in tiles]
    first, picture = next((made, one) for made, one in there if one is not None)
    plain = Tile(first.plain(picture).image, "")
    channels = (made.channels(one, technique) if one else None for made, one in there)
    return first.full_name(picture), (plain, *channels)


def _numbers(
    run: Run, tiles: Sequence[Tiles], technique: str, layers: Mapping[str, str], metric: str
) -> Table:
    """Set the models against a metric of their channels, over all images."""
    means = [
        overall(run, made.subject, Variant(technique, "", layers[_model(made)]), metric)
        for made in tiles
    ]
    unit = run.unit(tiles[0].subject.image_set)
    rests_on, shared = coverage([mean for mean in means if mean], unit)
    return Table(
        title=run.title("metrics", metric),
        meaning=run.meaning(metric),
        coverage=rests_on,
        corner=("model",),
        groups=(),
        columns=(("all images", False),),
        rows=tuple(
            Row(
                ((run.model_label(_model(made)), layers[_model(made)]),),
                (cell(mean, run.scale(metric), unit, shared),),
            )
            for made, mean in zip(tiles, means, strict=True)
        ),
    )


def _filters(run: Run, record: Mapping[str, Any]) -> Filters:
    title, layer = run.model_label(record["model"]), str(record["layer"])
    if record["status"] != "ok":
        return Filters(title, layer, None, (lacking(record),), ())
    strip = figures.decode(run.store.read(record["key"], "kernels.png"))
    laid = figures.montage(np.split(strip, record["shown"]), FILTERS_ACROSS, FILTER)
    size, inputs = " × ".join(map(str, record["size"])), plural(record["inputs"], "input")
    said = f"{plural(record['filters'], 'filter')} of {size} over {inputs}"
    alt = f"Filters of {layer} of {title}: the first {record['shown']} of {said}"
    remarks = tuple(_remarks(record, said))
    return Filters(title, layer, inline(laid, alt, None), remarks, _smoothness(record))


def _remarks(record: Mapping[str, Any], said: str) -> Iterator[str]:
    yield said
    if record["shown"] < record["filters"]:
        yield f"the first {record['shown']} are shown"
    if record["inputs"] != 3:
        yield "of each the input that weighs most"


def _smoothness(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Say how smooth the filters are, and how smooth a random start is."""
    if record["smoothness"] is None:
        return (("smoothness", f"{NO_LEVEL} (a filter of one weight has no neighbours)"),)
    start = NO_LEVEL if record["untrained"] is None else number(record["untrained"], (-1, 1))
    return (
        ("smoothness", number(record["smoothness"], (-1, 1))),
        ("of a random start", start),
    )
