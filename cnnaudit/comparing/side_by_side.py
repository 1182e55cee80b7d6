"""The same pictures and heatmaps under two runs, one above the other, on one colour scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cnnaudit.comparing import Comparison
from cnnaudit.comparing.pairing import Models
from cnnaudit.report.cells import plural
from cnnaudit.report.run import Run, Subject, Variant
from cnnaudit.report.tiles import EXEMPLAR, Gallery, Panel, Picture, Tiles

FEW = 4  # items that are shown unfolded
MOST_ITEMS = 24  # of one image set under one pair of models
MOST_TILES = 1500  # of the page
LONGEST = 240  # side of a picture, in pixels
SIDES = ("before", "after")


@dataclass(frozen=True)
class BothTiles:
    """What both runs show of one image set under one pair of models."""

    image_set: str
    model: str
    alarms: tuple[str, ...]
    galleries: tuple[Gallery, ...]
    omitted: str


class _Shown(NamedTuple):
    models: Models
    tiles: tuple[Tiles, Tiles]
    kinds: tuple[tuple[Variant, Variant], ...]
    items: tuple[tuple[Picture, Picture], ...]


def tiles_of_both(found: Comparison) -> list[BothTiles]:
    """Return the items that both runs show, exemplars before others, as far as there is room."""
    shown = [
        _shown(found, pair, image_set) for pair in found.models for image_set in _in_both(found)
    ]
    shown = [one for one in shown if one.items]
    width = max((2 * (len(one.kinds) + 1) for one in shown), default=1)
    most = min(MOST_ITEMS, max(1, MOST_TILES // (width * max(len(shown), 1))))
    return [_both(found, one, most) for one in shown]


def _shown(found: Comparison, pair: Models, image_set: str) -> _Shown:
    first, second = (
        Tiles(run, _subject(run, name, image_set))
        for run, name in zip((found.before, found.after), pair, strict=True)
    )
    theirs = {one["item"]: one for one in first.pictures}
    items = [(theirs[one["item"]], one) for one in second.pictures if one["item"] in theirs]
    items.sort(key=lambda both: not all(EXEMPLAR in one["why"] for one in both))
    kinds = [
        (mine, one)
        for one in second.variants
        for mine in first.variants
        if (mine.technique, mine.target) == (one.technique, one.target)
        and not found.after.is_reference(one.technique)
    ]
    return _Shown(pair, (first, second), tuple(kinds), tuple(items))


def _in_both(found: Comparison) -> list[str]:
    """Return the image sets of both runs, also one of which nothing could be measured."""
    first, second = (run.catalogue["image_sets"] for run in (found.before, found.after))
    compared = dict.fromkeys(found.changes["image_set"])
    return [*compared, *(one for one in second if one in first and one not in compared)]


def _subject(run: Run, model: str, image_set: str) -> Subject:
    return next(one for one in run.subjects() if (one.model, one.image_set) == (model, image_set))


def _both(found: Comparison, shown: _Shown, most: int) -> BothTiles:
    subject = shown.tiles[1].subject
    panels = [_panel(shown, *both) for both in shown.items[:most]]
    omitted = len(shown.items) - len(panels)
    more = [(plural(len(panels) - FEW, "more picture"), tuple(panels[FEW:]))]
    return BothTiles(
        image_set=subject.image_set,
        model=shown.models.label if len(found.models) > 1 else "",
        alarms=tuple(found.concerns(subject.image_set, shown.models.label)),
        galleries=(
            ("Pictures that both runs show", tuple(panels[:FEW])),
            *(more if len(panels) > FEW else ()),
        ),
        omitted=f"{plural(omitted, 'picture')} that both runs show are not here" if omitted else "",
    )


def _panel(shown: _Shown, before: Picture, after: Picture) -> Panel:
    second, item = shown.tiles[1], str(after["item"])
    title = second.full_name(after)
    labels = [second.label(kind) for _, kind in shown.kinds]
    rows = []
    sides = zip(SIDES, shown.tiles, (before, after), strict=True)
    for number, (side, made, picture) in enumerate(sides):
        heats = [made.heat(picture, both[number], LONGEST) for both in shown.kinds]
        rows.append((side, (made.plain(picture, LONGEST), *heats)))
    return Panel(
        title=title,
        detail="" if item == title else item,
        corner="run",
        columns=("the picture", *labels),
        rows=tuple(rows),
        brightest=second.run.brightest([kind.technique for _, kind in shown.kinds]),
    )
