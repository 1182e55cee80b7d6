"""``manifest.csv``: what it declares, and what is wrong with one that is off."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnaudit.image_sets import load_image_set
from cnnaudit.image_sets.files import file_inside
from cnnaudit.specs import GridSpec, ImageSetSpec
from cnnaudit.types import AuditError, ImageSet

SPEC = ImageSetSpec(
    name="set",
    uses="manifest",
    root=Path(),
    unit=None,
    exemplars=1,
    grids=(),
    words={},
    parameters={},
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with pictures a and b, a mask, a truth and a table that is none."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), (200, 10, 10)).save(folder / f"{name}.png")
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:5] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:, :-1]).save(folder / "narrow.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(folder / "shades.png")
    (folder / "truth.csv").write_text("left,right\n0,1\n1,0\n")
    (folder / "words.csv").write_text("left,right\nyes,no\n")
    return folder


def load(root: Path, manifest: str | bytes, **fields) -> ImageSet:
    content = manifest.encode() if isinstance(manifest, str) else manifest
    (root / "manifest.csv").write_bytes(content)
    return load_image_set(replace(SPEC, root=root, **fields))


def refused(root: Path, manifest: str | bytes, **fields) -> str:
    with pytest.raises(AuditError) as error:
        load(root, manifest, **fields)
    return str(error.value)


# --- what it declares -----------------------------------------------------------------------------


def test_items(root: Path) -> None:
    found = load(
        root,
        "id,image,mask,mask:shadow,truth,scene,light\n"
        "one,a.png,mask.png,,truth.csv,s1,left\n"
        "two,b.png,,mask.png,tench,s2,\n",
    )
    one, two = found.items
    image, other, mask, truth = (
        file_inside(root, name, "") for name in ("a.png", "b.png", "mask.png", "truth.csv")
    )
    assert (one.id, one.image, one.truth) == ("one", image, truth)
    assert one.regions == {"mask": mask}  # an empty cell: no such region
    assert one.factors == {"scene": "s1", "light": "left"}
    assert two.regions == {"shadow": mask}
    assert two.truth == "tench"
    assert two.factors == {"scene": "s2"}  # no level, no key
    assert found.factors == ("scene", "light")
    assert two.image == other
    assert other.path == root / "b.png"
    assert other.digest == image.digest == hashlib.sha256(other.path.read_bytes()).hexdigest()
    assert len({image.digest, mask.digest, truth.digest}) == 3


def test_unit_of_an_item(root: Path) -> None:
    table = "id,image,scene\none,a.png,s1\ntwo,b.png,\n"
    by_scene = load(root, table, unit="scene")
    assert [by_scene.unit_of(item) for item in by_scene.items] == ["s1", "two"]
    alone = load(root, table)
    assert [alone.unit_of(item) for item in alone.items] == ["one", "two"]


def test_a_column_that_only_contains_the_word_mask_is_a_factor(root: Path) -> None:
    found = load(root, "id,image,unmask:x,masked\none,a.png,yes,no\n")
    assert found.items[0].regions == {}
    assert found.factors == ("unmask:x", "masked")


@pytest.mark.parametrize(
    "manifest",
    [
        b"\xef\xbb\xbfid,image,light\none,a.png,left\n",  # as a spreadsheet saves UTF-8
        b"id,image,light\r\none,a.png,left\r\n",
        b" id , image ,light\n one, a.png ,left \n",
        b"\n\nid,image,light\n\none,a.png,left\n\n\n",
        b'"id","image","light"\n"one","a.png","left"\n',
        b"light,image,id\nleft,a.png,one\n",
    ],
)
def test_ways_to_write_the_same(root: Path, manifest: bytes) -> None:
    (item,) = load(root, manifest).items
    assert (item.id, item.image.path, item.factors) == ("one", root / "a.png", {"light": "left"})


def test_quoted_commas_and_names_in_any_script(root: Path) -> None:
    (root / "a.png").rename(root / "Straße, 写真.png")
    (item,) = load(root, 'id,image,Licht\n"één, 1","Straße, 写真.png","grün, hell"\n').items
    assert item.id == "één, 1"
    assert item.image.path.name == "Straße, 写真.png"
    assert item.factors == {"Licht": "grün, hell"}


def test_another_name_for_the_manifest(root: Path) -> None:
    (root / "other.csv").write_text("id,image\none,a.png\n")
    spec = replace(SPEC, root=root, parameters={"manifest": "other.csv"})
    assert [item.id for item in load_image_set(spec).items] == ["one"]


def test_pictures_in_folders_below(root: Path) -> None:
    (root / "below").mkdir()
    (root / "a.png").rename(root / "below/a.png")
    (item,) = load(root, "id,image\none,below/../below/a.png\n").items
    assert item.image.path.is_file()


# --- what is wrong with it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "the column 'id' is missing; found are none"),
        ("id,picture\none,a.png\n", "the column 'image' is missing; found are id, picture"),
        ("id,image\n", "has no line yet; give each picture one below id,image, such as cat 1,cat-"),
        ("id,image\none,a.png\none,b.png\n", "'one' stands there 2 times"),
        ("id,image,light,light\none,a.png,x,y\n", "'light' stands there 2 times"),
        ("id,image,mask,mask:mask\none,a.png,,\n", "'mask' stands there 2 times"),
        ("id,image,light\none,a.png\n", "line 2: 2 cells, 3 columns"),
        ("id,image\n\n\none,a.png\ntwo,b.png,x\n", "line 5: 3 cells, 2 columns"),
        ("id,image\n ,a.png\n", "line 2: the id is empty"),
        ('id,image,x\none,a.png,"a\nb"\n,b.png,\n', "line 4: the id is empty"),
        ("id,image,\none,a.png,\n", "column 3 has no name"),
        (",id,image\n0,one,a.png\n", "column 1 has no name"),
        ("id,image,mask:\none,a.png,mask.png\n", "column 3 has no name"),
        ("id,image\none,missing.png\n", "line 2, image: there is no file"),
        ("id,image\none,\n", "line 2, image: .* is no regular file"),
        ("id,image,mask\none,a.png,missing.png\n", "line 2, mask: there is no file"),
        ("id,image,truth\none,a.png,missing.csv\n", "line 2, truth: there is no file"),
        ("id,image,truth\none,a.png,missing.CSV\n", "line 2, truth: there is no file"),
        ("id,image,mean\none,a.png,1\n", "the column 'mean' has the name of a column of the re"),
        ("id,image,status\none,a.png,1\n", "the column 'status' has the name of a column of the"),
        ("id,image,unit\none,a.png,1\n", "the column 'unit' has the name of a column of the re"),
        ("id,image,mask\none,a.png,narrow.png\n", "is 7×6 pixels, its picture 8×6"),
        ("id,image,mask\none,a.png,shades.png\n", "is no mask: it has 47 values beside 0"),
        ("id,image,mask\none,a.png,b.png\n", "has the colour mode 'RGB'; a mask has one channel"),
        ("id,image,mask\none,a.png,truth.csv\n", "cannot be read as a mask"),
        ("id,image\none,truth.csv\n", "item 'one': .*cannot be read as a picture"),
        ("id,image,truth\none,a.png,words.csv\n", "no table of numbers"),
        ("id,image,truth\none,a.png,../elsewhere.csv\n", "leads out of"),
        ("id,image\none,../elsewhere.png\n", "leads out of"),
        ("id,image\none,/etc/hostname\n", "leads out of"),
        (f"id,image\none,{'x' * 300}.png\n", "names no file"),
        ("id,image\none,a\0.png\n", "line 2, image|cannot be read as a CSV"),
        ('id,image\none,"a.png\n', "cannot be read as a CSV file"),
        (b"id,image\n\xff\xfe,a.png\n", "cannot be read as a CSV file in UTF-8"),
    ],
)
def test_a_manifest_that_is_off(root: Path, manifest: str | bytes, message: str) -> None:
    for name in ("elsewhere.png", "elsewhere.csv"):
        (root.parent / name).write_bytes(b"")
    with pytest.raises(AuditError, match=message):
        load(root, manifest)


def test_the_message_names_the_file(root: Path) -> None:
    assert str(root / "manifest.csv") in refused(root, "id,image\n,a.png\n")
    assert str(root / "narrow.png") in refused(root, "id,image,mask\none,a.png,narrow.png\n")
    assert str(root / "gone.png") in refused(root, "id,image\none,gone.png\n")


def test_a_link_that_leads_out_is_refused(root: Path) -> None:
    outside = root.parent / "outside.png"
    (root / "a.png").rename(outside)
    (root / "link.png").symlink_to(outside)
    assert "leads out of" in refused(root, "id,image\none,link.png\n")
    (root / "inner.png").symlink_to(root / "b.png")
    assert load(root, "id,image\none,inner.png\n").items[0].id == "one"


def test_links_in_a_circle(root: Path) -> None:
    (root / "loop.png").symlink_to(root / "loop.png")
    # Python 3.13 resolves it, as far as that goes; older ones refuse to.
    assert re.search("(names|leads to) no file", refused(root, "id,image\none,loop.png\n"))


def test_no_manifest_and_no_folder(root: Path) -> None:
    with pytest.raises(AuditError, match=r"there is no file .*manifest.csv"):
        load_image_set(replace(SPEC, root=root))
    with pytest.raises(AuditError, match=r"image_set.set.root: there is no folder"):
        load_image_set(replace(SPEC, root=root / "nowhere"))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"unit": "scen"}, "unit"),
        ({"words": {"scen": {}}}, "words"),
    ],
)
def test_a_name_that_is_no_factor(root: Path, fields: dict, key: str) -> None:
    message = refused(root, "id,image,scene,light\none,a.png,s1,left\n", **fields)
    assert message.startswith(f"image_set.set.{key}: 'scen' is no factor")
    assert message.endswith("scene, light")


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ((GridSpec("light", "scene", ()), GridSpec("light", "scen", ())),
         "grids.1.cols: 'scen' is no allowed side. Did you mean 'scene'?"),
        ((GridSpec("imag", "model", ()),),
         "grids.0.rows: 'imag' is no allowed side. Did you mean 'image'?"),
        ((GridSpec("light", "light", ()),), "grids.0: rows and cols are both 'light'"),
        ((GridSpec("image", "light", ()),), "grids.0: 'image' × 'light' has one place for each"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be(root: Path, grids: tuple[GridSpec, ...], message: str) -> None:
    found = refused(root, "id,image,scene,light\none,a.png,s1,left\n", grids=grids)
    assert found.startswith(f"image_set.set.{message}")


def test_the_name_of_all_levels_is_no_level(root: Path) -> None:
    message = refused(root, "id,image,light\none,a.png,left\ntwo,b.png,*\n")
    assert message.startswith(f"{root / 'manifest.csv'}, line 3: the level '*' of 'light' stands")


def test_the_unit_is_no_side_of_a_grid(root: Path) -> None:
    """Means are over units, and tell none of them apart."""
    manifest, grids = "id,image,scene,light\none,a.png,s1,left\n", (GridSpec("scene", "light", ()),)
    assert load(root, manifest, grids=grids).items
    message = refused(root, manifest, grids=grids, unit="scene")
    assert message.startswith("image_set.set.grids.0.rows: 'scene' is no allowed side")


def test_a_level_that_is_none_of_the_factor(root: Path) -> None:
    grids = (GridSpec("scene", "light", ("s1", "s2")),)
    message = refused(root, "id,image,scene,light\none,a.png,s1,left\n", grids=grids)
    assert message.startswith("image_set.set.grids.0.levels: 's2' is no level of 'scene'")
    assert message.endswith("s1")


def test_an_empty_mask_is_a_mask(root: Path) -> None:
    """That it holds no pixel is for the metrics to say."""
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(root / "mask.png")
    (item,) = load(root, "id,image,mask\none,a.png,mask.png\n").items
    assert item.regions == {"mask": file_inside(root, "mask.png", "")}
