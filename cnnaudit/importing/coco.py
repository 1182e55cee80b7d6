"""COCO's instances: a JSON file of pictures, categories and outlined objects.

Lin et al. 2014; cocodataset.org/#format-data. A crowd (`iscrowd`) is one outline around many
objects; it belongs to its category.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnaudit.importing.writing import Annotated, LeftOut, Source, check_picture
from cnnaudit.types import AuditError

_NEEDED: Mapping[str, Mapping[str, type]] = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}
_CROWDS = "crowds, one outline around many objects, which are part of their category's mask"

_Record = Mapping[str, Any]


def read(instances: Path, images: Path) -> Source:
    """Return the pictures that an instances file names; AuditError if it is none."""
    _mask_tools()
    data = _load(instances)
    categories = {record["id"]: record["name"].strip() for record in data["categories"]}
    pictures = {record["file_name"]: record for record in data["images"]}
    if len(pictures) < len(data["images"]):
        raise AuditError(f"{instances}: a file_name stands there for several images")
    objects: dict[int, list[_Record]] = {record["id"]: [] for record in pictures.values()}
    for number, record in enumerate(data["annotations"]):
        for key, known in (("image_id", objects), ("category_id", categories)):
            if record[key] not in known:
                raise AuditError(
                    f"{instances}: annotations.{number}.{key}: there is no {record[key]}"
                )
        objects[record["image_id"]].append(record)
    return Source(
        categories=tuple(dict.fromkeys(categories.values())),
        names=tuple(pictures),
        read=partial(_read, pictures, objects, categories, images),
    )


def _load(path: Path) -> Mapping[str, Sequence[_Record]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AuditError(f"{path} cannot be read as a JSON file ({error})") from error
    for part, needed in _NEEDED.items():
        records = data.get(part) if isinstance(data, dict) else None
        if not isinstance(records, list):
            raise AuditError(f"{path} is no instances file of COCO: it has no list {part!r}")
        for number, record in enumerate(records):
            for key, kind in needed.items():
                if not isinstance(record, dict) or not isinstance(record.get(key), kind):
                    raise AuditError(f"{path}: {part}.{number}.{key} is missing, or wrong")
    return data  # type: ignore[no-any-return]


def _read(
    pictures: Mapping[str, _Record],
    objects: Mapping[int, Sequence[_Record]],
    categories: Mapping[int, str],
    images: Path,
    name: str,
) -> Annotated:
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or str(plain) != name or set(name) & set("\\\0"):
        raise LeftOut("whose file_name is no plain path below the folder")
    path, record = images / name, pictures[name]
    if not path.is_file():
        raise LeftOut("whose picture is not there", str(path))
    size = (record["height"], record["width"])
    check_picture(path, size)  # first: masks of a size that only the file claims may be huge
    regions: dict[str, NDArray[np.bool_]] = {}
    for one in objects[record["id"]]:
        mask, category = _mask(one.get("segmentation"), size), categories[one["category_id"]]
        regions[category] = regions.get(category, False) | mask
    regions = {category: mask for category, mask in regions.items() if mask.any()}
    crowds = any(one.get("iscrowd") for one in objects[record["id"]])
    return Annotated(path, tuple(regions), regions, (_CROWDS,) if crowds else ())


def _mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    if not segmentation:
        raise LeftOut("with an object that is only boxed, not outlined")
    try:
        if isinstance(segmentation, list):
            return _from_polygons(segmentation, size)
        return _from_runs(segmentation["counts"], segmentation["size"], size)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LeftOut("with an object whose outline cannot be read") from error


def _from_polygons(polygons: list[list[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    for polygon in polygons:
        # pycocotools would take four numbers for a box, and not survive a corner that is far away.
        near = all(
            math.isfinite(number) and -side <= number <= 2 * side
            for number, side in zip(polygon, (width, height) * (len(polygon) // 2), strict=True)
        )
        if len(polygon) < 6 or not near:
            raise ValueError("no polygon of this picture")
    tools = _mask_tools()
    union = tools.merge(tools.frPyObjects(polygons, height, width))
    return _from_runs(union["counts"].decode(), union["size"], size)


def _from_runs(counts: Any, declared: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of run lengths, which go down the columns: outside, inside, …

    Not by pycocotools, which shows what was in the memory where they are too short.
    """
    height, width = size
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if list(declared) != [height, width] or sum(runs) != height * width or min(runs) < 0:
        raise ValueError("runs of another picture")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _decompressed(text: str) -> list[int]:
    """Return the run lengths that COCO packs into text, five bits a letter.

    From the fourth run on they are differences to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16 > 0) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _mask_tools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise AuditError(
            f"import coco: pycocotools cannot be imported ({error}); "
            "it is an extra: pip install 'cnnaudit[coco]'"
        ) from error
    return mask
