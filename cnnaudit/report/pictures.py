"""The report's pictures of one model: its grids, what it receives, cut-outs and worst cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cnnaudit.report.cells import REFERENCE, in_order
from cnnaudit.report.facets import facet_galleries, most_items, omitted, shows_every_image
from cnnaudit.report.run import Subject, Variant
from cnnaudit.report.tables import variant_label
from cnnaudit.report.tiles import Card, Gallery, Panel, Picture, Tile, Tiles

CUT_OUTS = 8  # pictures, at most, whose interesting regions are shown; the viewer cuts out all


@dataclass(frozen=True)
class SubjectPictures:
    """Every picture about one model on one image set."""

    subject: Subject
    unit: str  # which unit the grids show; "" where every exemplar is shown
    omitted: str  # what is not shown of the exemplars
    galleries: tuple[Gallery, ...]  # the first is open
    cards: tuple[Card, ...]  # of the first grid
    more_cards: tuple[Card, ...]  # of the others that any tile shows
    regions: tuple[Panel, ...]
    worst: tuple[tuple[str, tuple[Tile, ...]], ...]  # technique → its worst cases


def subject_pictures(tiles: Tiles) -> SubjectPictures:
    """Prepare the pictures about one model on one image set."""
    maker = _Maker(tiles)
    placed = [grid.pictures() for grid in maker.grids]
    most = most_items(tiles.run, tiles.subject.image_set)
    shown = maker.exemplars if maker.grids else maker.exemplars[:most]
    first = placed[0] if placed else shown
    galleries = maker.galleries([one for one in shown if not maker.has_a_place(one)])
    worst = maker.worst()
    looked_at = [picture for _, picture, _ in tiles.looked_at()]
    more = {id(one): one for one in (*shown, *looked_at) if one not in first}
    return SubjectPictures(
        subject=tiles.subject,
        unit=maker.unit() if maker.grids else "",
        omitted=omitted(len(tiles.exemplars) + tiles.left_out - len(shown)),
        galleries=galleries,
        cards=tuple(map(tiles.card, first)),
        more_cards=tuple(map(tiles.card, more.values())),
        regions=maker.strips(first[:CUT_OUTS], tiles.region, "Cut-outs", heat=False),
        worst=worst,
    )


def cards_alone(tiles: Tiles) -> SubjectPictures:
    """Prepare what goes with the tiles that grids across models show, and nothing more."""
    cards = tuple(tiles.card(picture) for _, picture, _ in tiles.looked_at())
    return SubjectPictures(tiles.subject, "", "", (), cards, (), (), ())


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


class _Maker:
    """Arranges the tiles of one subject."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles, self.run, self.subject = tiles, tiles.run, tiles.subject
        self.facets = self.run.facet_grids(self.subject.image_set)
        self.grids = self._grids()
        self.exemplars = tiles.exemplars
        if self.grids:  # one unit: the same thing under every condition
            unit = self.grids[0].pictures()[0]["unit"]
            self.exemplars = [one for one in tiles.exemplars if one["unit"] == unit]

    def unit(self) -> str:
        """Name the unit that the grids show, and what it is where its name does not say so."""
        name, kind = str(self.exemplars[0]["unit"]), self.run.unit(self.subject.image_set)
        return name if name.startswith(kind) else f"{kind} {name}"

    def has_a_place(self, picture: Picture) -> bool:
        """Say whether a declared grid shows a picture, this model's or one across models."""
        in_grid = any(picture in grid.pictures() for grid in self.grids)
        return in_grid or any(map(shows_every_image, self.facets))

    def galleries(self, rest: Sequence[Picture]) -> tuple[Gallery, ...]:
        """Return the panels of each grid, and of the exemplars that no grid has a place for."""
        found = [(f"{one.rows} × {one.cols}", tuple(self.grid_panels(one))) for one in self.grids]
        for declared in self.facets:
            if "model" not in (declared["rows"], declared["cols"]):
                mine = {self.subject.model: self.tiles}
                found += facet_galleries(self.run, self.subject.image_set, mine, declared)
        title = "The pictures and their heatmaps"
        found.append((
            "the other pictures" if found else "the exemplars",
            self.strips(rest, self.tiles.heat, title, heat=True),
        ))  # fmt: skip
        return tuple((heading, panels) for heading, panels in found if panels)

    def grid_panels(self, grid: _Grid) -> list[Panel]:
        """Make one panel of the plain pictures and one per technique, all of the same items."""
        plain = self._grid_panel(grid, "The pictures", "", self.tiles.plain, "")
        return [plain] + [
            self._grid_panel(
                grid,
                self.tiles.label(one),
                REFERENCE if self.run.is_reference(one.technique) else one.layer,
                partial(self.tiles.heat, variant=one),
                self.run.brightest([one.technique]),
            )
            for one in self.tiles.variants
        ]

    def strips(
        self,
        pictures: Sequence[Picture],
        tile: Callable[[Picture, Variant], Tile],
        title: str,
        *,
        heat: bool,
    ) -> tuple[Panel, ...]:
        """Make a panel per target, one item a row and one technique a column."""
        by_target: dict[str, list[Variant]] = {}
        for one in self.tiles.variants:
            by_target.setdefault(one.target, []).append(one)
        if not pictures:
            return ()
        return tuple(
            self._strip(
                pictures, tile, f"{title}: {target}" if len(by_target) > 1 else title, mine, heat
            )
            for target, mine in by_target.items()
        )

    def worst(self) -> tuple[tuple[str, tuple[Tile, ...]], ...]:
        """Gather the worst cases of each technique that sees the network."""
        found = []
        for variant in self.tiles.variants:
            if self.run.is_reference(variant.technique):
                continue
            mine = self.tiles.worst(variant)
            tiles = [
                replace(self.tiles.heat(one, variant), label=self.tiles.full_name(one))
                for one in mine
            ]
            found.append((self.tiles.label(variant), tuple(tiles)))
        return tuple((label, tiles) for label, tiles in found if tiles)

    def _strip(
        self,
        pictures: Sequence[Picture],
        tile: Callable[[Picture, Variant], Tile],
        title: str,
        variants: Sequence[Variant],
        heat: bool,
    ) -> Panel:
        labels = [variant_label(self.run, one, variants) for one in variants]
        end = self.run.brightest(one.technique for one in variants) if heat else ""
        rows = [
            (
                self.tiles.name(picture),
                (self.tiles.plain(picture), *(tile(picture, one) for one in variants)),
            )
            for picture in pictures
        ]
        references = self.run.references(one.technique for one in variants)
        return Panel(title, "", "item", ("picture", *labels), tuple(rows), end, references)

    def _grid_panel(
        self, grid: _Grid, title: str, detail: str, tile: Callable[[Picture], Tile], end: str
    ) -> Panel:
        rows = [
            (row, tuple(_tile_or_none(grid.cells.get((row, one)), tile) for one in grid.across))
            for row in grid.down
        ]
        corner = f"{grid.rows} ↓ {grid.cols} →"
        return Panel(title, detail, corner, grid.across, tuple(rows), end)

    def _grids(self) -> list[_Grid]:
        made = [self._grid(one) for one in self.run.grids(self.subject.image_set)]
        return [grid for grid in made if grid.cells]

    def _grid(self, declared: Mapping[str, Any]) -> _Grid:
        rows, cols, wanted = declared["rows"], declared["cols"], declared.get("levels")
        unit: Any = None
        cells: dict[tuple[str, str], Picture] = {}
        for picture in self.tiles.exemplars:
            levels = picture["factors"]
            fits = levels.get(rows) in wanted if wanted else levels.get(rows)
            if not (fits and levels.get(cols)):
                continue
            unit = picture["unit"] if unit is None else unit
            if picture["unit"] == unit:
                cells.setdefault((levels[rows], levels[cols]), picture)
        order = self.run.levels(self.subject.image_set)
        down = in_order(wanted or order.get(rows, ()), (row for row, _ in cells))
        across = in_order(order.get(cols, ()), (column for _, column in cells))
        return _Grid(rows, cols, down, across, cells)


def _tile_or_none(picture: Picture | None, tile: Callable[[Picture], Tile]) -> Tile | None:
    return None if picture is None else tile(picture)
