"""How far two heatmaps agree: Spearman's correlation over the pixels; no mask is needed.

Two targets, models or techniques are compared on the same image, two levels of a factor on the
paired images of a contrast.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import combinations, product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from cnnaudit.image_sets.files import picture_size
from cnnaudit.models.preprocessing import frame_box
from cnnaudit.specs import AgreementSpec, AuditSpec, ContrastSpec
from cnnaudit.statistics import estimate, say, unit_ranks
from cnnaudit.store import Store, cell_key, digest_list
from cnnaudit.types import MAPS_FILE, MAPS_OF_FILE, POOLED, AuditError, Cell, ImageSet, Item

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ABOUT = ["image_set", "between", "within", "model", "target", "technique", "first", "second"]
COLUMNS = [*ABOUT, "correlation", "low", "high", "units", "scored", "total", "status"]
_RANKS_HELD = 512  # heatmaps whose ranks are kept: one item under every request, and more


@dataclass(frozen=True)
class Compared:
    """What is compared on one image set, and the cells that keep its heatmaps."""

    spec: AgreementSpec
    contrast: ContrastSpec | None
    image_set: ImageSet
    cells: Sequence[Cell]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What determines the correlations, and what is said of each."""
        image_set = self.image_set
        items = ([one.id, image_set.unit_of(one), dict(one.factors)] for one in image_set.items)
        return {
            "kind": "agreement",
            "between": asdict(self.spec),
            "contrast": self.contrast and asdict(self.contrast),
            "image_set": image_set.spec.name,
            "items": digest_list(items),
            "cells": [[cell.key, *_names(cell).values()] for cell in self.cells],
        }

    @property
    def key(self) -> str:
        """The store's key of the correlations."""
        return cell_key(self.fields)


@dataclass(frozen=True)
class _Comparison:
    """Two heatmaps: each a cell and an item of it."""

    about: Mapping[str, str]
    first: tuple[Cell, Item]
    second: tuple[Cell, Item]


def to_compare(
    audit: AuditSpec, image_sets: Iterable[ImageSet], cells: Sequence[Cell]
) -> list[Compared]:
    """Return which heatmaps an audit compares with which, by image set."""
    contrasts = {contrast.name: contrast for contrast in audit.contrasts}
    found = []
    for image_set, spec in product(image_sets, audit.agreements):
        kept = [
            cell
            for cell in cells
            if cell.image_set is image_set
            and cell.request is not None
            and cell.request.technique.name in spec.techniques
        ]
        found.append(Compared(spec, contrasts.get(spec.contrast), image_set, kept))
    return found


def agreement_table(compared: Iterable[Compared], store: Store) -> pd.DataFrame:
    """Return the mean correlation over units of every two heatmaps that are compared.

    With its t interval (95 %), and how many of the compared images have one: a heatmap that is the
    same everywhere has no ranks to correlate.
    """
    lines: list[dict[str, Any]] = []
    for one in compared:
        rows = _measured(one, store)
        lines += [_line(key, part) for key, part in rows.groupby(ABOUT, sort=False)]
    return pd.DataFrame(lines, columns=COLUMNS)


def find_agreement(table: pd.DataFrame, titles: Mapping[str, str]) -> list[dict[str, str]]:
    """Say in a sentence for each kind of comparison how far heatmaps agree under each technique.

    `titles` has how a technique is called. Means are over all that is compared, and the two sides
    that agree most and least are named where there are several.
    """
    findings = []
    known = table[table.correlation.notna()]
    for (image_set, between), part in known.groupby(["image_set", "between"], sort=False):
        by_technique = part.groupby("technique", sort=False).correlation.mean().sort_values()
        means = [
            f"{say(mean)} under {titles.get(str(name), str(name))}" if name else say(mean)
            for name, mean in by_technique[::-1].items()
        ]
        sides = part.groupby(["first", "second"], sort=False).correlation.mean()
        text = f"Heatmaps of {_KINDS.get(str(between), f'the two levels of {between}')} agree by "
        text += f"{listed(means)} (mean rank correlation on {image_set})"
        if len(sides) > 1:
            pairs = [f"{first} and {second}" for first, second in sides.index]
            text += f"; most alike are {pairs[sides.argmax()]} ({say(sides.max())}), "
            text += f"least {pairs[sides.argmin()]} ({say(sides.min())})"
        findings.append({"text": f"{text}.", "image_set": str(image_set), "between": str(between)})
    return findings


_KINDS = {"target": "two targets", "model": "two models", "technique": "two techniques"}


def listed(texts: Sequence[str]) -> str:
    """Return texts as a sentence lists them."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _line(key: Any, rows: pd.DataFrame) -> dict[str, Any]:
    known = rows.dropna(subset=["correlation"])
    by_unit = known.groupby("unit")["correlation"].mean()
    return {
        **dict(zip(ABOUT, key, strict=True)),
        **averaged(by_unit.to_numpy(np.float64)),
        "scored": len(known),
        "total": len(rows),
        "status": "ok" if len(known) else "undefined: no pair has two heatmaps that vary",
    }


def averaged(correlations: Floats) -> dict[str, Any]:
    """Return the mean correlation over units as columns of a table, its interval within −1 to 1."""
    found = estimate(correlations)
    low, high = np.maximum(found.low, -1), np.minimum(found.high, 1)
    return {"correlation": found.mean, "low": low, "high": high, "units": found.units}


def _measured(work: Compared, store: Store) -> pd.DataFrame:
    """Return the correlation of every comparison, from the store if they were made before."""
    image_set, cells, key = work.image_set, work.cells, work.key
    if store.has(key):
        return pd.read_parquet(io.BytesIO(store.read(key, "agreement.parquet")))
    if work.contrast is None:
        compared = _on_the_same_image(work.spec.between, image_set, cells)
    else:
        compared = _between_levels(work.contrast, image_set, cells)
    ranks = _Ranks(store, cells)
    rows = pd.DataFrame(
        (
            {
                **one.about,
                "unit": image_set.unit_of(one.first[1]),
                "correlation": ranks.correlation(one),
            }
            for one in compared
        ),
        columns=[*ABOUT, "unit", "correlation"],
    )
    failed = not all(store.has(cell.key) for cell in cells)  # what failed may be there next time
    content = rows.to_parquet(index=False)
    store.write(key, {"agreement.parquet": content}, work.fields, again=failed)
    return rows


def _on_the_same_image(
    between: str, image_set: ImageSet, cells: Sequence[Cell]
) -> Iterator[_Comparison]:
    """Yield every two heatmaps of an item that differ in one of model, target and technique."""
    by_chunk: dict[str, dict[tuple[str, ...], list[Cell]]] = {}
    for cell in cells:
        alike = tuple(name for part, name in _names(cell).items() if part != between)
        by_chunk.setdefault(cell.chunk[0].id, {}).setdefault(alike, []).append(cell)
    for groups in by_chunk.values():
        chunk = next(iter(groups.values()))[0].chunk
        pairs = [pair for alike in groups.values() for pair in combinations(alike, 2)]
        for item in chunk:  # one item after the other: its heatmaps are ranked once
            for first, second in pairs:
                about = {"image_set": image_set.spec.name, "between": between, "within": POOLED}
                about |= {**_names(first), between: ""}
                about |= {"first": _names(first)[between], "second": _names(second)[between]}
                yield _Comparison(about, (first, item), (second, item))


def _between_levels(
    contrast: ContrastSpec, image_set: ImageSet, cells: Sequence[Cell]
) -> Iterator[_Comparison]:
    """Yield the heatmaps of the items that a contrast pairs, for every request."""
    if contrast.image_set != image_set.spec.name:
        return
    of_item: dict[str, dict[tuple[str, ...], Cell]] = {}
    for cell in cells:
        for item in cell.chunk:
            of_item.setdefault(item.id, {})[tuple(_names(cell).values())] = cell
    for first, second in _pairs(contrast, image_set):
        if not {*contrast.within} <= {*first.factors}:
            continue  # an item without a level is not at one
        within = " · ".join(first.factors[name] for name in contrast.within) or POOLED
        for names, cell in of_item.get(first.id, {}).items():
            about = {"image_set": image_set.spec.name, "between": contrast.name, "within": within}
            about |= _names(cell)
            about |= {"first": contrast.levels[0], "second": contrast.levels[1]}
            yield _Comparison(about, (cell, first), (of_item[second.id][names], second))


def _pairs(contrast: ContrastSpec, image_set: ImageSet) -> Iterator[tuple[Item, Item]]:
    """Yield the items of a contrast's two levels that agree in every block."""
    blocks: dict[tuple[str, ...], dict[str, list[Item]]] = {}
    for item in image_set.items:
        block = tuple(item.factors.get(name, "") for name in contrast.blocks)
        level = item.factors.get(contrast.factor, "")
        blocks.setdefault((image_set.unit_of(item), *block), {}).setdefault(level, []).append(item)
    for found in blocks.values():
        first, second = (found.get(level, ()) for level in contrast.levels)
        yield from product(first, second)


def _names(cell: Cell) -> dict[str, str]:
    assert cell.request is not None
    return {
        "model": cell.model.name,
        "target": cell.request.target.name,
        "technique": cell.request.technique.name,
    }


class _Ranks:
    """The ranks of kept heatmaps, over the part of a picture that all of their models see."""

    def __init__(self, store: Store, cells: Sequence[Cell]) -> None:
        self._store = store
        self._seen = list(dict.fromkeys(cell.model.preprocessing for cell in cells))
        self._held = lru_cache(_RANKS_HELD)(self._read)
        self._opened = lru_cache(_RANKS_HELD)(self._open)

    def correlation(self, one: _Comparison) -> float:
        """Return Spearman's correlation of two heatmaps, NaN where one of them has no ranks."""
        first, second = (
            self._held(cell.key, item.id, item.image.path, cell.model.preprocessing)
            for cell, item in (one.first, one.second)
        )
        return float("nan") if first is None or second is None else float(first @ second)

    def _read(self, key: str, item: str, image: Path, preprocessing: Any) -> Floats | None:
        """Return an item's ranks; None for a heatmap that does not vary."""
        items, maps = self._opened(key)
        if item not in items:
            return None
        heatmap = maps[items[item]].astype(np.float32)
        if len(self._seen) > 1:
            size = picture_size(image, f"item {item!r}")
            heatmap = self._common_part(heatmap, size, preprocessing)
        return unit_ranks(heatmap.astype(np.float64))

    def _open(self, key: str) -> tuple[dict[str, int], NDArray[np.float16]]:
        items = json.loads(self._store.read(key, MAPS_OF_FILE))
        path = self._store.path(key, MAPS_FILE)
        try:
            maps = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise AuditError(f"{path} cannot be read ({error}); run the audit again") from error
        return {item: index for index, item in enumerate(items)}, maps

    def _common_part(
        self, heatmap: NDArray[np.float32], size: tuple[int, int], preprocessing: Any
    ) -> NDArray[np.float32]:
        """Resample a heatmap to what every model sees of a picture of a size (width, height)."""
        left, top, right, bottom = frame_box(size, preprocessing)
        boxes = [frame_box(size, other) for other in self._seen]
        common = (*np.max(boxes, axis=0)[:2], *np.min(boxes, axis=0)[2:])
        h, w = heatmap.shape
        across, down = w / (right - left), h / (bottom - top)
        box = (
            (common[0] - left) * across,
            (common[1] - top) * down,
            (common[2] - left) * across,
            (common[3] - top) * down,
        )
        height, width = min((other.size for other in self._seen), key=prod)
        part = Image.fromarray(heatmap).resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(part)
