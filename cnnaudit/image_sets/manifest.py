"""``manifest.csv``: one line per picture.

Columns: ``id``, ``image``, regions (``mask`` for the object, ``mask:shadow`` and so on; an empty
cell: this picture has no such region), ``truth`` (a label; or one value per output, with spaces
between them or in a ``.csv``), and any other column, which is a factor. Paths are relative to the
manifest.

A region is a mask file, ``box:LEFT TOP RIGHT BOTTOM`` or ``polygon:X Y X Y X Y …``, several
polygons with ``;`` between them, in pixels of the picture as it is shown: (0, 0) is its top left
corner, (width, height) the other one, and a pixel belongs when its centre lies inside.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cnnaudit.image_sets.files import file_inside, inside, picture_size
from cnnaudit.image_sets.outlines import is_outline, read_outline
from cnnaudit.types import POOLED, RESERVED_COLUMNS, AuditError, File, Item, Region

V = TypeVar("V")
REQUIRED = ("id", "image")
_EXAMPLE = {"id": "cat 1", "image": "cat-1.jpg", "mask": "cat-1-mask.png"}


def read_manifest(
    root: Path, where: str, *, manifest: str = "manifest.csv"
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return the items of a manifest and its factors; raise AuditError if it is off."""
    path = inside(root, manifest, f"{where}.manifest")
    lines = _lines(path)
    header = _header(lines, path)
    factors = tuple(
        name for name in header if name not in (*REQUIRED, "truth") and not _region(name)
    )
    clash = [name for name in factors if name in RESERVED_COLUMNS]
    if clash:
        raise AuditError(
            f"{path}: the column {clash[0]!r} has the name of a column of the results; rename it"
        )
    _check_unique([region for name in header if (region := _region(name))], path)
    shared = _Shared(root)
    items = []
    for number, row in lines:
        where = f"{path}, line {number}"
        items.append(_item(_columns(header, row, where), shared, factors, where))
    if not items:
        raise AuditError(
            f"{path} has no line yet; give each picture one below {','.join(header)}, such as "
            f"{','.join(_EXAMPLE.get(name, '') for name in header)}"
        )
    _check_unique([item.id for item in items], path)
    return tuple(items), factors


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each line's number in the file with its cells; empty ones are left out."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, [cell.strip() for cell in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AuditError(f"{path} cannot be read as a CSV file in UTF-8 ({error})") from error


def _header(lines: Iterator[tuple[int, list[str]]], path: Path) -> list[str]:
    """Take the first line and return it, the columns."""
    _, header = next(lines, (0, []))
    for name in REQUIRED:
        if name not in header:
            raise AuditError(
                f"{path}: the column {name!r} is missing; found are {', '.join(header) or 'none'}"
            )
    for number, name in enumerate(header, 1):
        if name in ("", "mask:"):
            raise AuditError(f"{path}: column {number} has no name, {name!r} stands there")
    _check_unique(header, path)
    return header


def _columns(header: list[str], row: list[str], where: str) -> dict[str, str]:
    if len(row) != len(header):
        raise AuditError(f"{where}: {len(row)} cells, {len(header)} columns are declared")
    return dict(zip(header, row, strict=True))


class _Shared:
    """What many items have in common, held once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, File] = {}
        self._mappings: dict[Any, Any] = {}

    def file(self, cell: str, where: str) -> File:
        """Return the file below the root that a cell names."""
        if cell not in self._files:
            self._files[cell] = file_inside(self.root, cell, where)
        return self._files[cell]

    def one(self, mapping: dict[str, V]) -> Mapping[str, V]:
        """Return the first mapping that was equal to this one."""
        found: Mapping[str, V] = self._mappings.setdefault(tuple(mapping.items()), mapping)
        return found


def _item(line: Mapping[str, str], shared: _Shared, factors: tuple[str, ...], where: str) -> Item:
    for name in factors:
        if line[name] == POOLED:
            raise AuditError(
                f"{where}: the level {POOLED!r} of {name!r} stands for all levels in the results; "
                "call it otherwise"
            )
    if not line["id"]:
        raise AuditError(f"{where}: the id is empty")
    image = file_inside(shared.root, line["image"], f"{where}, image")
    regions = {}
    for name, cell in line.items():
        if cell and (region := _region(name)):
            found = _read_region(cell, image, shared, f"{where}, {name}")
            if found is not None:
                regions[region] = found
    truth: str | File | None = line.get("truth") or None
    if isinstance(truth, str) and truth.lower().endswith(".csv"):
        truth = shared.file(truth, f"{where}, truth")
    return Item(
        id=line["id"],
        image=image,
        regions=shared.one(regions),
        truth=truth,
        factors=shared.one({name: line[name] for name in factors if line[name]}),
    )


def _read_region(cell: str, image: File, shared: _Shared, where: str) -> Region | None:
    """Return a region; None of an outline in a picture that cannot be read, and so will fail."""
    if not is_outline(cell):
        return shared.file(cell, where)
    try:
        size = picture_size(image.path, where)
    except AuditError:
        return None
    return read_outline(cell, size, where)


def _region(column: str) -> str:
    """Return the region that a column declares, or an empty text if it declares none."""
    if column == "mask":
        return "mask"
    return column.removeprefix("mask:").strip() if column.startswith("mask:") else ""


def _check_unique(names: list[str], path: Path) -> None:
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise AuditError(f"{path}: {name!r} stands there {times} times")
