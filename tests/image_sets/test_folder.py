"""A folder of pictures is an image set as well."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnaudit.image_sets import load_image_set
from cnnaudit.image_sets.files import file_inside
from cnnaudit.specs import ImageSetSpec
from cnnaudit.types import AuditError, ImageSet


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (10, 200, 10)).save(path)


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((6, 8), np.uint8)
    pixels[1:3, 2:5] = 255
    Image.fromarray(pixels).save(path, format="PNG")


def load(root: Path, **parameters: str) -> ImageSet:
    spec = ImageSetSpec(
        name="folder",
        uses="folder",
        root=root,
        unit=None,
        exemplars=1,
        grids=(),
        words={},
        parameters=parameters,
    )
    return load_image_set(spec)


def test_without_masks(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "C.JPEG", "d.WebP", "notes.txt"):
        picture(tmp_path / name) if name != "notes.txt" else (tmp_path / name).write_text("x")
    found = load(tmp_path)
    assert [item.id for item in found.items] == ["C.JPEG", "a.jpg", "b.png", "d.WebP"]
    for item in found.items:
        assert (item.regions, item.truth, item.factors) == ({}, None, {})
        assert found.unit_of(item) == item.id
    assert found.factors == ()


def test_a_picture_of_any_kind_is_read_or_fails_by_name(tmp_path: Path) -> None:
    for name in ("a.gif", "b.ppm", "c.jp2"):
        picture(tmp_path / name)
    (tmp_path / "d.heic").write_bytes(b"\0\0\0\x18ftypheic")
    found = load(tmp_path)
    assert [item.id for item in found.items] == ["a.gif", "b.ppm", "c.jp2", "d.heic"]
    (said,) = found.unreadable
    assert "d.heic cannot be read as a picture" in said


def test_masks_are_where_a_config_says(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    mask(tmp_path / "truth/a.png")
    (item,) = load(tmp_path, masks="truth").items
    assert item.regions.keys() == {"mask"}
    with pytest.raises(AuditError, match=r"image_set.folder.masks: there is no folder .*/thruth"):
        load(tmp_path, masks="thruth")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/caf\xe9.png", os.O_CREAT))
    with pytest.raises(AuditError, match=r"the file name 'caf\\udce9.png' is not in UTF-8; rename"):
        load(tmp_path)


def test_with_masks_for_some(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c.png", "d.e.png"):
        picture(tmp_path / name)
    for name in ("a.png", "b.png", "d.e.PNG"):
        mask(tmp_path / "masks" / name)
    found = load(tmp_path)
    assert {item.id: [*item.regions.values()] for item in found.items} == {
        "a.jpg": [file_inside(tmp_path, "masks/a.png", "")],
        "b.PNG": [file_inside(tmp_path, "masks/b.png", "")],
        "c.png": [],
        "d.e.png": [file_inside(tmp_path, "masks/d.e.PNG", "")],
    }


def test_folders_below_keep_pictures_of_one_name_apart(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png"):
        picture(tmp_path / name)
    mask(tmp_path / "masks/y/a.png")
    found = load(tmp_path)
    assert [(item.id, list(item.regions)) for item in found.items] == [
        ("x/a.png", []),
        ("y/a.png", ["mask"]),
    ]


def test_another_name_for_the_masks(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    mask(tmp_path / "truth/a.png")
    assert list(load(tmp_path, masks="truth").items[0].regions) == ["mask"]


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.png", ".thumbnails/a.png", "._a.png"):
        picture(tmp_path / name)
    mask(tmp_path / "masks/._a.png")
    assert [item.id for item in load(tmp_path).items] == ["a.png"]


def test_a_lonely_mask(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    mask(tmp_path / "masks/aa.png")
    with pytest.raises(AuditError, match=r"the mask .*masks/aa.png belongs to no picture"):
        load(tmp_path)


def test_a_mask_that_is_no_png_is_not_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "masks/a.jpg")
    with pytest.raises(AuditError, match=r"masks/a.jpg is no mask; masks are PNG files"):
        load(tmp_path)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (6, 8), 255).save(tmp_path / "masks/a.png")
    with pytest.raises(AuditError, match="is 6×8 pixels, its picture 8×6"):
        load(tmp_path)


def test_masks_that_lie_outside(tmp_path: Path) -> None:
    picture(tmp_path / "set/a.png")
    mask(tmp_path / "masks/a.png")
    for masks in ("../masks", str(tmp_path / "masks")):
        with pytest.raises(AuditError, match="leads out of"):
            load(tmp_path / "set", masks=masks)


def test_a_link_that_leads_out(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(AuditError, match="leads out of"):
        load(tmp_path / "set")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="holds no picture"):
        load(tmp_path)


def test_braces_choose_among_the_pictures_in_their_order(tmp_path: Path) -> None:
    for name in ("cat.png", "dog.png", "tank.png"):
        picture(tmp_path / name)
    found = load(tmp_path / "{tank, cat}.png")
    assert [item.id for item in found.items] == ["tank.png", "cat.png"]
    assert [item.image.path.name for item in found.items] == ["tank.png", "cat.png"]
    names = load(tmp_path / "{cat.png,dog.png}")
    assert [item.id for item in names.items] == ["cat.png", "dog.png"]
    once = load(tmp_path / "{cat,dog,cat}.png")
    assert [item.id for item in once.items] == ["cat.png", "dog.png"]


def test_masks_of_pictures_that_are_not_chosen_are_no_error(tmp_path: Path) -> None:
    for name in ("cat.png", "dog.png"):
        picture(tmp_path / name)
        mask(tmp_path / "masks" / name)
    (item,) = load(tmp_path / "{cat}.png").items
    assert item.regions == {"mask": file_inside(tmp_path, "masks/cat.png", "")}
    mask(tmp_path / "masks/nothing.png")  # a lonely one still is
    with pytest.raises(AuditError, match=r"the mask .*masks/nothing.png belongs to no picture"):
        load(tmp_path / "{cat}.png")


def test_a_chosen_picture_that_is_not_there(tmp_path: Path) -> None:
    picture(tmp_path / "cat.png")
    with pytest.raises(AuditError, match=r"folder.root: there is no picture .*/dog.png"):
        load(tmp_path / "{cat,dog}.png")
    with pytest.raises(AuditError, match=r"folder.root: there is no folder .*/nowhere"):
        load(tmp_path / "nowhere/{cat,dog}.png")


def test_a_folder_with_braces_in_its_name_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "{cat,dog}.png"
    for name in ("a.png", "b.png"):
        picture(folder / name)
    assert [item.id for item in load(folder).items] == ["a.png", "b.png"]


def test_what_only_has_the_name_of_a_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    picture(tmp_path / "folder.png/b.png")
    assert [item.id for item in load(tmp_path).items] == ["a.png", "folder.png/b.png"]
    (tmp_path / "c.png").symlink_to("nowhere.png")
    with pytest.raises(AuditError, match=r"image_set.folder: .*c.png leads to no file"):
        load(tmp_path)
    (tmp_path / "c.png").unlink()
    os.mkfifo(tmp_path / "c.png")
    with pytest.raises(AuditError, match=r"image_set.folder: .*c.png is no regular file"):
        load(tmp_path)
