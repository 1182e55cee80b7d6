"""Pascal VOC's segmentations: a palette PNG per picture, whose indices are classes.

Everingham et al. 2010. The index 255 is the border that nobody decided about.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from cnnaudit.image_sets.files import read_values
from cnnaudit.importing.writing import VOID, Annotated, LeftOut, Source, check_picture
from cnnaudit.sections import unknown
from cnnaudit.types import AuditError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)  # of the indices 1, 2, …
_VOID = 255
_PICTURES, _MASKS, _SPLITS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


def read(root: Path, *, split: str = "") -> Source:
    """Return the pictures of a split of VOC2012 or its like; of none, all that there are."""
    for folder in (_PICTURES, _MASKS):
        if not (root / folder).is_dir():
            raise AuditError(
                f"there is no folder {root / folder}; VOC_ROOT is the one that has both "
                f"{_PICTURES} and {_MASKS}, such as VOCdevkit/VOC2012"
            )
    if split:
        stems = _stems(root / _SPLITS, split)
    else:
        files = [*(root / _PICTURES).glob("*.jpg"), *(root / _MASKS).glob("*.png")]
        stems = [path.stem for path in files]
    names = tuple(dict.fromkeys(f"{stem}.jpg" for stem in stems))
    return Source(CLASSES, names, partial(_read, root))


def _stems(folder: Path, split: str) -> list[str]:
    splits = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if split not in splits:
        raise AuditError(f"--split: {unknown(split, splits, 'split')} (in {folder})")
    lines = splits[split].read_text(encoding="utf-8").splitlines()
    stems = [line.strip() for line in lines if line.strip()]
    for stem in stems:
        if stem != Path(stem).name:
            raise AuditError(f"{splits[split]}: {stem!r} is no name of a picture")
    return stems


def _read(root: Path, name: str) -> Annotated:
    picture, mask = root / _PICTURES / name, root / _MASKS / f"{name.removesuffix('.jpg')}.png"
    for path, lacks in ((mask, "without a segmentation"), (picture, "whose picture is not there")):
        if not path.is_file():
            raise LeftOut(lacks, str(path))
    indices = read_values(mask, ("P",))
    check_picture(picture, indices.shape)
    regions = {}
    for index in np.unique(indices[indices > 0]).tolist():
        if index != _VOID and index > len(CLASSES):
            raise AuditError(f"{mask}: its index {index} is no class of Pascal VOC")
        regions[VOID if index == _VOID else CLASSES[index - 1]] = indices == index
    return Annotated(picture, tuple(name for name in regions if name != VOID), regions)
