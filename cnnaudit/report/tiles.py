"""The report's pictures: heatmap grids, what the network receives, cut-outs and worst cases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cnnaudit import figures
from cnnaudit.report.cells import STATUSES, levels_label, number, plural
from cnnaudit.report.prediction import Image, Prediction, inline, prediction
from cnnaudit.report.run import Run, Subject, Variant
from cnnaudit.report.tables import variant_label, variants

TILE, CUT_OUT = 320, 150  # longest side of a picture as shown, in pixels
QUALITY = 70
MOST_ITEMS = 12  # exemplars shown of an image set that declares no grid
EXEMPLAR, WORST = "exemplar", "worst: "

Picture = Mapping[str, Any]


@dataclass(frozen=True)
class Tile:
    """A picture with what it shows and its number; without a picture, the reason."""

    image: Image | None
    label: str
    score: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panel:
    """A table of tiles."""

    title: str
    detail: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Tile | None, ...]], ...]
    heat: bool  # whether its tiles are coloured by the scale


@dataclass(frozen=True)
class Card:
    """One exemplar: the picture, what the network receives of it, and what it answers."""

    title: str
    view: Image
    received: Image
    size: str
    prediction: Prediction
    scores: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SubjectPictures:
    """Every picture about one model on one image set."""

    subject: Subject
    unit: str  # which unit the grids show; "" where every exemplar is shown
    omitted: str  # what is not shown of the exemplars
    galleries: tuple[tuple[str, tuple[Panel, ...]], ...]  # (heading, panels); the first is open
    cards: tuple[Card, ...]  # of the first grid
    more_cards: tuple[Card, ...]
    regions: tuple[Panel, ...]
    worst: tuple[tuple[str, tuple[Tile, ...]], ...]  # technique → its worst cases


def subject_pictures(run: Run, subject: Subject) -> SubjectPictures:
    """Prepare the pictures about one model on one image set."""
    maker = _Maker(run, subject)
    placed = [grid.pictures() for grid in maker.grids]
    shown = maker.exemplars if maker.grids else maker.exemplars[:MOST_ITEMS]
    rest = [one for one in shown if not any(one in pictures for pictures in placed)]
    first = placed[0] if placed else rest
    return SubjectPictures(
        subject=subject,
        unit=maker.unit() if maker.grids else "",
        omitted=maker.omitted(len(shown)),
        galleries=maker.galleries(rest),
        cards=tuple(maker.card(one) for one in first),
        more_cards=tuple(maker.card(one) for one in shown if one not in first),
        regions=maker.strip(first, maker.region_tile, "Cut-outs", heat=False),
        worst=maker.worst(),
    )


@dataclass(frozen=True)
class _Grid:
    rows: str
    cols: str
    down: tuple[str, ...]  # levels
    across: tuple[str, ...]
    cells: Mapping[tuple[str, str], Picture]

    def pictures(self) -> list[Picture]:
        places = [(row, column) for row in self.down for column in self.across]
        return [self.cells[place] for place in places if place in self.cells]


@dataclass
class _Frame:
    """A picture's files, decoded once for all tiles that show it."""

    view: figures.Pixels
    mask: figures.Pixels | None
    about: Mapping[str, Any]


class _Maker:
    """Makes the pictures of one subject from the illustrations and their cells."""

    def __init__(self, run: Run, subject: Subject) -> None:
        self.run, self.subject = run, subject
        self.about = run.about("image_sets", subject.image_set)
        self.variants = variants(run, subject)
        self.values, self.primary, self.region = _values(run, subject)
        self.frames: dict[str, _Frame] = {}
        self.pictures = [
            one
            for one in run.pictures
            if (one["model"], one["image_set"]) == (subject.model, subject.image_set) and one["key"]
        ]
        exemplars = [one for one in self.pictures if EXEMPLAR in one["why"]]
        self.grids = self._grids(exemplars)
        if self.grids:  # one unit: the same thing under every condition
            unit = self.grids[0].pictures()[0]["unit"]
            self.exemplars = [one for one in exemplars if one["unit"] == unit]
        else:
            self.exemplars = exemplars
        self.found = len(exemplars)

    def unit(self) -> str:
        """Name the unit that the grids show, and what it is where its name does not say so."""
        name, kind = str(self.exemplars[0]["unit"]), self.run.unit(self.subject.image_set)
        return name if name.startswith(kind) else f"{kind} {name}"

    def omitted(self, shown: int) -> str:
        """Say how many exemplars the page leaves out."""
        left = self.found - shown
        return f"{plural(left, 'more exemplar picture')} in the store, not shown here" * (left > 0)

    def galleries(self, rest: Sequence[Picture]) -> tuple[tuple[str, tuple[Panel, ...]], ...]:
        """Return the panels of each grid, and of the exemplars that no grid has a place for."""
        found = [(f"{one.rows} × {one.cols}", tuple(self.grid_panels(one))) for one in self.grids]
        found.append(("the other pictures" if self.grids else "the exemplars", self.strip(
            rest, self.heat_tile, "The pictures and their heatmaps", heat=True)))  # fmt: skip
        return tuple((heading, panels) for heading, panels in found if panels)

    def grid_panels(self, grid: _Grid) -> list[Panel]:
        """Make one panel of the plain pictures and one per technique, all of the same items."""
        plain = self._grid_panel(grid, "The pictures", "", self.plain_tile, heat=False)
        return [plain] + [
            self._grid_panel(
                grid,
                variant_label(self.run, one, self.variants),
                one.layer,
                partial(self.heat_tile, variant=one),
                heat=True,
            )
            for one in self.variants
        ]

    def strip(
        self,
        pictures: Sequence[Picture],
        tile: Callable[[Picture, Variant], Tile],
        title: str,
        *,
        heat: bool,
    ) -> tuple[Panel, ...]:
        """Make a panel with one item a row and one technique a column; none without items."""
        if not pictures or not self.variants:
            return ()
        labels = [variant_label(self.run, one, self.variants) for one in self.variants]
        rows = [
            (
                self._name(picture),
                (self.plain_tile(picture), *(tile(picture, one) for one in self.variants)),
            )
            for picture in pictures
        ]
        return (Panel(title, "", "item", ("picture", *labels), tuple(rows), heat),)

    def plain_tile(self, picture: Picture) -> Tile:
        """Show the picture itself, nothing drawn on it, with what the network made of it."""
        alt = f"The picture {picture['item']} ({self._name(picture)})"
        image = inline(self._frame(picture).view, alt, QUALITY)
        metrics = self.run.metrics("behaviour")
        told = [one["metric"] for one in self.run.summary.get("findings", ())]
        order = [name for name in told if name in metrics] + metrics
        scores = (self._score(picture["item"], Variant("", "", ""), name) for name in order)
        return Tile(image, self._name(picture), next(filter(None, scores), ""))

    def heat_tile(self, picture: Picture, variant: Variant) -> Tile:
        """Show a heatmap over the picture, the mask outlined, with its primary score."""
        label = variant_label(self.run, variant, self.variants)
        found = self._heatmap(picture, variant)
        if isinstance(found, str):
            return Tile(None, label, found)
        heatmap, dead = found
        frame = self._frame(picture)
        score = self._score(picture["item"], variant, self.primary)
        alt = f"{label} over {picture['item']} ({self._name(picture)}): {score or 'no score'}"
        pixels = self._outlined(figures.overlay(frame.view, heatmap), frame)
        notes = ("dead: zero everywhere",) if dead else ()
        return Tile(inline(pixels, "; ".join([alt, *notes]), QUALITY), label, score, notes)

    def region_tile(self, picture: Picture, variant: Variant) -> Tile:
        """Cut out what lies over the threshold of a heatmap's range."""
        label = variant_label(self.run, variant, self.variants)
        found = self._heatmap(picture, variant)
        if isinstance(found, str):
            return Tile(None, label, found)
        view = figures.fit(self._frame(picture).view, CUT_OUT)
        region = figures.interesting_region(view, found[0])
        if region is None:
            return Tile(None, label, "no region: the heatmap is the same everywhere")
        alt = f"Interesting region of {label} in {picture['item']} ({self._name(picture)})"
        share = f"{region.share:.0%} of the picture"
        return Tile(inline(region.crop, f"{alt}: {share}", QUALITY), label, share)

    def card(self, picture: Picture) -> Card:
        """Set the picture beside the network's input and answer."""
        frame = self._frame(picture)
        received = figures.decode(self.run.store.read(picture["key"], "input.png"))
        height, width = received.shape[:2]
        name = picture["item"]
        scores = [(self.run.title("metrics", one), one) for one in self.run.metrics("behaviour")]
        texts = [
            (title, self._value(name, Variant("", "", ""), metric)) for title, metric in scores
        ]
        return Card(
            title=self._name(picture),
            view=inline(frame.view, f"The picture {name}", QUALITY),
            received=inline(received, f"{name} as the network receives it", None),
            size=f"{width} × {height} pixels",
            prediction=prediction(frame.about["prediction"], str(name)),
            scores=tuple((title, text) for title, text in texts if text),
        )

    def worst(self) -> tuple[tuple[str, tuple[Tile, ...]], ...]:
        """Gather each technique's worst cases."""
        found = []
        for variant in self.variants:
            mine = [one for one in self.pictures if WORST + variant.technique in one["why"]]
            tiles = [self._named(self.heat_tile(one, variant), one) for one in mine]
            found.append((variant_label(self.run, variant, self.variants), tuple(tiles)))
        return tuple((label, tiles) for label, tiles in found if tiles)

    def _named(self, tile: Tile, picture: Picture) -> Tile:
        label = " · ".join(dict.fromkeys([str(picture["unit"]), self._name(picture)]))
        return Tile(tile.image, label, tile.score, tile.notes)

    def _grid_panel(
        self, grid: _Grid, title: str, detail: str, tile: Callable[[Picture], Tile], *, heat: bool
    ) -> Panel:
        rows = [
            (row, tuple(_tile_or_none(grid.cells.get((row, one)), tile) for one in grid.across))
            for row in grid.down
        ]
        corner = f"{grid.rows} ↓ {grid.cols} →"
        return Panel(title, detail, corner, grid.across, tuple(rows), heat)

    def _grids(self, exemplars: Sequence[Picture]) -> list[_Grid]:
        made = [self._grid(one, exemplars) for one in self.about.get("grids") or []]
        return [grid for grid in made if grid.cells]

    def _grid(self, declared: Mapping[str, Any], exemplars: Sequence[Picture]) -> _Grid:
        rows, cols, wanted = declared["rows"], declared["cols"], declared.get("levels")
        unit: Any = None
        cells: dict[tuple[str, str], Picture] = {}
        for picture in exemplars:
            levels = picture["factors"]
            fits = levels.get(rows) in wanted if wanted else levels.get(rows)
            if not (fits and levels.get(cols)):
                continue
            unit = picture["unit"] if unit is None else unit
            if picture["unit"] == unit:
                cells.setdefault((levels[rows], levels[cols]), picture)
        order = self.about.get("levels", {})
        down = _in_order(wanted or order.get(rows, ()), (row for row, _ in cells))
        across = _in_order(order.get(cols, ()), (column for _, column in cells))
        return _Grid(rows, cols, down, across, cells)

    def _frame(self, picture: Picture) -> _Frame:
        key = picture["key"]
        if key not in self.frames:
            read = self.run.store.read
            about = json.loads(read(key, "picture.json"))
            files = {one["name"]: one["file"] for one in about.get("regions", ())}
            mask = files.get(self.region)
            self.frames[key] = _Frame(
                view=figures.fit(figures.decode(read(key, "view.webp")), TILE),
                mask=figures.decode_grey(read(key, mask)) if mask else None,
                about=about,
            )
        return self.frames[key]

    def _outlined(self, pixels: figures.Pixels, frame: _Frame) -> figures.Pixels:
        return pixels if frame.mask is None else figures.outline(pixels, frame.mask)

    def _heatmap(self, picture: Picture, variant: Variant) -> tuple[figures.Pixels, bool] | str:
        """Return a picture's heatmap and whether it is dead, or the reason why there is none."""
        for one in picture["heatmaps"]:
            if Variant(one["technique"], one["target"], one["layer"]) != variant:
                continue
            if one["key"] is None:
                status = STATUSES.get(one["status"], one["status"])
                return f"{status}: {one['reason']}" if one["reason"] else str(status)
            dead = json.loads(self.run.store.read(one["key"], "heatmap.json"))["dead"]
            content = self.run.store.read(one["key"], "heatmap.png")
            return figures.decode_grey(content), bool(dead)
        return "no heatmap"

    def _value(self, item: str, variant: Variant, metric: str) -> str:
        value = self.values.get((item, variant, metric))
        return "" if value is None else number(value, self.run.scale(metric))

    def _name(self, picture: Picture) -> str:
        """Name a picture by its factor levels, or by its id where it has none."""
        factors = self.run.factors(self.subject.image_set)
        return levels_label(picture["factors"].get(name, "") for name in factors) or str(
            picture["item"]
        )

    def _score(self, item: str, variant: Variant, metric: str) -> str:
        value = self._value(item, variant, metric)
        return f"{self.run.title('metrics', metric)} {value}" if value else ""


def _values(run: Run, subject: Subject) -> tuple[dict[tuple[str, Variant, str], float], str, str]:
    """Return the subject's values by (item, variant, metric), its primary metric and region."""
    rows = run.rows
    mine = rows[(rows["model"] == subject.model) & (rows["image_set"] == subject.image_set)]
    wanted = {one["item"] for one in run.pictures}
    mine = mine[mine["item"].isin(wanted)]
    overlap = run.metrics("overlap")
    primary = overlap[0] if overlap else ""
    region = min(mine.loc[mine["metric"] == primary, "region"], default="")
    scored = mine[(mine["status"] == "ok") & mine["region"].isin(["", region])]
    columns = ["item", "technique", "target", "layer", "metric", "value"]
    values: dict[tuple[str, Variant, str], float] = {}
    for item, technique, target, layer, metric, value in scored[columns].itertuples(index=False):
        variant = Variant(technique, target, layer) if technique else Variant("", "", "")
        values[(item, variant, metric)] = float(value)
    return values, primary, region


def _tile_or_none(picture: Picture | None, tile: Callable[[Picture], Tile]) -> Tile | None:
    return None if picture is None else tile(picture)


def _in_order(order: Sequence[str], found: Iterable[str]) -> tuple[str, ...]:
    levels = list(dict.fromkeys(found))
    return tuple(sorted(levels, key=lambda one: order.index(one) if one in order else len(order)))
