"""Pixels against arrays worked out by hand."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from cnnaudit import figures
from cnnaudit.types import AuditError


def picture(height: int = 4, width: int = 6, value: int = 100) -> figures.Pixels:
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize("name", figures.COLOUR_MAPS)
def test_colours_are_those_of_the_published_map(name: str) -> None:
    ramp = np.arange(256, dtype=np.uint8)[np.newaxis]
    published = colormaps[name](ramp[0], bytes=True)[:, :3]
    assert np.abs(figures.colourise(ramp, name)[0].astype(int) - published).max() <= 1


def test_overlay_mixes_the_grey_picture_with_the_colours() -> None:
    heat = np.array([[0, 255]], dtype=np.uint8)
    view = np.array([[[100, 100, 100], [255, 0, 0]]], dtype=np.uint8)
    low, high = colormaps["inferno"]([0, 255], bytes=True)[:, :3].astype(float)
    mixed, share = figures.overlay(view, heat), figures.ALPHA
    np.testing.assert_allclose(mixed[0, 0], (1 - share) * 100 + share * low, atol=1)
    # Red is 0.299 · 255 = 76 in grey: the hue that is left is the heatmap's.
    np.testing.assert_allclose(mixed[0, 1], (1 - share) * 76 + share * high, atol=1)


def test_overlay_stretches_the_heatmap_with_centres_aligned() -> None:
    heat = np.array([[0, 200]], dtype=np.uint8)
    stretched = cv2.resize(heat, (4, 1), interpolation=cv2.INTER_LINEAR)
    assert stretched.tolist() == [[0, 50, 150, 200]]  # align_corners=False: 0, ¼, ¾, 1
    view = picture(1, 4, 0)
    expected = figures.ALPHA * figures.colourise(stretched)
    np.testing.assert_allclose(figures.overlay(view, heat), expected, atol=1)


def test_overlay_leaves_its_picture_alone() -> None:
    view = picture()
    figures.outline(figures.overlay(view, np.zeros((2, 3), np.uint8)), np.zeros((4, 6), np.uint8))
    assert (view == 100).all()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_an_outline_shows_on_any_ground(ground: int) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[6:14, 6:14] = 255
    drawn = figures.outline(picture(20, 20, ground), mask)
    assert drawn[6, 10].tolist() == [255, 255, 255]  # on the border of the mask
    assert drawn[5, 10].tolist() == drawn[7, 10].tolist() == [0, 0, 0]
    assert (drawn[:4] == ground).all()
    assert (drawn[9:11, 9:11] == ground).all()


def test_an_empty_mask_has_no_outline() -> None:
    np.testing.assert_array_equal(figures.outline(picture(), np.zeros((4, 6), np.uint8)), picture())


def test_the_interesting_region_is_what_exceeds_the_threshold_of_the_range() -> None:
    heat = np.full((4, 6), 50, dtype=np.uint8)
    heat[1, 2:5] = [81, 150, 80]  # the range is 50 to 150: 0.31, 1 and exactly 0.3
    heat[2, 3] = 100
    region = figures.interesting_region(picture(), heat)
    assert region is not None
    assert region.box == (2, 1, 4, 3)
    assert region.share == pytest.approx(3 / 24)
    assert region.crop.shape == (2, 2, 4)
    assert region.crop[..., 3].tolist() == [[255, 255], [0, 255]]
    assert (region.crop[..., :3] == 100).all()


@pytest.mark.parametrize("value", [0, 7])
def test_a_flat_heatmap_has_no_interesting_region(value: int) -> None:
    assert figures.interesting_region(picture(), np.full((2, 3), value, np.uint8)) is None


def test_a_montage_lays_pictures_in_rows_with_clear_gaps() -> None:
    pictures = [np.full((2, 3), value, np.uint8) for value in (10, 20, 30)]
    laid = figures.montage(pictures, columns=2, cell=7)  # twice their size: 4 × 6
    assert laid.shape == (4 + 2 + 4, 6 + 2 + 6, 4)
    assert (laid[:4, :6] == (10, 10, 10, 255)).all()
    assert (laid[:4, 8:] == (20, 20, 20, 255)).all()
    assert (laid[6:, :6] == (30, 30, 30, 255)).all()
    assert laid[..., 3].sum() == 3 * 4 * 6 * 255


def test_a_montage_shrinks_what_is_larger_and_keeps_colours() -> None:
    laid = figures.montage([np.full((20, 10, 3), (1, 2, 3), np.uint8)], columns=4, cell=10)
    assert laid.shape == (10, 5, 4)
    assert (laid == (1, 2, 3, 255)).all()


def test_a_prediction_map_begins_at_the_bottom() -> None:
    values = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    drawn = figures.prediction_map(values, 0, 1)
    low, high = figures.colourise(np.array([[0, 255]], dtype=np.uint8))[0].tolist()
    assert drawn.shape == (2, 3, 3)
    assert drawn[:, 0].tolist() == [high, low]
    assert drawn[0, 1].tolist() == low


def test_a_prediction_map_survives_a_range_of_nothing_and_a_missing_value() -> None:
    drawn = figures.prediction_map(np.array([[np.nan, 0.0]]), 0, 0)
    assert drawn.shape == (1, 2, 3)


def test_fit_shrinks_and_never_enlarges() -> None:
    assert figures.fit(picture(40, 60), 30).shape == (20, 30, 3)
    assert figures.fit(picture(4, 6), 30).shape == (4, 6, 3)
    assert figures.fit(picture(1, 1000), 30).shape == (1, 30, 3)


@pytest.mark.parametrize(
    ("quality", "kind", "worst"), [(None, "webp", 0), (75, "jpeg", 12), (75, "webp", 12)]
)
def test_a_data_uri_holds_the_picture(quality: int | None, kind: str, worst: int) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[np.newaxis, :, np.newaxis] * 3, 3, axis=2)
    pixels = np.repeat(ramp, 32, axis=0)
    if quality and kind == "webp":  # a picture that is clear in places is no JPEG
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    start, _, code = figures.data_uri(pixels, quality).partition(",")
    assert start == f"data:image/{kind};base64"
    with Image.open(io.BytesIO(base64.b64decode(code))) as image:
        found = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(found - pixels[..., :3]).max() <= worst


def test_pictures_and_masks_are_decoded_to_rgb_and_grey() -> None:
    stream = io.BytesIO()
    Image.new("LA", (3, 2), (255, 128)).save(stream, "PNG")
    assert figures.decode(stream.getvalue()).shape == (2, 3, 3)
    assert figures.decode_grey(stream.getvalue()).tolist() == [[255] * 3] * 2


@pytest.mark.parametrize(
    ("kind", "most", "said"),
    [("PNG", 2, "exceeds limit"), ("WEBP", 5, "exceeds limit"), ("BMP", 100, "cannot identify")],
)
def test_what_is_no_picture_of_ours_is_not_decoded(
    kind: str, most: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may be somebody else's, and OpenCV takes any format and a billion pixels."""
    content = figures.encoded(Image.fromarray(picture(2, 3)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    for decode in (figures.decode, figures.decode_grey):
        with pytest.raises(AuditError, match=f"none that an audit writes .*{said}"):
            decode(content)


def test_a_coded_heatmap_is_shown_within_a_step_or_two_of_the_colour_scale() -> None:
    heat = np.random.default_rng(3).exponential(size=(40, 50)) - 0.2
    share = np.maximum(heat, 0) / heat.max()
    shown = figures.shown(figures.coded(heat), 1.0)
    assert np.abs(shown - 255 * share).max() <= 1.5
    assert np.array_equal(figures.coded(5e-320 * (heat > 0)) > 0, heat > 0)
    assert not figures.coded(-np.ones((2, 2))).any()
    brightest = float(np.percentile(share, 99))
    upto = figures.shown(figures.coded(heat), brightest)
    assert np.abs(upto - 255 * np.minimum(share / brightest, 1)).max() <= 1.5 / brightest
    assert (upto == 255).mean() == pytest.approx(0.01, abs=0.005)
