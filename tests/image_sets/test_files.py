"""Files that somebody else made: read as they are meant, or refused by name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from cnnaudit.image_sets.files import read_image, read_mask, read_truth
from cnnaudit.types import AuditError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff"])
def test_a_picture_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB), **options)
    np.testing.assert_array_equal(np.asarray(read_image(path)), RGB)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
def test_modes_that_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode)
    found = read_image(saved(tmp_path / "a.png", image))
    assert found.mode == "RGB"
    assert np.asarray(found).min() == 255


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "RGB", "LA"])
def test_a_transparent_picture(tmp_path: Path, mode: str) -> None:
    """Not only by an alpha channel: a palette or a colour can be named transparent."""
    pixels = np.full((6, 8, 4), 255, np.uint8)
    pixels[0, 0] = (7, 7, 7, 0)
    image, options = Image.fromarray(pixels), {}
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
    else:
        image = image.convert("RGB").convert(mode)
        options = {"transparency": (7, 7, 7) if mode == "RGB" else image.getpixel((0, 0))}
    path = saved(tmp_path / "a.png", image, **options)
    with pytest.raises(AuditError, match=r"a.png (is transparent in places|has the colour mode)"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.tiff", Image.new("F", (8, 6), 0.5)),
        ("a.tiff", Image.new("I", (8, 6), 70000)),
        ("a.tiff", Image.new("LAB", (8, 6))),
    ],
)
def test_colour_modes_that_are_not_read(tmp_path: Path, name: str, image: Image.Image) -> None:
    path = saved(tmp_path / name, image)
    with pytest.raises(AuditError, match=f"{name} has the colour mode .* allowed are 8-bit"):
        read_image(path)


def test_a_program_that_draws_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by the content, whatever the name, and hands PostScript to Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it was run"))
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), format="EPS")
    for read in (read_image, read_mask):
        with pytest.raises(AuditError, match=r"a.png is PostScript, a program that draws"):
            read(path)


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for content in (b"", b"<svg/>", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(AuditError, match=r"a.png cannot be read as a picture"):
            read_image(path)
    with pytest.raises(AuditError, match="cannot be read as a picture"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(AuditError, match="cannot be read as a picture"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif"])
def test_a_truncated_picture(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AuditError, match=rf"a.{suffix} cannot be read as a picture"):
        read_image(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(["png", "jpg", "webp", "gif", "bmp"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_picture_is_read_or_refused_and_raises_nothing_else(
    tmp_path: Path, suffix: str, changes: list[tuple[float, int]]
) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB))
    content = bytearray(path.read_bytes())
    for where, value in changes:
        content[int(where * len(content))] = value
    path.write_bytes(content)
    with contextlib.suppress(AuditError):
        assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("factor", [1.5, 4])  # where Pillow warns, and where it refuses
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_decompression_bomb(tmp_path: Path, monkeypatch, read, factor: float) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (80, 60)))
    read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(80 * 60 / factor))
    with pytest.raises(AuditError, match=r"a.png is too large to be decoded safely"):
        read(path)


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [1, 128, 255])
def test_a_mask_has_zero_outside_and_one_value_inside(tmp_path: Path, inside: int) -> None:
    pixels = np.zeros((6, 8), np.uint8)
    pixels[2:4, 3:7] = inside
    found = read_mask(saved(tmp_path / "m.png", Image.fromarray(pixels)))
    np.testing.assert_array_equal(np.asarray(found), (pixels > 0) * 255)


def test_masks_of_one_bit_and_with_a_palette(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8), np.uint8)
    pixels[2:4, 3:7] = 1
    palette = Image.fromarray(pixels, "L").convert("P")
    palette.putdata(pixels.ravel().tolist())
    palette.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    for image in (Image.fromarray(pixels * 255).convert("1"), palette):
        found = read_mask(saved(tmp_path / "m.png", image))
        np.testing.assert_array_equal(np.asarray(found), pixels * 255)


def test_empty_and_full_masks_are_masks(tmp_path: Path) -> None:
    for value in (0, 255):
        found = read_mask(saved(tmp_path / "m.png", Image.new("L", (8, 6), value)))
        assert set(np.asarray(found).ravel().tolist()) == {value}


def test_what_is_no_mask(tmp_path: Path) -> None:
    grey = np.zeros((6, 8), np.uint8)
    grey[0, :3] = (100, 200, 255)
    with pytest.raises(AuditError, match=r"m.png is no mask: it has 3 values beside 0"):
        read_mask(saved(tmp_path / "m.png", Image.fromarray(grey)))
    with pytest.raises(AuditError, match=r"m.png has the colour mode 'RGB'"):
        read_mask(saved(tmp_path / "m.png", Image.fromarray(RGB)))
    (tmp_path / "m.png").write_bytes(b"no")
    with pytest.raises(AuditError, match=r"m.png cannot be read as a mask"):
        read_mask(tmp_path / "m.png")


# --- truths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["l,c,r\n0,1,0.5\n1,0,0\n", "\ufeffl,c,r\r\n0,1,.5\r\n\r\n1,0,0\n\n"]
)
def test_truth(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    found = read_truth(tmp_path / "t.csv")
    assert found.dtype == np.float64
    assert found.tolist() == [[0, 1, 0.5], [1, 0, 0]]


@pytest.mark.parametrize(
    "text",
    ["", "l,r\n", "l,r\n\n\n", "l,r\n0,x\n", "l,r\n0,1\n0\n", "l,r\n0,nan\n", "l,r\n0,inf\n"],
)
def test_a_truth_that_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(AuditError, match=r"t.csv is no table of"):
        read_truth(tmp_path / "t.csv")


def test_a_truth_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"l,r\n\xff\xfe,1\n")
    with pytest.raises(AuditError, match=r"t.csv is no table of"):
        read_truth(tmp_path / "t.csv")
    with pytest.raises(AuditError, match=r"gone.csv is no table of"):
        read_truth(tmp_path / "gone.csv")


@pytest.mark.parametrize("width", [53, 160, 533, 720])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_eight_bits_are_taken_whatever_else_is_sixteen(
    tmp_path: Path, width: int, mode: str
) -> None:
    """A bitmap of 720 pixels has 2160 bytes a line; a TIFF says where its parts lie."""
    picture = Image.new("RGB", (width, 9), (7, 90, 200)).convert(mode)
    for name, options in (("a.bmp", {}), ("a.tiff", {"compression": "tiff_lzw"})):
        picture.save(tmp_path / name, **options)
        assert read_image(tmp_path / name).size == (width, 9)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.ppm"])
def test_sixteen_bits_of_a_colour_are_refused(tmp_path: Path, name: str) -> None:
    cv2.imwrite(str(tmp_path / name), np.full((8, 16, 3), 40_000, np.uint16))
    with pytest.raises(AuditError, match=r"a\.\w+ has 16 bits per channel|colour mode 'I"):
        read_image(tmp_path / name)
