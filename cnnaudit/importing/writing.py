"""Annotated pictures → a folder with ``manifest.csv``, pictures and masks; what is left out."""

from __future__ import annotations

import csv
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnnaudit.image_sets.files import ON_ITS_SIDE, UPRIGHT, orientation_of, read_image
from cnnaudit.sections import unknown
from cnnaudit.store import digest_bytes
from cnnaudit.summary import guarded
from cnnaudit.types import AuditError

VOID = "void"  # the region that the annotators decided nothing about
_OBJECT = "mask"  # the region that is the object


class LeftOut(Exception):
    """Why a picture does not become part of the image set, and what is wrong with this one."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason, self.example = reason, example


@dataclass(frozen=True)
class Annotated:
    """One picture with what is annotated on it."""

    picture: Path
    shows: tuple[str, ...]  # the categories that can be its truth
    regions: Mapping[str, NDArray[np.bool_]]  # category or VOID → (H, W), none of them empty
    remarks: tuple[str, ...] = ()  # what it has, for who uses it to know


@dataclass(frozen=True)
class Source:
    """The pictures of a data set, whatever its format."""

    categories: tuple[str, ...]
    names: tuple[str, ...]  # of the pictures: relative paths, each of its own
    read: Callable[[str], Annotated]  # raises LeftOut

    def mask_of(self, name: str) -> str:
        """Return what a picture's mask is called: as the picture, if no other would share it."""
        stem = _stem(name)
        return f"{stem if self._taken[stem] == 1 else name}.png"

    @cached_property
    def _taken(self) -> Counter[str]:
        return Counter([*map(_stem, self.names), *self.names])


@dataclass(frozen=True)
class _Converted:
    lines: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason → examples
    remarks: Counter[str] = field(default_factory=Counter)


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def check_picture(picture: Path, size: tuple[int, ...]) -> None:
    """Raise LeftOut for a picture that cannot be read, or on which masks (H, W) may not lie."""
    try:
        width, height = read_image(picture).size
        orientation = orientation_of(picture)
    except AuditError as error:
        raise LeftOut("whose picture cannot be used", str(error)) from error
    if size != (height, width):
        raise LeftOut(
            "whose annotations are of another size",
            f"{picture} is {width}×{height} pixels, they {size[1]}×{size[0]}",
        )
    # Sizes agree; on its side, that means that who annotated it saw it as we do.
    if orientation != UPRIGHT and (orientation not in ON_ITS_SIDE or width == height):
        raise LeftOut("turned by an EXIF orientation that the annotations may not know")


def write_set(
    source: Source, out: Path, *, categories: Sequence[str], limit: int | None, truth: bool
) -> str:
    """Write the pictures of some categories (none: of any) below a new folder; say what became.

    Raises AuditError if the folder is in use, or no picture is left; nothing is written then.
    """
    for name in categories:
        if name not in source.categories:
            raise AuditError(f"--category: {unknown(name, source.categories, 'category')}")
    _check_names(source)
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise AuditError(f"{out} is in use; name a folder that is not there yet, or an empty one")
    with _in_its_place(out) as folder:
        found = _convert(source, categories or source.categories, limit, folder)
        if not found.lines:
            raise AuditError("\n".join(["no picture is left:", *_said(source, found)]))
        _write_manifest(folder / "manifest.csv", found.lines, truth)
    number = len(found.lines)
    wrote = f"wrote {out / 'manifest.csv'}: {number} picture{'s' * (number > 1)}"
    return "\n".join([wrote, *_said(source, found), ""])


def _check_names(source: Source) -> None:
    for name in (*source.names, *source.categories):
        if name.encode(errors="ignore").decode() != name:
            raise AuditError(f"{name!r} is no text; rename it")
    for name in ("", _OBJECT):
        if name in source.categories:
            raise AuditError(f"a category is called {name!r}, which no region can be; rename it")
    for name in source.categories:  # as a truth it stands in the manifest as it is
        if guarded(name) != name:
            raise AuditError(f"a spreadsheet would run the category {name!r}; rename it")


def _convert(source: Source, chosen: Sequence[str], limit: int | None, folder: Path) -> _Converted:
    found = _Converted()
    names = sorted(source.names, key=lambda name: digest_bytes(name.encode()))
    for place, name in enumerate(names):
        if len(found.lines) == limit:
            found.left_out[f"beyond --limit {limit}"] = names[place:]
            break
        try:
            found.lines.append(_line(source, name, chosen, folder, found.remarks))
        except LeftOut as left:
            found.left_out.setdefault(left.reason, []).append(left.example or name)
    found.lines.sort(key=lambda line: line["id"])
    return found


def _line(
    source: Source, name: str, chosen: Sequence[str], folder: Path, remarks: Counter[str]
) -> dict[str, str]:
    """Write one picture's files, and return its line of the manifest."""
    one = source.read(name)
    shown = [category for category in one.shows if category in chosen]
    if not shown:
        raise LeftOut("without an object" + " of these categories" * (chosen != source.categories))
    line = {"id": guarded(name), "image": f"images/{name}"}
    _place(one.picture, folder / line["image"])
    for region, mask in one.regions.items():
        path = f"masks/{_folder_name(region, source)}/{source.mask_of(name)}"
        _write_mask(mask, folder / path)
        line[f"mask:{region}"] = path
    if len(shown) == 1:
        line |= {"truth": shown[0], _OBJECT: line[f"mask:{shown[0]}"]}
    else:
        remarks["several of the categories, and so no truth and no mask"] += 1
    remarks.update(one.remarks)
    return line


def _folder_name(region: str, source: Source) -> str:
    """Return a name that is safe whatever a category is called, and unlike any other."""
    if region == VOID:
        return VOID
    safe = re.sub(r"[^A-Za-z0-9]+", "_", region)
    return f"{source.categories.index(region) + 1}-{safe}"


def _place(picture: Path, target: Path) -> None:
    """Put a picture into the set: the same file under another name, or a copy of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(picture.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(picture, target)


def _write_mask(mask: NDArray[np.bool_], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(target)


def _write_manifest(path: Path, lines: Sequence[Mapping[str, str]], truth: bool) -> None:
    regions = {key for line in lines for key in line if key.startswith(f"{_OBJECT}:")}
    columns = ["id", "image", *["truth"] * truth, _OBJECT, *sorted(regions)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)


@contextmanager
def _in_its_place(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `out` once all of it is there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
            folder = Path(temporary) / "set"
            folder.mkdir()
            yield folder
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise AuditError(f"cannot write {out} ({error})") from error


def _said(source: Source, found: _Converted) -> list[str]:
    total = len(source.names)
    return [
        *(
            f"{count} of them {'has' if count == 1 else 'have'} {remark}"
            for remark, count in found.remarks.items()
        ),
        *(
            f"left out: {len(examples)} of {total}, {reason} (such as {examples[0]})"
            for reason, examples in found.left_out.items()
        ),
    ]
