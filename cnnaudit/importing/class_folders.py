"""ImageNet-S: a folder of pictures per class, and label maps in a folder beside it.

Gao et al. 2022. A pixel's class is R + 256 · G: 0 another one, 1000 not decided, else the class's
place, from 1, in the list of classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cnnaudit.image_sets.files import read_values
from cnnaudit.image_sets.folder import SUFFIXES
from cnnaudit.importing.writing import VOID, Annotated, LeftOut, Source, check_picture
from cnnaudit.sections import unknown
from cnnaudit.types import AuditError

_MASKS = "-segmentation"  # what is added to a split's name
_VOID = 1000


def read(root: Path, *, split: str = "", classes: str = "") -> Source:
    """Return the pictures of a split, which may be left out where there is only one."""
    pictures = root / _split(root, split)
    masks = pictures.with_name(pictures.name + _MASKS)
    labels = _labels(Path(classes)) if classes else {
        path.name: path.name for path in sorted(masks.iterdir()) if path.is_dir()
    }  # fmt: skip
    names = (
        path.relative_to(pictures).as_posix()
        for path in sorted(pictures.glob("*/*"))
        if path.suffix.lower() in SUFFIXES
    )
    return Source(tuple(labels.values()), tuple(names), partial(_read, pictures, masks, labels))


def _split(root: Path, asked: str) -> str:
    found = [
        path.name.removesuffix(_MASKS)
        for path in sorted(root.glob(f"*{_MASKS}"))
        if path.with_name(path.name.removesuffix(_MASKS)).is_dir()
    ]
    if not found:
        raise AuditError(f"{root} has no pair of folders such as validation and validation{_MASKS}")
    if asked and asked not in found:
        raise AuditError(f"--split: {unknown(asked, found, 'split')} (in {root})")
    if not asked and len(found) > 1:
        raise AuditError(f"{root} has several splits; choose one with --split: {', '.join(found)}")
    return asked or found[0]


def _labels(path: Path) -> dict[str, str]:
    """Return the label of each class, by its folder, in the order of their ids."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"--classes: {path} cannot be read ({error})") from error
    pairs = [line.strip().partition(" ") for line in lines if line.strip()]
    labels = {folder: label.strip() or folder for folder, _, label in pairs}
    if not labels or len(set(labels.values())) < len(pairs):
        raise AuditError(f"--classes: {path} must name each class once, with a label of its own")
    return labels


def _read(pictures: Path, masks: Path, labels: Mapping[str, str], name: str) -> Annotated:
    picture, mask = pictures / name, (masks / name).with_suffix(".png")
    folder = Path(name).parts[0]
    if folder not in labels:
        raise LeftOut(f"in a folder that is none of the {len(labels)} classes")
    if not mask.is_file():
        raise LeftOut("without a segmentation", str(mask))
    red, green, _ = np.moveaxis(read_values(mask, ("RGB",)).astype(np.int64), -1, 0)
    ids, categories = red + 256 * green, list(labels.values())
    check_picture(picture, ids.shape)
    regions = {}
    for number in np.unique(ids[ids > 0]).tolist():
        if number != _VOID and number > len(categories):
            raise AuditError(
                f"{mask}: there is no class {number}, only {len(categories)}; "
                "name all of them in the order of their ids: --classes FILE"
            )
        regions[VOID if number == _VOID else categories[number - 1]] = ids == number
    if labels[folder] not in regions:
        raise LeftOut("whose segmentation lacks the class of its folder", str(mask))
    return Annotated(picture, (labels[folder],), regions)
