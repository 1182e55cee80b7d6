"""``cnnaudit import``: from files of each format to an image set that can be audited."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as tools

from cnnaudit.image_sets import load_image_set
from cnnaudit.image_sets.files import read_mask
from cnnaudit.importing import USAGE, import_set
from cnnaudit.importing.coco import _from_runs
from cnnaudit.importing.writing import Source
from cnnaudit.specs import ImageSetSpec
from cnnaudit.types import AuditError
from tests.importing.conftest import (
    PLAIN,
    H,
    W,
    inside,
    palette_png,
    runs,
    write_ids,
    write_picture,
)
from tests.processes import command


def imported(*arguments: str | Path, out: Path) -> tuple[dict[str, dict[str, str]], str]:
    """Return the lines of the manifest by id, once all of it could be loaded, and what was said."""
    said = import_set([*map(str, arguments), str(out)])
    load_image_set(ImageSetSpec("set", "manifest", out, None, 1, (), {}, {}))
    with (out / "manifest.csv").open(encoding="utf-8") as file:
        return {line["id"]: line for line in csv.DictReader(file)}, said


def refused(*arguments: str | Path) -> str:
    with pytest.raises(AuditError) as error:
        import_set(list(map(str, arguments)))
    return str(error.value)


def mask_of(out: Path, cell: str) -> np.ndarray:
    return (np.asarray(read_mask(out / cell)) > 0).astype(np.uint8)


# --- COCO -----------------------------------------------------------------------------------------


def from_coco(root: Path, *options: str) -> tuple[dict[str, dict[str, str]], str]:
    data = (root / "instances.json", root / "pictures")
    return imported("coco", *data, *options, out=root / "out")


def change(root: Path, **parts: object) -> None:
    data = json.loads((root / "instances.json").read_text()) | parts
    (root / "instances.json").write_text(json.dumps(data))


def test_coco(coco: Path) -> None:
    lines, said = from_coco(coco)
    assert set(lines) == {"a.jpg", "b.jpg", "c.jpg"}
    a, b, c = (lines[name] for name in sorted(lines))
    assert list(a) == ["id", "image", "truth", "mask", "mask:cat", "mask:dog", "mask:person"]
    assert [line["truth"] for line in (a, b, c)] == ["dog", "", "person"]
    assert a["mask"] == a["mask:dog"]
    assert (a["mask:cat"], a["mask:person"], b["mask"]) == ("", "", "")
    out = coco / "out"
    expected = inside(PLAIN, np.s_[1:6, 1:6])
    np.testing.assert_array_equal(mask_of(out, a["mask"]), expected)
    np.testing.assert_array_equal(mask_of(out, b["mask:dog"]), inside(PLAIN))
    np.testing.assert_array_equal(mask_of(out, b["mask:cat"]), inside(np.s_[2:20, 3:9]))
    people = inside(np.s_[0:5, 0:60], np.s_[40:44, 1:9])
    np.testing.assert_array_equal(mask_of(out, c["mask"]), people)
    assert said.splitlines()[0] == f"wrote {out / 'manifest.csv'}: 3 pictures"
    assert set(said.splitlines()[1:]) == {
        "1 of them has several of the categories, and so no truth and no mask",
        "1 of them has crowds, one outline around many objects, which are part of their "
        "category's mask",
        "left out: 1 of 4, without an object (such as d.jpg)",
    }


def test_one_category_is_the_object_and_the_others_are_regions(coco: Path) -> None:
    lines, said = from_coco(coco, "--category", "dog")
    assert set(lines) == {"a.jpg", "b.jpg"}
    assert {line["truth"] for line in lines.values()} == {"dog"}
    assert lines["b.jpg"]["mask"] == lines["b.jpg"]["mask:dog"] != ""
    assert lines["b.jpg"]["mask:cat"]
    assert "left out: 2 of 4, without an object of these categories (such as" in said
    assert "several" not in said


def test_runs_are_read_as_pycocotools_reads_them() -> None:
    rng = np.random.default_rng(1)
    for share in (0.0, 0.02, 0.5, 1.0):
        mask = (rng.random((H, W)) < share).astype(np.uint8)
        packed = tools.encode(np.asfortranarray(mask))["counts"].decode()
        for counts in (packed, runs(mask)):
            np.testing.assert_array_equal(_from_runs(counts, [H, W], (H, W)), mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "with an object that is only boxed, not outlined"),
        ([[1, 1, 5, 5]], "with an object whose outline cannot be read"),  # no box in disguise
        ([[1, 1, 5, 5, 7]], "with an object whose outline cannot be read"),
        ([[1, 1, 5, 5, 1e9, 3]], "with an object whose outline cannot be read"),
        ([["x", 1, 5, 5, 1, 3]], "with an object whose outline cannot be read"),
        ([[1, 2, 3, float("nan"), 5, 6]], "with an object whose outline cannot be read"),
        ({"counts": [1, 2], "size": [H, W]}, "with an object whose outline cannot be read"),
        ({"counts": [-5, H * W + 5], "size": [H, W]}, "with an object whose outline cannot be"),
        ({"counts": "", "size": [H, W]}, "with an object whose outline cannot be read"),
        ({"counts": "PPPP9999", "size": [H, W]}, "with an object whose outline cannot be read"),
        ({"counts": [H * W], "size": [W, H]}, "with an object whose outline cannot be read"),
        ({"counts": [[1]], "size": [H, W]}, "with an object whose outline cannot be read"),
        ({}, "with an object that is only boxed"),
        ({"size": [H, W]}, "with an object whose outline cannot be read"),
        ("text", "with an object whose outline cannot be read"),
        (7, "with an object whose outline cannot be read"),
        ({"counts": [H * W], "size": [H, W]}, "without an object"),  # nothing inside
    ],
)
def test_an_outline_that_cannot_be_read_leaves_its_picture_out(
    coco: Path, segmentation: object, reason: str
) -> None:
    objects = [{"image_id": 1, "category_id": 18, "segmentation": segmentation}]
    good = {"counts": runs(inside(PLAIN)), "size": [H, W]}
    change(coco, annotations=[*objects, {"image_id": 2, "category_id": 17, "segmentation": good}])
    lines, said = from_coco(coco)
    assert set(lines) == {"b.jpg"}
    assert reason in said


@pytest.mark.parametrize(
    "name", ["../instances.json", "/etc/hostname", "x/../../a.jpg", "..\\a", "./b.jpg"]
)
def test_a_file_name_that_leads_out(coco: Path, name: str) -> None:
    write_picture(coco / "a.jpg", 1)
    data = json.loads((coco / "instances.json").read_text())
    data["images"][0]["file_name"] = name
    change(coco, images=data["images"])
    lines, said = from_coco(coco)
    assert set(lines) == {"b.jpg", "c.jpg"}
    assert "left out: 1 of 4, whose file_name is no plain path below the folder" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "cannot be read as a JSON file"),
        ("[]", "is no instances file of COCO: it has no list 'images'"),
        ('{"images": [], "annotations": {}}', "it has no list 'annotations'"),
        ('{"images": [{"id": 1}]}', "images.0.file_name is missing, or wrong"),
        ('{"images": [3]}', "images.0.id is missing, or wrong"),
    ],
)
def test_a_file_that_is_none_of_coco(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    found = refused("coco", tmp_path / "x.json", tmp_path, tmp_path / "out")
    assert str(tmp_path / "x.json") in found
    assert message in found


def test_annotations_of_what_is_not_there(coco: Path) -> None:
    change(coco, categories=[{"id": 1, "name": "person"}])
    found = refused("coco", coco / "instances.json", coco / "pictures", coco / "out")
    assert "annotations.0.category_id: there is no 18" in found


def test_without_pycocotools(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    found = refused("coco", coco / "instances.json", coco / "pictures", coco / "out")
    assert "pip install 'cnnaudit[coco]'" in found


# --- Pascal VOC -----------------------------------------------------------------------------------


def test_voc(voc: Path) -> None:
    out = voc.parent / "out"
    lines, said = imported("voc", voc, out=out)
    a, b = lines["a.jpg"], lines["b.jpg"]
    assert list(a) == [
        *("id", "image", "truth", "mask", "mask:cat", "mask:dog", "mask:person", "mask:void")
    ]
    assert (a["truth"], b["truth"], b["mask"]) == ("dog", "", "")
    np.testing.assert_array_equal(mask_of(out, a["mask"]), inside(PLAIN))
    assert mask_of(out, a["mask:void"]).sum() == 24 * 34 - 20 * 30
    np.testing.assert_array_equal(mask_of(out, b["mask:cat"]), inside(PLAIN))
    assert "left out: 1 of 4, without a segmentation (such as" in said
    assert "left out: 1 of 4, without an object (such as d.jpg)" in said


def test_a_split_of_voc(voc: Path) -> None:
    assert set(imported("voc", voc, "--split", "val", out=voc.parent / "out")[0]) == {"a.jpg"}
    for folder, name in (("JPEGImages", "a.jpg"), ("SegmentationClass", "a.png")):
        (voc / folder / name).rename(voc / folder / f"my {name}")
    (voc / "ImageSets/Segmentation/val.txt").write_text("\nmy a \r\nb\n")
    lines, _ = imported("voc", voc, "--split", "val", out=voc.parent / "spaced")
    assert set(lines) == {"my a.jpg", "b.jpg"}
    found = refused("voc", voc, voc.parent / "more", "--split=vall")
    assert "--split: 'vall' is no allowed split. Did you mean 'val'? Allowed: train, val" in found


def test_what_is_no_voc(voc: Path) -> None:
    assert "there is no folder" in refused("voc", voc.parent, voc.parent / "out")
    palette_png(voc / "SegmentationClass/a.png", inside(PLAIN) * 33)
    assert "a.png: its index 33 is no class" in refused("voc", voc, voc.parent / "out")
    write_picture(voc / "SegmentationClass/a.png", 1)
    assert "a.png has the colour mode 'RGB'; allowed is P" in refused("voc", voc, voc / "out")
    assert not (voc / "out").exists()


# --- ImageNet-S -----------------------------------------------------------------------------------


def test_imagenet_s(imagenet_s: Path) -> None:
    out = imagenet_s.parent / "out"
    lines, _ = imported("folder", imagenet_s, out=out)
    assert [line["truth"] for line in lines.values()] == ["n01440764", "n01443537", "n02123045"]
    last = lines["n02123045/val_3.JPEG"]
    np.testing.assert_array_equal(mask_of(out, last["mask"]), inside(PLAIN))
    np.testing.assert_array_equal(mask_of(out, last["mask:void"]), inside(np.s_[0:4, :]))
    np.testing.assert_array_equal(mask_of(out, last["mask:n01440764"]), inside(np.s_[5:9, :]))
    assert lines["n01440764/val_1.JPEG"]["mask:void"] == ""


def test_ids_beyond_a_byte_and_labels_from_a_file(imagenet_s: Path) -> None:
    folder = imagenet_s / "validation-segmentation/n01440764"
    write_ids(folder / "val_1.png", inside(PLAIN).astype(int) * 300)
    found = refused("folder", imagenet_s, imagenet_s.parent / "out")
    assert "val_1.png: there is no class 300, only 3; name all of them in the order" in found
    names = [f"n{number:08}" for number in range(299)] + ["n01440764 tench"]
    (imagenet_s / "classes.txt").write_text("\n".join(names))
    out, classes = imagenet_s.parent / "out", f"--classes={imagenet_s / 'classes.txt'}"
    lines, said = imported("folder", imagenet_s, classes, out=out)
    assert [line["truth"] for line in lines.values()] == ["tench"]
    assert "left out: 2 of 3, in a folder that is none of the 300 classes" in said


def test_splits_of_imagenet_s(imagenet_s: Path) -> None:
    for name in ("train-semi", "train-semi-segmentation", "test"):
        shutil.copytree(imagenet_s / f"validation{name[10:]}", imagenet_s / name)
    out = imagenet_s.parent / "out"
    assert "choose one with --split: train-semi, validation" in refused("folder", imagenet_s, out)
    assert "Did you mean 'validation'?" in refused("folder", imagenet_s, out, "--split=validatio")
    assert len(imported("folder", imagenet_s, "--split=validation", out=out)[0]) == 3
    assert "no pair of folders" in refused("folder", imagenet_s.parent, out.with_name("more"))


def test_a_picture_whose_class_its_segmentation_lacks(imagenet_s: Path) -> None:
    write_ids(
        imagenet_s / "validation-segmentation/n01440764/val_1.png", inside(PLAIN).astype(int) * 0
    )
    lines, said = imported("folder", imagenet_s, out=imagenet_s.parent / "out")
    assert len(lines) == 2
    assert "left out: 1 of 3, whose segmentation lacks the class of its folder" in said


def test_links_as_imagenet_s_makes_them(imagenet_s: Path) -> None:
    """Its scripts link to ImageNet's own folder; the image set holds the pictures themselves."""
    picture = imagenet_s / "validation/n01440764/val_1.JPEG"
    elsewhere = imagenet_s.parent / "val_1.JPEG"
    picture.rename(elsewhere)
    picture.symlink_to(elsewhere)
    out = imagenet_s.parent / "out"
    imported("folder", imagenet_s, out=out)
    assert not (out / "images/n01440764/val_1.JPEG").is_symlink()


# --- what holds for all ---------------------------------------------------------------------------


def test_pictures_are_links_or_else_copies(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another file system")

    original = voc / "JPEGImages/a.jpg"
    imported("voc", voc, out=voc / "linked")
    assert (voc / "linked/images/a.jpg").samefile(original)
    monkeypatch.setattr(os, "link", refuse)
    imported("voc", voc, out=voc / "copied")
    assert not (voc / "copied/images/a.jpg").samefile(original)
    assert (voc / "copied/images/a.jpg").read_bytes() == original.read_bytes()


def test_masks_are_called_as_their_pictures_are() -> None:
    def masks(*names: str) -> list[str]:
        source = Source((), names, read=None)  # type: ignore[arg-type]
        return [source.mask_of(name) for name in names]

    assert masks("a.jpg", "b/x.png", "c") == ["a.png", "b/x.png", "c.png"]
    assert masks("x.jpg", "x.png") == ["x.jpg.png", "x.png.png"]
    assert masks("x.jpg", "x.jpg.png") == ["x.png", "x.jpg.png.png"]
    assert masks("", "..", "/", "a/.hidden") == [".png", "...png", "/.png", "a/.hidden.png"]


def test_a_limit_takes_pictures_by_digest_and_says_what_it_leaves(coco: Path) -> None:
    lines, said = from_coco(coco, "--limit", "1")
    assert len(lines) == 1
    assert "beyond --limit 1" in said
    assert "manifest.csv: 1 picture\n" in said
    for text in ("0", "-1", "x", "1.5", ""):
        found = refused("coco", coco / "instances.json", coco / "pictures", "o", f"--limit={text}")
        assert found == f"--limit: {text!r} is not a whole number, at least 1"


def test_no_truth(coco: Path) -> None:
    lines, _ = from_coco(coco, "--no-truth")
    assert "truth" not in lines["a.jpg"]
    assert lines["a.jpg"]["mask"]


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_pictures(voc: Path, orientation: int) -> None:
    """Segmented as stored, or nobody knows: left out. Segmented as seen, on its side: right."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_picture(voc / "JPEGImages/a.jpg", 1, exif=exif)
    lines, said = imported("voc", voc, out=voc / "out")
    assert set(lines) == {"b.jpg"}
    why = "of another size" if orientation == 6 else "turned by an EXIF orientation"
    assert why in said
    palette_png(voc / "SegmentationClass/a.png", inside(PLAIN).T * 12)
    lines, _ = imported("voc", voc, out=voc / "again")
    assert ("a.jpg" in lines) == (orientation == 6)


def test_a_picture_that_cannot_be_used_is_left_out_by_name(voc: Path) -> None:
    picture = voc / "JPEGImages/a.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    lines, said = imported("voc", voc, out=voc / "out")
    assert set(lines) == {"b.jpg"}
    assert f"whose picture cannot be used (such as {picture} cannot be read" in said


def test_nothing_is_left_and_nothing_is_written(voc: Path) -> None:
    found = refused("voc", voc, voc / "out", "--category", "train")
    assert found.startswith("no picture is left:\nleft out: ")
    assert "left out: 1 of 4, without a segmentation" in found
    assert "left out: 3 of 4, without an object of these categories" in found
    assert {path.name for path in voc.iterdir()} == {
        *("JPEGImages", "SegmentationClass", "ImageSets")
    }


def test_a_folder_in_use(voc: Path) -> None:
    (voc / "empty").mkdir()
    imported("voc", voc, out=voc / "empty")
    for name in ("empty", "JPEGImages/a.jpg"):
        assert "is in use; name a folder that is not there" in refused("voc", voc, voc / name)
    (voc / "link").symlink_to(voc / "nowhere")
    assert "is in use" in refused("voc", voc, voc / "link")
    assert "cannot write" in refused("voc", voc, voc / "JPEGImages/a.jpg/out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coc"], "import: 'coc' is no allowed format. Did you mean 'coco'? Allowed: coco, voc, f"),
        (["voc"], "import voc takes VOC_ROOT OUT; 0 places were given"),
        (["coco", "x", "y"], "import coco takes INSTANCES.json IMAGES_FOLDER OUT; 2 places were"),
        (["coco", "x", "y", "z", "--split=a"], "'--split' is no allowed option"),
        (["voc", "x", "y", "--categry=a"], "'--categry' is no allowed option. Did you mean '--ca"),
        (["voc", "x", "y", "--split"], "import voc: option --split requires argument"),
        (["voc", "x", "y", "--split=a", "--split=b"], "import voc: --split is given twice"),
    ],
)
def test_arguments_that_are_off(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_a_category_that_does_not_exist(voc: Path) -> None:
    found = refused("voc", voc, voc / "out", "--category", "dogg")
    assert "--category: 'dogg' is no allowed category. Did you mean 'dog'?" in found


def test_a_category_that_is_called_as_the_object_is(coco: Path) -> None:
    names = [{"id": n, "name": name} for n, name in ((1, "mask"), (17, "cat"), (18, "dog"))]
    change(coco, categories=names)
    found = refused("coco", coco / "instances.json", coco / "pictures", coco / "out")
    assert "a category is called 'mask', which no region can be; rename it" in found


@pytest.mark.parametrize("name", ["dog\ud800", " "])
def test_a_category_that_has_no_name(coco: Path, name: str) -> None:
    names = [{"id": n, "name": name} for n in (1, 17, 18)]
    change(coco, categories=names)
    found = refused("coco", coco / "instances.json", coco / "pictures", coco / "out")
    assert found.startswith(("'dog\\ud800' is no text; rename it", "a category is called ''"))


def test_the_manifest_holds_no_formula(coco: Path) -> None:
    """It is there to be edited, as tables are in a spreadsheet."""
    (coco / "pictures/a.jpg").rename(coco / "pictures/=a.jpg")
    data = json.loads((coco / "instances.json").read_text())
    data["images"][0]["file_name"] = "=a.jpg"
    change(coco, images=data["images"])
    lines, _ = from_coco(coco)
    assert lines["'=a.jpg"]["image"] == "images/=a.jpg"
    change(coco, categories=[{"id": n, "name": f"=cmd|{n}"} for n in (1, 17, 18)])
    found = refused("coco", coco / "instances.json", coco / "pictures", coco / "more")
    assert found == "a spreadsheet would run the category '=cmd|1'; rename it"


def test_a_size_that_only_the_file_claims(coco: Path) -> None:
    data = json.loads((coco / "instances.json").read_text())
    data["images"][0] |= {"width": 10**9, "height": 10**9}
    change(coco, images=data["images"])
    lines, said = from_coco(coco)
    assert set(lines) == {"b.jpg", "c.jpg"}
    assert "left out: 1 of 4, whose annotations are of another size (such as" in said


def test_help() -> None:
    assert import_set([]) == import_set(["--help"]) == import_set(["voc", "-h"]) == USAGE


def test_from_coco_to_a_report_in_real_processes(coco: Path, weights: Path) -> None:
    call = partial(command, cwd=coco)
    made = call("import", "coco", "instances.json", "pictures", "out", "--category=dog")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("wrote out/manifest.csv: 2 pictures\nleft out: 2 of 4, without")
    again = call("import", "coco", "instances.json", "pictures", "out")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert again.stderr.startswith("error: out is in use")
    ran = call(
        *("run", "experiment=none", "image_set=[manifest]", "image_set.manifest.root=out"),
        *("technique=[saliency]", "metric=[mass_in_mask]", "device=cpu", "output_dir=runs"),
        f"model.perception.weights={weights}",
    )
    assert ran.returncode == 0, ran.stderr
    (rows,) = (pd.read_parquet(path) for path in coco.glob("runs/*/*/results/rows.parquet"))
    heatmaps = rows[rows.technique == "saliency"]
    assert sorted(heatmaps["item"]) == ["a.jpg", "b.jpg"]
    assert set(heatmaps.status) == {"ok"}
