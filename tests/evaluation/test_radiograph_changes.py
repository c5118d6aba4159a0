from __future__ import annotations

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.evaluation.radiograph_changes import CHANGES, UNCHANGED

HAND = phantom(5, 0, 200).image[:, :160].copy()
BY_NAME = {change.name: change for change in CHANGES}


def changed(name: str, image: np.ndarray = HAND, image_id: str = "a") -> np.ndarray:
    return BY_NAME[name](image, image_id, 64)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_keeps_its_input_and_gives_the_same_pixels_again(change):
    for image in (HAND, HAND.astype(np.uint16) * 16):
        before = image.copy()
        found = change(image, "a", 64)
        np.testing.assert_array_equal(image, before)
        np.testing.assert_array_equal(found, change(image, "a", 64))
        assert found.ndim == 2
        assert found.flags.c_contiguous
        assert found.dtype == (np.uint8 if change.name.startswith("JPEG") else image.dtype)
    is_same = found.shape == image.shape and bool((found == image).all())
    assert is_same == (change.name in ("wrong sex", "256 px"))


def test_names_are_unique_and_no_change_is_the_unchanged_radiograph():
    assert len(BY_NAME) == len(CHANGES)
    assert UNCHANGED.name not in BY_NAME


def test_quarter_turns_and_mirrors_are_exact():
    for quarters in (1, 2, 3):
        turned = changed(f"rotation {90 * quarters}°")
        np.testing.assert_array_equal(turned, np.rot90(HAND, quarters))
    np.testing.assert_array_equal(changed("mirrored"), HAND[:, ::-1])
    np.testing.assert_array_equal(changed("flipped"), HAND[::-1])


def test_a_rotation_cuts_nothing_off_and_turns_images_to_either_side():
    white = np.full((100, 60), 200, np.uint8)
    for degrees in (5, 10, 20, 45):
        turned = changed(f"rotation ±{degrees}°", white)
        assert turned.sum(dtype=float) == pytest.approx(white.sum(dtype=float), rel=0.02)
        assert turned[0, 0] == turned[-1, -1] == 0
    line = np.zeros((101, 101), np.uint8)
    line[:50, 50] = 255  # from the centre up
    sides = set()
    for image_id in "abcdefgh":
        turned = changed("rotation ±45°", line, image_id)
        columns = np.flatnonzero(turned.max(0) > 100)
        sides.add(bool(columns.mean() < turned.shape[1] / 2))
    assert sides == {True, False}


def test_levels_change_by_shares_of_the_bits_in_use():
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(16, 0)
    deep = (ramp.astype(np.uint16) * 16) + 15  # 12 bits
    assert changed("brightness +0.2", ramp)[0, [0, 100, 255]].tolist() == [51, 151, 255]
    assert changed("brightness -0.2", ramp)[0, [0, 100, 255]].tolist() == [0, 49, 204]
    assert changed("contrast halved", ramp)[0, [0, 255]].tolist() == [64, 191]
    np.testing.assert_array_equal(changed("inverted", ramp), 255 - ramp)
    np.testing.assert_array_equal(changed("inverted", deep), 4095 - deep)
    assert changed("gamma 0.7", ramp)[0, 64] == round(255 * (64 / 255) ** 0.7)
    assert changed("gamma 1.4", deep)[0, 64] == round(4095 * (1039 / 4095) ** 1.4)


def test_noise_has_its_deviation_in_255_levels_and_differs_by_image():
    for level in (5, 10):
        for scale in (1, 16):
            flat = np.full((200, 200), 120 * scale, np.uint8 if scale == 1 else np.uint16)
            flat[0, 0] = 256 * scale - 1
            noise = changed(f"noise {level} of 255", flat).astype(float) - flat
            assert noise[1:].std() == pytest.approx(level * scale, rel=0.03)
            assert abs(noise[1:].mean()) < 0.1 * scale
    assert (changed("noise 5 of 255") != changed("noise 5 of 255", image_id="b")).mean() > 0.5


def test_jpeg_is_the_one_of_its_quality_and_deep_images_become_8_bit():
    encoded = cv2.imencode(".jpg", HAND, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(changed("JPEG 30"), expected)
    deep = HAND.astype(np.uint16) * 257
    np.testing.assert_array_equal(changed("JPEG 30", deep), expected)


def test_only_larger_radiographs_shrink_by_averages_or_by_picked_pixels():
    assert changed("128 px").shape == (128, 102)
    large = np.random.default_rng(0).integers(0, 256, (512, 384), np.uint8)
    area, nearest = changed("model's size, area", large), changed("model's size, nearest", large)
    assert area.shape == nearest.shape == (64, 48)
    np.testing.assert_array_equal(nearest, large[4::8, 4::8])
    assert area.std() < 0.3 * nearest.std()


def test_a_marker_is_bright_in_one_corner_and_a_border_leaves_the_image_whole():
    difference = changed("L marker").astype(int) - HAND
    rows, columns = np.nonzero(difference)
    assert max(rows.max(), columns.max()) < 30
    assert changed("L marker")[rows, columns].min() == 242
    bordered = changed("collimator border")
    np.testing.assert_array_equal(bordered[25:-25, 25:-25], HAND)
    assert not bordered[:25].any()
