from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cnnaudit.models.preprocessing import frame, frame_box, prepare_image, prepare_mask, received
from cnnaudit.specs import RESAMPLING, Preprocessing

PLAIN = Preprocessing((64, 80), "box", "rgb", (0, 0, 0), (1, 1, 1))
ROBOT = replace(PLAIN, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def picture(height: int = 256, width: int = 320, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_box_is_the_rounded_mean_of_each_block() -> None:
    pixels = picture()
    # Pillow takes the rows first and then the columns, each time rounded to 8 bits, a half up.
    by_row = np.floor(pixels.reshape(256, 80, 4, 3).mean(axis=2) + 0.5)
    expected = np.floor(by_row.reshape(64, 4, 80, 3).mean(axis=1) + 0.5)
    found = prepare_image(Image.fromarray(pixels), PLAIN).numpy().transpose(1, 2, 0) * 255
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_image_is_float_normalised_and_channels_first() -> None:
    pixels = np.zeros((64, 80, 3), np.uint8)
    pixels[5, 7] = (0, 128, 255)
    preprocessing = replace(PLAIN, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    image = prepare_image(Image.fromarray(pixels), preprocessing)
    assert (image.shape, image.dtype) == ((3, 64, 80), torch.float32)
    expected = [(0 - 0.1) / 0.5, (128 / 255 - 0.2) / 0.25, (1 - 0.3) / 2]
    assert image[:, 5, 7].tolist() == pytest.approx(expected, rel=1e-6)


def test_bgr_turns_the_channels_before_the_statistics() -> None:
    pixels = np.zeros((64, 80, 3), np.uint8)
    pixels[...] = (255, 0, 51)
    preprocessing = replace(PLAIN, channels="bgr", mean=(0.2, 0.3, 0.4))
    image = prepare_image(Image.fromarray(pixels), preprocessing)
    assert image[:, 0, 0].tolist() == pytest.approx([0.2 - 0.2, 0 - 0.3, 1 - 0.4], abs=1e-6)


def test_a_network_of_grey_pictures_receives_one_channel() -> None:
    grey = Image.fromarray(picture(64, 80)[..., 0])
    preprocessing = replace(PLAIN, channels="grey", mean=(0.2,), std=(0.5,))
    image = prepare_image(grey.convert("RGB"), preprocessing)
    assert image.shape == (1, 64, 80)
    np.testing.assert_allclose(image[0], (np.asarray(grey) / 255 - 0.2) / 0.5, atol=1e-6)
    seen = received(image, preprocessing)
    np.testing.assert_array_equal(seen, np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("seed", range(3))
def test_received_is_the_inverse(channels: str, seed: int) -> None:
    pixels = picture(64, 80, seed)
    preprocessing = replace(ROBOT, channels=channels, mean=(0.485, 0.456, 0.406))
    image = prepare_image(Image.fromarray(pixels), preprocessing)
    as_it_comes_in = pixels if channels == "rgb" else pixels[..., ::-1]
    np.testing.assert_array_equal(received(image, preprocessing), as_it_comes_in)


def test_received_is_clipped() -> None:
    assert received(torch.full((3, 2, 2), 9.0), ROBOT).max() == 255
    assert received(torch.full((3, 2, 2), -9.0), ROBOT).min() == 0


@pytest.mark.parametrize("block", [(0, 0, 4, 4), (8, 20, 40, 100), (252, 316, 256, 320)])
def test_an_aligned_rectangle_scales_exactly(block: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = block
    mask = np.zeros((256, 320), np.uint8)
    mask[top:bottom, left:right] = 255
    small = prepare_mask(Image.fromarray(mask), ROBOT)
    expected = torch.zeros(64, 80, dtype=torch.bool)
    expected[top // 4 : bottom // 4, left // 4 : right // 4] = True
    assert small.dtype == torch.bool
    assert torch.equal(small, expected)
    # ... and lies where the picture of it lies
    image = prepare_image(Image.fromarray(np.repeat(mask[..., None], 3, axis=2)), PLAIN)
    assert torch.equal(image[0] > 0, small)


@pytest.mark.parametrize("size", [(64, 80), (101, 37), (256, 320), (33, 400)])
def test_a_mask_is_neither_dilated_nor_shifted(size: tuple[int, int]) -> None:
    """Each pixel takes the value at its own centre."""
    height, width = size
    mask = np.random.default_rng(0).random(size) > 0.5
    rows = ((np.arange(64) + 0.5) * height / 64).astype(int)
    columns = ((np.arange(80) + 0.5) * width / 80).astype(int)
    small = prepare_mask(Image.fromarray(mask.astype(np.uint8) * 255), ROBOT)
    np.testing.assert_array_equal(small.numpy(), mask[rows][:, columns])


def test_every_resampling_that_a_config_may_name_is_there() -> None:
    for name in RESAMPLING:
        image = prepare_image(Image.fromarray(picture()), replace(ROBOT, resample=name))
        assert image.shape == (3, 64, 80)


# --- crop -----------------------------------------------------------------------------------------

CROPPED = replace(PLAIN, resize=64, crop=(48, 40), resample="nearest")
SIZES = [(64, 64), (64, 96), (130, 99), (333, 500), (37, 41)]  # height, width


@pytest.mark.parametrize("size", SIZES)
def test_a_cropped_mask_lies_where_its_picture_lies(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).random(size) > 0.5
    pixels = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    image = prepare_image(Image.fromarray(pixels), CROPPED)
    small = prepare_mask(Image.fromarray(pixels[..., 0]), CROPPED)
    assert small.shape == CROPPED.size == (48, 40)
    assert torch.equal(image[0] > 0.5, small)


def test_a_crop_is_around_the_centre() -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[8:56, 28:68] = 255  # what is left of 64 × 96 by 48 × 40
    assert prepare_mask(Image.fromarray(mask), CROPPED).all()
    mask[8, 28] = 0
    assert not prepare_mask(Image.fromarray(mask), CROPPED)[0, 0]
    assert frame(Image.fromarray(mask), CROPPED).size == (40, 48)
    np.testing.assert_array_equal(frame(Image.fromarray(mask), CROPPED), mask[8:56, 28:68])


@pytest.mark.parametrize("size", SIZES)
def test_the_frame_is_what_the_network_sees(size: tuple[int, int]) -> None:
    """Scaled to the input, the frame of a smooth picture is the input."""
    down, across = np.meshgrid(*(np.linspace(20, 230, n) for n in size), indexing="ij")
    picture = Image.fromarray(np.stack([down, across, down], axis=2).round().astype(np.uint8))
    preprocessing = replace(CROPPED, resample="bilinear")
    seen = prepare_image(picture, preprocessing).numpy().transpose(1, 2, 0) * 255
    shown = frame(picture, preprocessing).resize((40, 48), Image.Resampling.BILINEAR)
    step = 210 / (min(size) - 1)  # between two pixels of the picture
    # Where the frame ends, its neighbours are missing.
    difference = (np.asarray(shown, float) - seen)[3:-3, 3:-3]
    assert np.abs(difference).max() < 1 + step / 2
    assert abs(difference.mean()) < 0.5
    mask = Image.fromarray((down > 120).astype(np.uint8) * 255)
    assert frame(mask, preprocessing).size == frame(picture, preprocessing).size
    assert set(np.unique(frame(mask, preprocessing))) == {0, 255}


def test_without_a_crop_the_frame_is_the_picture() -> None:
    image = Image.fromarray(picture())
    assert frame(image, PLAIN) is image


def test_without_a_crop_the_whole_picture_is_seen() -> None:
    whole = Preprocessing((32, 48), "bilinear", "rgb", (0.5,) * 3, (0.5,) * 3)
    assert frame_box((100, 60), whole) == (0, 0, 100, 60)
