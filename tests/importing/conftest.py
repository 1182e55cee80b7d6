"""Small data sets in the formats that others publish: real files, written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as tools

H, W = 48, 64
NAMES = ("a", "b", "c", "d")
PLAIN = np.s_[10:30, 20:50]  # where the first object of a picture is


def write_picture(path: Path, seed: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def inside(*places: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths as COCO counts them, outside first, down the columns."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *changes, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Four pictures: a dog as a polygon, a dog and a cat as runs, a crowd of people, nothing."""
    for number, name in enumerate(NAMES):
        write_picture(tmp_path / f"pictures/{name}.jpg", number)
    cat = tools.encode(np.asfortranarray(inside(np.s_[2:20, 3:9])))
    crowd = {"counts": runs(inside(np.s_[0:5, 0:60])), "size": [H, W]}
    packed = {"counts": cat["counts"].decode(), "size": [H, W]}
    people = inside(np.s_[40:44, 1:9])
    objects = [
        (1, 18, [[20, 10, 50, 10, 50, 30, 20, 30], [1, 1, 6, 1, 6, 6, 1, 6]], 0),
        (2, 18, {"counts": runs(inside(PLAIN)), "size": [H, W]}, 0),
        (2, 17, packed, 0),
        (3, 1, crowd, 1),
        (3, 1, {"counts": runs(people), "size": [H, W]}, 0),
    ]
    data = {
        "images": [
            {"id": n, "file_name": f"{name}.jpg", "width": W, "height": H}
            for n, name in enumerate(NAMES, 1)
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "segmentation": s, "iscrowd": k}
            for n, (i, c, s, k) in enumerate(objects)
        ],
        "categories": [
            {"id": 1, "name": "person"},
            {"id": 17, "name": "cat"},
            {"id": 18, "name": "dog"},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


def palette_png(path: Path, indices: np.ndarray) -> None:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([value for n in range(256) for value in (n * 37 % 256, n * 91 % 256, n)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A dog with a border; a cat and a person; one not segmented; one without objects."""
    root = tmp_path / "VOC2012"
    for number, name in enumerate(NAMES):
        write_picture(root / f"JPEGImages/{name}.jpg", number)
    border = np.zeros((H, W), np.uint8)
    border[8:32, 18:52], border[PLAIN] = 255, 12
    palette_png(root / "SegmentationClass/a.png", border)
    both = inside(PLAIN) * 8 + inside(np.s_[35:45, 2:60]) * 15
    palette_png(root / "SegmentationClass/b.png", both)
    palette_png(root / "SegmentationClass/d.png", np.zeros((H, W)))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("b\nd\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    return root


CLASSES = ("n01440764", "n01443537", "n02123045")


@pytest.fixture
def imagenet_s(tmp_path: Path) -> Path:
    """Three classes with a picture each, the last one with another class and an undecided part."""
    root = tmp_path / "ImageNetS50"
    for number, name in enumerate(CLASSES, 1):
        write_picture(root / f"validation/{name}/val_{number}.JPEG", number, format="JPEG")
        ids = inside(PLAIN).astype(int) * number
        if number == 3:
            ids[0:4], ids[5:9] = 1000, 1
        write_ids(root / f"validation-segmentation/{name}/val_{number}.png", ids)
    return root


def write_ids(path: Path, ids: np.ndarray) -> None:
    """As ImageNet-S stores them: R + 256 · G."""
    pixels = np.stack([ids % 256, ids // 256, ids * 0], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
