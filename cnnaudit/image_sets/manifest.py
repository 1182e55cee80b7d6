"""``manifest.csv``: one line per picture.

Columns: ``id``, ``image``, regions (``mask`` for the object, ``mask:shadow`` and so on; an empty
cell: this picture has no such region), ``truth`` (a label, or a ``.csv`` with one value per
output), and any other column, which is a factor. Paths are relative to the manifest.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cnnaudit.image_sets.files import inside
from cnnaudit.types import RESERVED_COLUMNS, AuditError, Item

REQUIRED = ("id", "image")


def read_manifest(
    root: Path, where: str, *, manifest: str = "manifest.csv"
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return the items of a manifest and its factors; raise AuditError if it is off."""
    path = inside(root, manifest, f"{where}.manifest")
    header, lines = _read(path)
    factors = tuple(
        name for name in header if name not in (*REQUIRED, "truth") and not _region(name)
    )
    clash = [name for name in factors if name in RESERVED_COLUMNS]
    if clash:
        raise AuditError(
            f"{path}: the column {clash[0]!r} has the name of a column of the results; rename it"
        )
    items = [_item(line, root, factors, f"{path}, line {n}") for n, line in enumerate(lines, 2)]
    _check_unique([item.id for item in items], path)
    return tuple(items), factors


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AuditError(f"{path} cannot be read as a CSV file in UTF-8 ({error})") from error
    header = [name.strip() for name in rows[0]] if rows else []
    for name in REQUIRED:
        if name not in header:
            raise AuditError(
                f"{path}: the column {name!r} is missing; found are {', '.join(header) or 'none'}"
            )
    _check_unique(header, path)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise AuditError(
                f"{path}, line {number}: {len(row)} cells, {len(header)} columns are declared"
            )
    cells = [[cell.strip() for cell in row] for row in rows[1:]]
    return header, [dict(zip(header, row, strict=True)) for row in cells]


def _item(line: Mapping[str, str], root: Path, factors: tuple[str, ...], where: str) -> Item:
    if not line["id"]:
        raise AuditError(f"{where}: the id is empty")
    regions = {
        region: inside(root, cell, f"{where}, {name}")
        for name, cell in line.items()
        if (region := _region(name)) and cell
    }
    truth: str | Path | None = line.get("truth") or None
    if truth is not None and str(truth).endswith(".csv"):
        truth = inside(root, str(truth), f"{where}, truth")
    return Item(
        id=line["id"],
        image=inside(root, line["image"], f"{where}, image"),
        regions=regions,
        truth=truth,
        factors={name: line[name] for name in factors if line[name]},
    )


def _region(column: str) -> str:
    """Return the region that a column declares, or an empty text if it declares none."""
    return "mask" if column == "mask" else column.partition("mask:")[2]


def _check_unique(names: list[str], path: Path) -> None:
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise AuditError(f"{path}: {name!r} stands there {times} times")
