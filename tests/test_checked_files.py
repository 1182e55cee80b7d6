"""An image set that was found to be good is not looked at again, until something in it changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from cnnaudit.facts import checked_files
from cnnaudit.image_sets import load_image_set
from cnnaudit.specs import ImageSetSpec
from cnnaudit.store import Store
from cnnaudit.types import AuditError, ImageSet

MANIFEST = """id,image,mask,mask:shadow,truth
one,1.png,m.png,box:1 1 3 3,t.csv
two,2.png,,polygon:0 0 4 0 0 4,
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"{number}.png")
    _write_mask(folder, 255)
    (folder / "t.csv").write_text("left,right\n0,1\n")
    (folder / "manifest.csv").write_text(MANIFEST)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _write_mask(folder: Path, inside: int, height: int = 6) -> None:
    mask = np.zeros((height, 8), np.uint8)
    mask[2:4] = inside
    mask[0, 0] = 255
    Image.fromarray(mask).save(folder / "m.png")


def _load(root: Path, store: Store) -> ImageSet:
    spec = ImageSetSpec("set", "manifest", root, None, 1, (), {}, {})
    return load_image_set(spec, partial(checked_files, store=store))


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded."""
    found: list[str] = []
    load = ImageFile.ImageFile.load

    def noted(image: ImageFile.ImageFile) -> object:
        found.append(Path(image.filename).name)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    return found


def test_what_is_good_is_decoded_once(root: Path, store: Store, decodes: list[str]) -> None:
    first = _load(root, store)
    assert set(decodes) == {"m.png"}
    decodes.clear()
    assert _load(root, store) == first
    assert decodes == []


def test_it_may_lie_elsewhere(root: Path, store: Store, decodes: list[str]) -> None:
    _load(root, store)
    decodes.clear()
    shutil.move(root, root.with_name("moved"))
    _load(root.with_name("moved"), store)
    assert decodes == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: _write_mask(root, 7), "m.png is no mask: it has 2 values"),
        (lambda root: _write_mask(root, 255, height=5), "8×5 pixels, its picture 8×6"),
        (lambda root: Image.new("L", (9, 6)).save(root / "1.png"), "its picture 9×6"),
        (lambda root: (root / "t.csv").write_text("left\nno\n"), "no table of numbers"),
    ],
)
def test_what_has_changed_is_checked(
    root: Path, store: Store, change: Callable[[Path], object], message: str
) -> None:
    _load(root, store)
    change(root)
    for _ in range(2):  # a bad one is not good because it has been seen
        with pytest.raises(AuditError, match=message):
            _load(root, store)


def test_a_picture_that_cannot_be_read_is_told_each_time(root: Path, store: Store) -> None:
    (root / "2.png").write_bytes(b"no picture")
    for _ in range(2):
        (unreadable,) = _load(root, store).unreadable
        assert "2.png cannot be read as a picture" in unreadable
    Image.new("RGB", (8, 6)).save(root / "2.png")
    assert _load(root, store).unreadable == ()
