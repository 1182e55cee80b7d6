"""Every form that people save pictures and masks in: read right, or refused by name."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from cnnaudit.image_sets import load_image_set
from cnnaudit.image_sets.files import picture_size, read_image, read_mask
from cnnaudit.specs import ImageSetSpec
from cnnaudit.types import AuditError

H, W = 24, 32
RGB = np.zeros((H, W, 3), np.uint8)  # four plain quarters, so that lossy files keep them
RGB[: H // 2, : W // 2], RGB[: H // 2, W // 2 :] = (250, 250, 250), (10, 10, 10)
RGB[H // 2 :, : W // 2], RGB[H // 2 :, W // 2 :] = (230, 20, 30), (20, 60, 220)
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
DEEP = (np.random.default_rng(0).random((H, W, 3)) * 65535).astype(np.uint16)

Write = Callable[[Path], object]


def pillow(image: Image.Image, **options) -> Write:
    return lambda path: image.save(path, **options)


def opencv(pixels: np.ndarray) -> Write:
    """Pillow cannot write colours of 16 bits."""
    return lambda path: cv2.imwrite(str(path), pixels)


def rgb(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RGB).convert(mode)


FOUR = rgb().quantize(4)  # with a palette


def with_opacity(mode: str, corner: int) -> Image.Image:
    image = rgb(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.putpixel((0, 0), corner)
    image.putalpha(alpha)
    return image


def frames(number: int) -> dict:
    return {
        "save_all": True,
        "append_images": [Image.new("RGB", (W, H), n * 40) for n in range(1, number)],
    }


READ = {
    "RGB.png": (pillow(rgb()), RGB),
    "RGB.jpg": (pillow(rgb(), quality=95), RGB),
    "progressive.jpg": (pillow(rgb(), quality=95, progressive=True), RGB),
    "RGB.webp": (pillow(rgb(), lossless=True), RGB),
    "RGB.tiff": (pillow(rgb()), RGB),
    "RGB.bmp": (pillow(rgb()), RGB),
    "grey.png": (pillow(rgb("L")), GREY),
    "grey.jpg": (pillow(rgb("L"), quality=95), GREY),
    "palette.png": (pillow(FOUR), RGB),
    "palette.gif": (pillow(FOUR), RGB),
    "opaque palette.png": (pillow(FOUR, transparency=b"\xff" * 256), RGB),
    "two-tone.png": (pillow(Image.fromarray(GREY > 99)), (GREY > 99) * np.uint8(255)),
    "opaque RGBA.png": (pillow(with_opacity("RGB", 255)), RGB),
    "opaque LA.png": (pillow(with_opacity("L", 255)), GREY),
    "CMYK.jpg": (pillow(rgb("CMYK"), quality=95), RGB),
    "CMYK.tiff": (pillow(rgb("CMYK")), RGB),
    "with previews.mpo": (pillow(rgb(), format="MPO", quality=95, **frames(2)), RGB),
}

REFUSED = {
    "16-bit grey.png": (opencv(DEEP[..., 0]), "16 bits per channel; save it with 8"),
    "16-bit RGB.png": (opencv(DEEP), "16 bits per channel; save it with 8"),
    "16-bit RGBA.png": (opencv(np.dstack([DEEP, DEEP[..., :1]])), "16 bits per channel"),
    "16-bit grey.tiff": (opencv(DEEP[..., 0]), "16 bits per channel"),
    "16-bit RGB.tiff": (opencv(DEEP), "16 bits per channel"),
    "32-bit.tiff": (pillow(Image.new("I", (W, H), 70000)), "has the colour mode 'I'; allowed"),
    "float.tiff": (pillow(Image.new("F", (W, H), 0.5)), "has the colour mode 'F'; allowed"),
    "LAB.tiff": (pillow(Image.new("LAB", (W, H))), "has the colour mode 'LAB'; allowed"),
    "RGBA.png": (pillow(with_opacity("RGB", 254)), "is transparent in places; flatten it"),
    "LA.png": (pillow(with_opacity("L", 0)), "is transparent in places; flatten it"),
    "RGBA.webp": (pillow(with_opacity("RGB", 0)), "is transparent in places; flatten it"),
    "palette.png": (pillow(FOUR, transparency=b"\x00" * 256), "is transparent in places"),
    "animated.gif": (pillow(FOUR, **frames(3)), "has 3 frames; save the one that counts"),
    "animated.png": (pillow(rgb(), **frames(3)), "has 3 frames; save the one that counts"),
    "animated.webp": (pillow(rgb(), **frames(2)), "has 2 frames; save the one that counts"),
    "pages.tiff": (pillow(rgb(), **frames(2)), "has 2 frames; save the one that counts"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_read_right(tmp_path: Path, name: str) -> None:
    write, expected = READ[name]
    write(tmp_path / name)
    expected = expected if expected.ndim == 3 else np.stack([expected] * 3, axis=-1)
    found = read_image(tmp_path / name)
    assert found.mode == "RGB"
    tolerance = 0 if Path(name).suffix in (".png", ".webp", ".tiff", ".bmp", ".gif") else 12
    inner = np.asarray(found).astype(int)[2:-2, 2:-2] - expected.astype(int)[2:-2, 2:-2]
    inner[H // 2 - 4 : H // 2] = inner[:, W // 2 - 4 : W // 2] = 0  # where a lossy file rings
    assert abs(inner).max() <= tolerance
    assert picture_size(tmp_path / name, "set") == (W, H)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path: Path, name: str) -> None:
    write, message = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(AuditError, match=f"{name} {message}|{name} has.*{message}"):
        read_image(tmp_path / name)


# --- turned by EXIF -------------------------------------------------------------------------------


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


# What each orientation means: rows and columns of the stored picture as they are to be seen.
AS_SEEN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],
    8: lambda stored: stored.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("value", AS_SEEN)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_picture_is_seen_as_its_orientation_says(tmp_path: Path, suffix: str, value: int) -> None:
    path, options = tmp_path / f"a.{suffix}", {"lossless": True} if suffix == "webp" else {}
    rgb().save(path, exif=orientation(value), **options)
    expected, found = AS_SEEN[value](RGB), read_image(path)
    corners = (slice(2, None, found.height - 5), slice(2, None, found.width - 5))
    off = np.asarray(found)[corners].astype(int) - expected[corners]
    assert abs(off).max() <= (12 if suffix == "jpg" else 0)
    assert picture_size(path, "set") == found.size == expected.shape[1::-1]


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


KEY, PROFILE = b"Raw profile type exif\0", b"\nexif\n60\n" + orientation(6).tobytes().hex().encode()
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
AT_THE_END = {
    "eXIf": chunk(b"eXIf", orientation(6).tobytes().removeprefix(b"Exif\0\0")),
    "tEXt": chunk(b"tEXt", KEY + PROFILE),
    "zTXt": chunk(b"zTXt", KEY + b"\0" + zlib.compress(PROFILE)),
    "iTXt": chunk(b"iTXt", XMP),
}


@pytest.mark.parametrize("kind", AT_THE_END)
def test_a_png_may_say_it_behind_its_pixels(tmp_path: Path, kind: str) -> None:
    rgb().save(tmp_path / "a.png")
    content, end = (tmp_path / "a.png").read_bytes(), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content.removesuffix(end) + AT_THE_END[kind] + end)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), AS_SEEN[6](RGB))
    assert picture_size(tmp_path / "a.png", "set") == (H, W)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp", "gif"])
def test_the_size_of_a_picture_takes_no_decoding(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb().save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _image: pytest.fail("it is decoded"))
    assert picture_size(tmp_path / f"a.{suffix}", "set") == (W, H)


@pytest.mark.parametrize("value", [0, 9, 60000])
def test_an_orientation_that_means_nothing(tmp_path: Path, value: int) -> None:
    rgb().save(tmp_path / "a.png", exif=orientation(value))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), RGB)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(exif=st.binary(max_size=60), begins=st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*"]))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_is_no_reason_to_fall_over(
    tmp_path: Path, suffix: str, exif: bytes, begins: bytes
) -> None:
    path = tmp_path / f"a.{suffix}"
    rgb().save(path, exif=b"Exif\0\0" + begins + exif)
    with contextlib.suppress(AuditError):
        assert read_image(path).size == picture_size(path, "set")


def test_a_mask_is_turned_only_where_it_says_so_itself(tmp_path: Path) -> None:
    rgb().save(tmp_path / "picture.jpg", exif=orientation(6))
    mask = np.zeros((H, W), np.uint8)
    mask[:3] = 255
    Image.fromarray(mask).save(tmp_path / "stored.png")
    Image.fromarray(mask).save(tmp_path / "turned.png", exif=orientation(6))
    Image.fromarray(mask.T.copy()).save(tmp_path / "seen.png")

    def load(name: str) -> None:
        (tmp_path / "manifest.csv").write_text(f"id,image,mask\none,picture.jpg,{name}.png\n")
        load_image_set(ImageSetSpec("set", "manifest", tmp_path, None, 1, (), {}, {}))

    load("seen")
    load("turned")
    assert np.asarray(read_mask(tmp_path / "turned.png"))[:, -3:].all()
    with pytest.raises(AuditError, match=r"is 32×24 pixels, its picture 24×32; .* is turned, as"):
        load("stored")


# --- masks ----------------------------------------------------------------------------------------

LABELS = np.zeros((H, W), np.uint8)
LABELS[5:9, 4:20], LABELS[12:20, 4:20] = 1, 2


def palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 0, 128, 0, 0] + [200] * 759)  # the class 1 is black as well
    return image


def test_the_indices_of_a_palette_count_and_not_its_colours(tmp_path: Path) -> None:
    palette(LABELS == 1).save(tmp_path / "m.png")
    np.testing.assert_array_equal(np.asarray(read_mask(tmp_path / "m.png")), (LABELS == 1) * 255)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (pillow(palette(LABELS)), "is no mask: it has 2 values beside 0; .*import voc` or `folder"),
        (pillow(rgb()), "has the colour mode 'RGB'; .*import voc` or `folder`"),
        (pillow(with_opacity("RGB", 0)), "has the colour mode 'RGBA'; a mask has one channel"),
        (opencv(DEEP[..., 0]), "has 16 bits per channel"),
    ],
)
def test_what_is_no_mask_of_one_region(tmp_path: Path, write: Write, message: str) -> None:
    write(tmp_path / "m.png")
    with pytest.raises(AuditError, match=f"m.png {message}"):
        read_mask(tmp_path / "m.png")
