"""Regions that a manifest draws: boxes and polygons, and everything that reads them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import points_in_poly

from cnnaudit.image_sets import load_image_set
from cnnaudit.image_sets.batches import Reader
from cnnaudit.image_sets.files import file_inside, read_region
from cnnaudit.image_sets.outlines import read_outline
from cnnaudit.models.preprocessing import prepare_image, prepare_mask
from cnnaudit.plan import image_set_digest, item_fields, swap_partners
from cnnaudit.specs import ImageSetSpec, Preprocessing
from cnnaudit.types import AuditError, Batch, ImageSet, Outline

SPEC = ImageSetSpec("set", "manifest", Path(), None, 1, (), {}, {})
SIZE = (8, 6)  # width, height


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the pictures a and b, and the mask of the box 3 2 5 4."""
    for name in ("a", "b"):
        Image.new("RGB", SIZE, (200, 10, 10)).save(tmp_path / f"{name}.png")
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[2:4, 3:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def load(root: Path, manifest: str) -> ImageSet:
    (root / "manifest.csv").write_text(manifest)
    return load_image_set(replace(SPEC, root=root))


def drawn(cell: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.asarray(read_region(read_outline(cell, size, "here"))) > 0


# --- which pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "rows", "columns"),
    [
        ("box:3 2 5 4", slice(2, 4), slice(3, 5)),
        ("box: 0 0 8 6 ", slice(None), slice(None)),
        ("box:2.5 1.5 4.5 3.5", slice(1, 3), slice(2, 4)),  # a centre on the left edge is inside
        ("box:2.6 1.6 4.4 3.4", slice(2, 3), slice(3, 4)),
        ("polygon:3 2 5 2 5 4 3 4", slice(2, 4), slice(3, 5)),
        ("polygon:3 4 5 4 5 2 3 2", slice(2, 4), slice(3, 5)),  # the other way round
        ("polygon:1 1 2 1 2 2 1 2; 1 1 3 1 3 2 1 2", slice(1, 2), slice(1, 3)),  # overlapping
    ],
)
def test_a_pixel_belongs_when_its_centre_is_inside(cell: str, rows: slice, columns: slice) -> None:
    expected = np.zeros(SIZE[::-1], bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(drawn(cell), expected)


def test_a_triangle_by_hand() -> None:
    """Centres on its right edge are outside, as those on the right edge of a box are."""
    rows = ["".join(".#"[int(pixel)] for pixel in row) for row in drawn("polygon:0 0 6 6 0 6")]
    assert rows == ["........", "#.......", "##......", "###.....", "####....", "#####..."]


def test_more_edges_than_a_byte_counts() -> None:
    """All of 600 strips in one polygon, to the left of the pixels of its last."""
    strips = "".join(f" {x / 100} 0 {x / 100} 6 {(x + 1) / 100} 6 {(x + 1) / 100} 0"
                     for x in range(0, 600, 2))  # fmt: skip
    mask = read_region(read_outline(f"polygon:{strips} 6 0 6 6 8 6 8 0", SIZE, "here"))
    assert (np.asarray(mask)[:, 6:] > 0).all()


def test_a_large_picture_takes_a_few_bytes_for_each_of_its_pixels() -> None:
    """One of a hundred kilobytes may have eighty million of them, and a manifest many polygons."""
    size = 2000
    tracemalloc.start()
    read_outline(f"polygon:0 0 {size} 0 {size} {size}; 0 0 0 9 9 9", (size, size), "here")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 * size**2


def test_parts_may_be_apart_and_a_part_may_have_a_hole() -> None:
    two = drawn("polygon:0 0 2 0 2 2 0 2; 6 4 8 4 8 6 6 6")
    assert two.sum() == 8
    assert two[0, 0]
    assert two[5, 7]
    ring = drawn("polygon:0 0 6 0 6 6 0 6 0 0 2 2 4 2 4 4 2 4 2 2")  # there and back, even-odd
    assert ring.sum() == 36 - 4
    assert not ring[2:4, 2:4].any()


# Off the half pixels, where centres lie: on an edge, references differ.
place = st.integers(0, 40).map(lambda n: n / 2 + 0.13)


@given(st.lists(st.tuples(place, place), min_size=3, max_size=7))
def test_as_scikit_image_decides_for_points(corners: list[tuple[float, float]]) -> None:
    corners = [(x + n * 0.0107, y + n * 0.0071) for n, (x, y) in enumerate(corners)]
    cell = "polygon:" + " ".join(f"{x} {y}" for x, y in corners)
    y, x = np.mgrid[:21, :21] + 0.5
    expected = points_in_poly(np.stack([x.ravel(), y.ravel()], 1), corners).reshape(21, 21)
    if expected.any():
        np.testing.assert_array_equal(drawn(cell, (21, 21)), expected)
    else:
        with pytest.raises(AuditError, match="holds no pixel"):
            drawn(cell, (21, 21))


# --- what is wrong with it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("bx:1 2 3 4", "'bx' is no allowed form of a region. Did you mean 'box'? Allowed: box, po"),
        ("poly:1 2 3 4 5 6", "'poly' is no allowed form of a region. Did you mean 'polygon'?"),
        ("box:", "has 0 numbers, a box four: box:LEFT TOP RIGHT BOTTOM"),
        ("box:1 2 3", "has 3 numbers, a box four"),
        ("box:1 2 3 4 5", "has 5 numbers, a box four"),
        ("box:3 4 5 2", "is empty"),
        ("box:1;2;3;4", "is no box (could not convert string to float: '1;2;3;4'); write box:LEFT"),
        ("box:1 2 3 x", "is no box (could not convert string to float: 'x')"),
        ("box:1 2 3 nan", "is no box: every number must be finite"),
        ("polygon:1 1 2 inf 3 3", "is no polygon: every number must be finite"),
        ("box:3 2 3 4", "is empty: left must be below right, and top below bottom"),
        ("box:5 2 3 4", "is empty: left must be below right"),
        ("box:3 2 9 4", "leaves its picture at (9, 2); it is 8×6 pixels"),
        ("box:-1 2 3 4", "leaves its picture at (-1, 2)"),
        ("box:3 2 5 6.5", "leaves its picture at (5, 6.5)"),
        ("box:3.6 2 4.4 4", "holds no pixel: the centre of none lies inside"),
        ("polygon:1 1 2 2", "one of its polygons has 4 numbers; it needs two for each corner"),
        ("polygon:1 1 2 2 3 3 4", "one of its polygons has 7 numbers"),
        ("polygon:0 0 4 0 4 4; 1 1", "one of its polygons has 2 numbers"),
        ("polygon:0 0 4 0 4 4;", "one of its polygons has 0 numbers"),
        ("polygon:1 1 3 3 5 5", "holds no pixel"),
        ("polygon:1 1 1 1 1 1", "holds no pixel"),
        ("polygon:0 0 80 0 4 4", "leaves its picture at (80, 0)"),
    ],
)
def test_an_outline_that_is_off(root: Path, cell: str, message: str) -> None:
    with pytest.raises(AuditError) as error:
        load(root, f'id,image,mask:sky\n"one",a.png,\ntwo,b.png,{cell}\n')
    assert str(error.value).startswith(f"{root / 'manifest.csv'}, line 3, mask:sky: ")
    assert message in str(error.value)


def test_of_a_picture_that_cannot_be_read(root: Path) -> None:
    (root / "a.png").write_bytes(b"no")
    lines = "id,image,mask\none,a.png,box:1 1 2 2\n"
    with pytest.raises(AuditError, match=r"item 'one': .*a.png cannot be read as a picture"):
        load(root, lines)
    one, two = load(root, f"{lines}two,b.png,box:1 1 2 2\n").items
    assert (set(one.regions), set(two.regions)) == (set(), {"mask"})


def test_a_file_may_have_a_colon_in_its_name(root: Path) -> None:
    (root / "mask.png").rename(root / "a:b.png")
    (item,) = load(root, "id,image,mask\none,a.png,a:b.png\n").items
    assert item.regions == {"mask": file_inside(root, "a:b.png", "")}


# --- everything that reads regions ----------------------------------------------------------------

MANIFEST = "id,image,mask,mask:sky\none,a.png,{},\ntwo,b.png,mask.png,box:0 0 8 2\n"
PREPROCESSING = Preprocessing((12, 16), "box", "rgb", (0, 0, 0), (1, 1, 1))


def test_items_and_digests(root: Path) -> None:
    found = load(root, MANIFEST.format("box:3 2 5 4"))
    corners = ((3.0, 2.0), (5.0, 2.0), (5.0, 4.0), (3.0, 4.0))
    assert found.items[0].regions == {"mask": Outline(SIZE, (corners,))}
    assert item_fields(found.items[0])["regions"] == {
        "mask": {"size": SIZE, "polygons": (corners,)}
    }
    same = load(root, MANIFEST.format("box: 3 2  5.0 4"))
    other = load(root, MANIFEST.format("box:3 2 5 5"))
    assert image_set_digest(found) == image_set_digest(same) != image_set_digest(other)


def test_batches_and_swapped_masks_are_those_of_a_mask_file(root: Path) -> None:
    def read(cell: str) -> Batch:
        found = load(root, MANIFEST.format(cell))
        image = partial(prepare_image, preprocessing=PREPROCESSING)
        mask = partial(prepare_mask, preprocessing=PREPROCESSING)
        partners = tuple(swap_partners(found)[item.id] for item in found.items)
        reader = Reader(image, mask, 2, swapped=frozenset({"mask", "sky"}))
        ((batch,),) = map(list, reader.read([(found.items, partners)]))
        return batch

    drawn, of_files = read("box:3 2 5 4"), read("mask.png")
    assert drawn.masks["mask"].pixels[0].sum() == 16
    assert drawn.masks["sky"].pixels[1, :4].all()
    assert drawn.masks["sky"].present == (False, True)
    assert drawn.swaps["sky"].present == (True, False)  # the other way round
    for name, swapped in drawn.swaps.items():
        assert torch.equal(swapped.pixels, drawn.masks[name].pixels.flip(0))
        assert torch.equal(swapped.pixels, of_files.swaps[name].pixels)
        assert torch.equal(drawn.masks[name].pixels, of_files.masks[name].pixels)
