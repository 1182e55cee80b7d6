"""Grids across models, techniques and targets: the same pictures, one side of the grid changing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

from cnnaudit.report.cells import REFERENCE, in_order, plural
from cnnaudit.report.run import Run, Subject, Variant
from cnnaudit.report.tiles import TILE, Gallery, Panel, Picture, Tile, Tiles

# Exemplars shown where no grid chooses among them: fewer where their tiles would not fit a mail.
MOST_ITEMS, MOST_TILES = 12, 1500
FEW_COLUMNS, SMALL = 3, 200  # above so many columns a tile's longer side has so many pixels
IMAGE, MODEL, TECHNIQUE, TARGET = "image", "model", "technique", "target"

Declared = Mapping[str, Any]
Sides = Mapping[str, str]  # which picture, model, technique and target a tile is about


@dataclass(frozen=True)
class AcrossModels:
    """The grids of one image set that span several models."""

    image_set: str
    galleries: tuple[Gallery, ...]
    omitted: str  # what is not shown of the exemplars


def across_models(run: Run, tiles: Mapping[Subject, Tiles]) -> list[AcrossModels]:
    """Prepare the grids of which one side is the models, by image set."""
    found = []
    for image_set in run.catalogue["image_sets"]:
        mine = {one.model: made for one, made in tiles.items() if one.image_set == image_set}
        galleries = [
            gallery
            for declared in run.facet_grids(image_set)
            if MODEL in (declared["rows"], declared["cols"])
            for gallery in facet_galleries(run, image_set, mine, declared)
        ]
        if galleries:
            exemplars = {one["item"] for made in mine.values() for one in made.exemplars}
            left_out = max(made.left_out for made in mine.values())
            left = omitted(len(exemplars) + left_out - most_items(run, image_set))
            found.append(AcrossModels(image_set, tuple(galleries), left))
    return found


def most_items(run: Run, image_set: str) -> int:
    """Return how many exemplars have a place where all could be shown, and the page stays small."""
    tiles: Counter[str] = Counter()
    for picture in run.pictures:
        if picture["image_set"] == image_set:
            tiles[picture["item"]] += len(picture["heatmaps"])
    each = max([1, *tiles.values()]) * max(1, len(run.facet_grids(image_set)))
    return max(1, min(MOST_ITEMS, MOST_TILES // each, run.most))


def omitted(left: int) -> str:
    """Say how many exemplars the page leaves out."""
    more = plural(left, "more exemplar picture")
    return f"{more} left out to keep this page small; the numbers count every picture" * (left > 0)


def shows_every_image(declared: Declared) -> bool:
    """Say whether a grid has a place for every exemplar, and not for one unit's alone."""
    sides = {declared["rows"], declared["cols"]}
    return IMAGE in sides or sides <= {MODEL, TECHNIQUE, TARGET}


def facet_galleries(
    run: Run, image_set: str, tiles: Mapping[str, Tiles], declared: Declared
) -> list[Gallery]:
    """Return a grid's panels, one per technique and target that it does not span.

    `tiles` are those of each model. A grid that spans no pictures has a gallery for each, and one
    of several panels per technique has a gallery for each technique.
    """
    grid = _Facets(run, image_set, tiles, declared)
    return list(grid.galleries()) if grid.has_places() else []


class _Facets:
    """Makes the panels of one declared grid."""

    def __init__(
        self, run: Run, image_set: str, tiles: Mapping[str, Tiles], declared: Declared
    ) -> None:
        self.run, self.image_set = run, image_set
        self.tiles = {model: made for model, made in tiles.items() if made.exemplars}
        self.rows, self.cols = str(declared["rows"]), str(declared["cols"])
        self.wanted = declared.get("levels") or ()
        self.spans_pictures = bool({self.rows, self.cols} - {MODEL, TECHNIQUE, TARGET})
        self.pictures_across = self._key(self.cols) == IMAGE
        self.of_one_model = MODEL not in (self.rows, self.cols)
        self.pictures: dict[str, dict[str, Picture]] = {}  # item → model → its picture
        for model, made in self.tiles.items():
            for one in made.exemplars:
                self.pictures.setdefault(str(one["item"]), {})[model] = one
        variants = [one for made in self.tiles.values() for one in made.variants]
        self.techniques = list(dict.fromkeys(one.technique for one in variants))
        explained = {one.target for one in variants}
        self.targets = [target for target in run.targets() if target in explained]

    def has_places(self) -> bool:
        """Say whether there is anything to show."""
        return bool(self.levels(self.rows) and self.levels(self.cols) and self.techniques)

    def levels(self, side: str) -> list[tuple[str, str]]:
        """Return what a side of the grid holds, each with its label."""
        if side == MODEL:
            return [(model, self.run.model_label(model)) for model in self.tiles]
        if side == TECHNIQUE:
            return [(name, self.run.title("techniques", name)) for name in self.techniques]
        if side == TARGET:
            return [(name, name) for name in self.targets]
        if side == IMAGE:
            shown = islice(self.pictures.items(), most_items(self.run, self.image_set))
            return [(item, self._name(found)) for item, found in shown]
        return self._factor_levels(side)

    def galleries(self) -> Iterator[Gallery]:
        """Yield the grid's panels under their headings."""
        sides = (self.rows, self.cols)
        images = [("", "")] if self.spans_pictures else self.levels(IMAGE)
        techniques = [""] if TECHNIQUE in sides else self.techniques
        targets = [""] if TARGET in sides else self._targets()
        apart = [[one] for one in techniques] if len(targets) > 1 else [techniques]
        for (item, name), group in product(images, apart):
            title = self.run.title("techniques", group[0]) if len(apart) > 1 else ""
            parts = [f"{self.rows} × {self.cols}", name, title]
            panels = [
                self._panel({IMAGE: item, TECHNIQUE: technique, TARGET: target})
                for technique, target in product(group, targets)
                if not self._is_repeated(technique, target)
            ]
            yield ": ".join(filter(None, parts)), tuple(panels)

    def _panel(self, fixed: Sides) -> Panel:
        technique = self.run.title("techniques", fixed[TECHNIQUE])
        down, across = self.levels(self.rows), self.levels(self.cols)
        longest = TILE if len(across) <= FEW_COLUMNS else SMALL
        places = [
            [{**fixed, self._key(self.rows): row, self._key(self.cols): col} for col, _ in across]
            for row, _ in down
        ]
        columns = [label for _, label in across]
        rows: list[tuple[str, tuple[Tile | None, ...]]] = [
            (label, tuple(self._heat(place, longest) for place in line))
            for (_, label), line in zip(down, places, strict=True)
        ]
        if self.pictures_across:  # the plain pictures above, else at the left
            rows.insert(0, ("picture", tuple(self._plain(place, longest) for place in places[0])))
        else:
            columns.insert(0, "picture")
            rows = [
                (label, (self._plain(line[0], longest), *found))
                for (label, found), line in zip(rows, places, strict=True)
            ]
        corner = f"{self.rows} ↓ {self.cols} →"
        return Panel(
            title=", ".join(filter(None, (technique, fixed[TARGET]))) or "The heatmaps",
            detail=self._layers(fixed),
            corner=corner,
            columns=tuple(columns),
            rows=tuple(rows),
            brightest=self.run.brightest(
                [fixed[TECHNIQUE]] if fixed[TECHNIQUE] else self.techniques
            ),
            references=self.run.references(() if fixed[TECHNIQUE] else self.techniques),
        )

    def _heat(self, place: Sides, longest: int) -> Tile | None:
        for model, picture in self._shown(place):
            made = self.tiles[model]
            variant = self._variant(made, place)
            if variant is None:
                return Tile(None, "", "no such heatmap")
            tile = made.heat(picture, variant, longest)
            return tile if self.of_one_model else replace(tile, detail=made.answer(picture))
        return None

    def _plain(self, place: Sides, longest: int) -> Tile | None:
        """Show a picture, with what it is answered where all tiles beside it are of one model."""
        for model, picture in self._shown(place):
            made = self.tiles[model]
            tile = made.plain(picture, longest)
            if self.of_one_model or (self.rows == MODEL and not self.pictures_across):
                return replace(tile, detail=made.answer(picture))
            return replace(tile, score="")
        return None

    def _shown(self, place: Sides) -> list[tuple[str, Picture]]:
        """Return each model's picture of a place; one without a model is any model's."""
        found = self.pictures[place[IMAGE]]
        return [(name, one) for name, one in found.items() if place.get(MODEL, name) == name]

    def _variant(self, made: Tiles, place: Sides) -> Variant | None:
        """Return what a model has of a technique; without a target, whatever it explains."""
        for one in made.variants:
            if one.technique == place[TECHNIQUE] and place[TARGET] in ("", one.target):
                return one
        return None

    def _factor_levels(self, factor: str) -> list[tuple[str, str]]:
        """Return the first unit's picture at each level, the levels as declared."""
        found: dict[str, str] = {}
        unit = None
        for pictures in self.pictures.values():
            picture = next(iter(pictures.values()))
            level = picture["factors"].get(factor)
            if level and unit in (None, picture["unit"]):
                unit = picture["unit"]
                found.setdefault(level, str(picture["item"]))
        declared = self.run.levels(self.image_set).get(factor, ())
        wanted = self.wanted if factor == self.rows else ()
        fitting = [level for level in found if level in (wanted or found)]
        levels = in_order(wanted or declared, fitting)
        return [(found[level], level) for level in levels]

    def _name(self, pictures: Mapping[str, Picture]) -> str:
        model, picture = next(iter(pictures.items()))
        return self.tiles[model].full_name(picture)

    def _targets(self) -> list[str]:
        """Return every target where a model has several; else "", whatever it explains."""
        several = any(len({one.target for one in m.variants}) > 1 for m in self.tiles.values())
        return self.targets if several else [""]

    def _is_repeated(self, technique: str, target: str) -> bool:
        """Say whether a panel would repeat another: a reference sees no target."""
        return self.run.is_reference(technique) and target not in ("", self.targets[0])

    def _layers(self, fixed: Sides) -> str:
        if self.run.is_reference(fixed[TECHNIQUE]):
            return REFERENCE
        variants = [one for made in self.tiles.values() for one in made.variants]
        mine = [one.layer for one in variants if one.technique == fixed[TECHNIQUE]]
        return ", ".join(dict.fromkeys(filter(None, mine)))

    def _key(self, side: str) -> str:
        return side if side in (MODEL, TECHNIQUE, TARGET) else IMAGE
