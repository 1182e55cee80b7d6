"""The report's tiles: a picture plain or under a heatmap, its cut-out, and the network's answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from cnnaudit import figures
from cnnaudit.report.cells import STATUSES, levels_label, number, percentage, plural
from cnnaudit.report.prediction import Image, Prediction, inline, prediction, strongest
from cnnaudit.report.run import Run, Subject, Variant, variant_of
from cnnaudit.report.tables import variant_label, variants

# The longest side of a picture as shown, in pixels; the viewer has the one of a card.
CARD, TILE, CUT_OUT, CHANNEL = 480, 320, 150, 56
CHANNELS_ACROSS = 4
QUALITY = 75
EXEMPLAR, WORST = "exemplar", "worst: "

Picture = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """A picture with what it shows and its number; without a picture, the reason."""

    image: Image | None
    label: str
    score: str = ""
    notes: tuple[str, ...] = ()
    detail: str = ""  # what else tells it from the tiles beside it
    look: str = ""  # what the viewer opens: a picture's number, or that and its heatmap's


@dataclass(frozen=True)
class Panel:
    """A table of tiles."""

    title: str
    detail: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile | None, ...]], ...]
    brightest: str  # what the end of its colour scale is; "" where it has none
    references: frozenset[str] = frozenset()  # labels of columns or rows that see no network


Gallery = tuple[str, tuple[Panel, ...]]  # (heading, panels)


@dataclass(frozen=True)
class Card:
    """One exemplar: the picture, what the network receives of it, and what it answers."""

    title: str
    look: str
    view: Image
    received: Image
    size: str
    prediction: Prediction
    scores: tuple[tuple[str, str], ...]


@dataclass
class _Frame:
    """A picture's files, decoded once for all tiles that show it."""

    view: figures.Pixels
    mask: figures.Pixels | None
    about: Mapping[str, Any]


class Tiles:
    """Makes the tiles of one subject from the illustrations and their cells."""

    def __init__(self, run: Run, subject: Subject) -> None:
        self.run, self.subject = run, subject
        self.variants = variants(run, subject)
        self.pictures = [
            one
            for one in run.pictures
            if (one["model"], one["image_set"]) == (subject.model, subject.image_set) and one["key"]
        ]
        self.numbers = {id(one): number for number, one in enumerate(run.pictures)}
        self.looks: dict[int, set[int]] = {}  # picture's number → its heatmaps that tiles show
        exemplars = [one for one in self.pictures if EXEMPLAR in one["why"]]
        self.exemplars = exemplars[: run.most]
        self.left_out = len(exemplars) - len(self.exemplars)  # to keep the page small
        others = [one for one in self.pictures if EXEMPLAR not in one["why"]]
        self._closer = {id(one) for one in [*self.exemplars, *others][: run.closer]}
        scored, self._primary, self.outlined = _scored(run, subject)
        self._values, self._lifts = _values(scored), _lifts(scored, self._primary)
        self._frames: dict[str, _Frame] = {}
        self._placed: dict[int, Mapping[Variant, int]] = {}
        self._decoded = lru_cache(maxsize=256)(self._decode)  # of a tile and of its cut-out

    @property
    def is_limited(self) -> bool:
        """Whether there are pictures here that the viewer cannot open, to keep the page small."""
        return len(self._closer) < len(self.exemplars)

    def looked_at(self) -> Iterator[tuple[int, Picture, list[int]]]:
        """Yield each picture that a tile shows, its number, and the places of its heatmaps.

        Of an exemplar these are all, so that it can be seen under every technique and model.
        """
        for place, heatmaps in self.looks.items():
            picture = self.run.pictures[place]
            everything = range(len(explained(picture)))
            yield place, picture, [*everything] if EXEMPLAR in picture["why"] else sorted(heatmaps)

    def worst(self, variant: Variant) -> list[Picture]:
        """Return the worst pictures of a technique: of several, those of this target's own."""
        found = [one for one in self.pictures if WORST + variant.technique in one["why"]]
        lifts = [self._lifts.get((one["item"], variant), math.nan) for one in found]
        least = min((lift for lift in lifts if not math.isnan(lift)), default=math.nan)
        own = [one for one, lift in zip(found, lifts, strict=True) if lift == least]
        return own or found

    def label(self, variant: Variant) -> str:
        """Name a kind of heatmap as far as it needs to be told from the subject's others."""
        return variant_label(self.run, variant, self.variants)

    def name(self, picture: Picture) -> str:
        """Name a picture by its factor levels, or by its id where it has none."""
        factors = self.run.factors(self.subject.image_set)
        return levels_label(picture["factors"].get(name, "") for name in factors) or str(
            picture["item"]
        )

    def full_name(self, picture: Picture) -> str:
        """Name a picture among those of other units."""
        return " · ".join(dict.fromkeys([str(picture["unit"]), self.name(picture)]))

    def answer(self, picture: Picture) -> str:
        """Say the class that the network answers; "" where its task has no classes."""
        found = strongest(self._frame(picture).about["prediction"])
        return f"answers {found.label}, {found.value}" if found else ""

    def plain(self, picture: Picture, longest: int = TILE) -> Tile:
        """Show the picture itself, nothing drawn on it, with what the network made of it."""
        alt = f"The picture {picture['item']} ({self.name(picture)})"
        image = inline(figures.fit(self._frame(picture).view, longest), alt, QUALITY)
        metrics = self.run.metrics("behaviour")
        told = [one.get("metric") for one in self.run.summary.get("findings", ())]
        order = [name for name in told if name in metrics] + metrics
        scores = (self._score(picture["item"], Variant(), name) for name in order)
        score = next(filter(None, scores), "")
        return Tile(image, self.name(picture), score, look=self._look(picture))

    def heat(self, picture: Picture, variant: Variant, longest: int = TILE) -> Tile:
        """Show a heatmap over the picture, the mask outlined, with its primary score."""
        label = self.label(variant)
        found = self._heatmap(picture, variant)
        if isinstance(found, str):
            return Tile(None, label, found)
        heatmap, dead = found
        frame = self._frame(picture)
        score = self._score(picture["item"], variant, self._primary)
        alt = f"{label} over {picture['item']} ({self.name(picture)}): {score or 'no score'}"
        view = figures.fit(frame.view, longest)
        pixels = self._outlined(figures.overlay(view, heatmap), frame)
        notes = ("dead: zero everywhere",) if dead else ()
        image = inline(pixels, "; ".join([alt, *notes]), QUALITY)
        return Tile(image, label, score, notes, look=self._look(picture, variant))

    def channels(self, picture: Picture, technique: str) -> Tile | None:
        """Show the first channels of a layer side by side; none where it was not asked for."""
        entry = next((one for one in picture["heatmaps"] if one["technique"] == technique), None)
        if entry is None or entry["key"] is None:
            return entry and Tile(None, "", lacking(entry))
        about = json.loads(self.run.store.read(entry["key"], "heatmap.json"))
        strip = figures.decode_grey(self.run.store.read(entry["key"], "channels.png"))
        laid = figures.montage(np.split(strip, about["shown"]), CHANNELS_ACROSS, CHANNEL)
        count = f"{about['shown']} of {plural(about['channels'], 'channel')}"
        where = f"{entry['layer']} of {self.subject.model} for {picture['item']}"
        variant = Variant(technique, "", entry["layer"])
        scores = [
            self._score(picture["item"], variant, one) for one in self.run.metrics("channels")
        ]
        alt = "; ".join(filter(None, [f"The first {count} of {where}", *scores]))
        return Tile(inline(laid, alt, QUALITY), "", ", ".join(filter(None, scores)), (), count)

    def region(self, picture: Picture, variant: Variant) -> Tile:
        """Cut out what lies over the threshold of a heatmap's range."""
        label = self.label(variant)
        found = self._heatmap(picture, variant)
        if isinstance(found, str):
            return Tile(None, label, found)
        view = figures.fit(self._frame(picture).view, CUT_OUT)
        region = figures.interesting_region(view, found[0])
        if region is None:
            return Tile(None, label, "no region: the heatmap is the same everywhere")
        alt = f"Interesting region of {label} in {picture['item']} ({self.name(picture)})"
        share = f"{percentage(region.share)} of the picture"
        return Tile(inline(region.crop, f"{alt}: {share}", QUALITY), label, share)

    def card(self, picture: Picture) -> Card:
        """Set the picture beside the network's input and answer."""
        frame = self._frame(picture)
        received = figures.decode(self.run.store.read(picture["key"], "input.png"))
        height, width = received.shape[:2]
        name = picture["item"]
        scores = [(self.run.title("metrics", one), one) for one in self.run.metrics("behaviour")]
        texts = [(title, self._value(name, Variant(), metric)) for title, metric in scores]
        return Card(
            title=self.name(picture),
            look=self._look(picture),
            view=inline(figures.fit(self._view(picture), CARD), f"The picture {name}", QUALITY),
            received=inline(received, f"{name} as the network receives it", None),
            size=f"{width} × {height} pixels",
            prediction=prediction(frame.about["prediction"], str(name)),
            scores=tuple((title, text) for title, text in texts if text),
        )

    def measured(self, picture: Picture, variant: Variant) -> list[tuple[str, str, str]]:
        """Return each metric of heatmaps that has a value here: title, value, and name."""
        several = len(self.about(picture).get("regions", ())) > 1
        found = []
        for kind, on in (("overlap", f", on {self.outlined}" * several), ("faithfulness", "")):
            for name in self.run.metrics(kind):
                if value := self._value(picture["item"], variant, name):
                    found.append((f"{self.run.title('metrics', name)}{on}", value, name))
        return found

    def about(self, picture: Picture) -> Mapping[str, Any]:
        """Return a picture's record: its regions and the network's answer."""
        return self._frame(picture).about

    def _frame(self, picture: Picture) -> _Frame:
        key = picture["key"]
        if key not in self._frames:
            read = self.run.store.read
            about = json.loads(read(key, "picture.json"))
            files = {one["name"]: one["file"] for one in about.get("regions", ())}
            mask = files.get(self.outlined)
            self._frames[key] = _Frame(
                view=figures.fit(self._view(picture), TILE),
                mask=figures.decode_grey(read(key, mask)) if mask else None,
                about=about,
            )
        return self._frames[key]

    def _view(self, picture: Picture) -> figures.Pixels:
        return figures.decode(self.run.store.read(picture["key"], "view.webp"))

    def _outlined(self, pixels: figures.Pixels, frame: _Frame) -> figures.Pixels:
        return pixels if frame.mask is None else figures.outline(pixels, frame.mask)

    def _heatmap(self, picture: Picture, variant: Variant) -> tuple[figures.Pixels, bool] | str:
        """Return a picture's heatmap and whether it is dead, or the reason why there is none."""
        place = self._places(picture).get(variant)
        if place is None:
            return "no heatmap"
        one = explained(picture)[place]
        return lacking(one) if one["key"] is None else self._decoded(one["key"])

    def _places(self, picture: Picture) -> Mapping[Variant, int]:
        """Return where a picture's record has each kind of heatmap."""
        if id(picture) not in self._placed:
            variants = map(variant_of, explained(picture))
            self._placed[id(picture)] = {one: place for place, one in enumerate(variants)}
        return self._placed[id(picture)]

    def _decode(self, key: str) -> tuple[figures.Pixels, bool]:
        about = json.loads(self.run.store.read(key, "heatmap.json"))
        code = figures.decode_grey(self.run.store.read(key, "heatmap.png"))
        return figures.shown(code, about["brightest"]), bool(about["dead"])

    def _look(self, picture: Picture, variant: Variant | None = None) -> str:
        """Return what the viewer opens at a tile, and note that it has to be able to."""
        if id(picture) not in self._closer:
            return ""
        number = self.numbers[id(picture)]
        places = self.looks.setdefault(number, set())
        if variant is None:
            return str(number)
        place = self._places(picture)[variant]
        places.add(place)
        return f"{number}.{place}"

    def _value(self, item: str, variant: Variant, metric: str) -> str:
        value = self._values.get((item, variant, metric))
        return "" if value is None else number(value, self.run.scale(metric))

    def _score(self, item: str, variant: Variant, metric: str) -> str:
        value = self._value(item, variant, metric)
        return f"{self.run.title('metrics', metric)} {value}" if value else ""


def explained(picture: Picture) -> list[Mapping[str, Any]]:
    """Return a picture's heatmaps, without its views of layers, which explain nothing."""
    return [one for one in picture["heatmaps"] if one["target"]]


def lacking(record: Mapping[str, Any]) -> str:
    """Say why a heatmap, channels or filters are not there."""
    status = STATUSES.get(record["status"], str(record["status"]))
    return f"{status}: {record['reason']}" if record["reason"] else status


def _scored(run: Run, subject: Subject) -> tuple[pd.DataFrame, str, str]:
    """Return the rows of the subject's tiles that have a value, its primary metric and region."""
    rows = run.rows_shown
    mine = rows[(rows["model"] == subject.model) & (rows["image_set"] == subject.image_set)]
    overlap = run.metrics("overlap")
    primary = overlap[0] if overlap else ""
    region = min(mine.loc[mine["metric"] == primary, "region"], default="")
    scored = mine[(mine["status"] == "ok") & mine["region"].isin(["", region])]
    return scored, primary, region


def _values(scored: pd.DataFrame) -> dict[tuple[str, Variant, str], float]:
    """Return values by (item, variant, metric)."""
    columns = ["item", "technique", "target", "layer", "metric", "value"]
    values: dict[tuple[str, Variant, str], float] = {}
    for item, technique, target, layer, metric, value in scored[columns].itertuples(index=False):
        values[item, Variant(technique, target, layer), metric] = float(value)
    return values


def _lifts(scored: pd.DataFrame, primary: str) -> dict[tuple[str, Variant], float]:
    """Return the lifts of the primary metric by (item, variant)."""
    own = scored.loc[scored["metric"] == primary, ["item", "technique", "target", "layer", "lift"]]
    lines = own.itertuples(index=False)
    return {(item, Variant(*variant)): float(lift) for item, *variant, lift in lines}
