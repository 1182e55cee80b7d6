"""``cnnaudit import``: image sets as others publish them → a manifest with pictures and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnaudit.importing import class_folders, coco, voc
from cnnaudit.importing.writing import Source, write_set
from cnnaudit.sections import read_options, unknown
from cnnaudit.types import AuditError

USAGE = """\
cnnaudit import coco INSTANCES.json IMAGES_FOLDER OUT [OPTION …]
cnnaudit import voc VOC_ROOT OUT [OPTION …]
cnnaudit import folder FOLDER OUT [OPTION …]

Make an image set of what others have annotated: OUT/manifest.csv, its pictures (hard links where
the file system has them, else copies) and its masks. OUT must not be there yet, or be empty.

  coco      objects outlined in a JSON file (an extra: pip install 'cnnaudit[coco]')
  voc       Pascal VOC segmentation: JPEGImages, SegmentationClass, ImageSets/Segmentation
  folder    ImageNet-S: <split>/<class>/*.JPEG and <split>-segmentation/<class>/*.png

  --category NAME  only pictures of this category; may be given several times
  --split NAME     of voc and folder: only this part, such as val or validation
  --classes FILE   of folder: its classes in the order of their ids, a line each: the name of the
                   folder, then a label if there is one; else the folders in alphabetical order
  --limit N        at most N pictures, chosen by the digests of their names
  --no-truth       leave the column truth out, for networks that have other classes

Every category is a region, mask:<category>. A picture that shows one of those asked for (without
--category, of all) has it as its truth, and its objects as mask; one that shows several has
neither.
"""

_OPTIONS = {"category": True, "limit": True, "no-truth": False}  # of every format: takes a value?


@dataclass(frozen=True)
class _Format:
    places: tuple[str, ...]
    options: tuple[str, ...]  # of its own
    read: Callable[..., Source]  # of the places, and the options by name


_FORMATS: Mapping[str, _Format] = {
    "coco": _Format(("INSTANCES.json", "IMAGES_FOLDER"), (), coco.read),
    "voc": _Format(("VOC_ROOT",), ("split",), voc.read),
    "folder": _Format(("FOLDER",), ("split", "classes"), class_folders.read),
}


def import_set(rest: Sequence[str]) -> str:
    """Write the image set that the arguments ask for, and return what there is to say about it.

    Raises AuditError if they are off, or what they name is not of the format.
    """
    if not rest or rest[0] in ("-h", "--help"):
        return USAGE
    name, *more = rest
    if name not in _FORMATS:
        raise AuditError(f"import: {unknown(name, _FORMATS, 'format')}")
    form = _FORMATS[name]
    takes = {**_OPTIONS, **dict.fromkeys(form.options, True)}
    options, words = read_options(f"import {name}", more, takes, several=("category",))
    if "help" in options:
        return USAGE
    if len(words) != len(form.places) + 1:
        wanted = " ".join((*form.places, "OUT"))
        raise AuditError(f"import {name} takes {wanted}; {len(words)} places were given")
    *places, out = map(Path, words)
    source = form.read(*places, **{key: options[key][0] for key in form.options if key in options})
    return write_set(
        source,
        out,
        categories=tuple(options.get("category", ())),
        limit=_limit(options),
        truth="no-truth" not in options,
    )


def _limit(options: Mapping[str, Sequence[str]]) -> int | None:
    if "limit" not in options:
        return None
    (text,) = options["limit"]
    if not text.isdecimal() or int(text) < 1:
        raise AuditError(f"--limit: {text!r} is not a whole number, at least 1")
    return int(text)
