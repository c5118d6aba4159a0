from __future__ import annotations

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.radiographs.orientation import find_orientation

RADIOGRAPHS = [phantom(5, i, 128).image for i in range(12)]


@pytest.mark.parametrize("quarters", range(4))
def test_the_turn_found_makes_the_hand_upright(quarters: int) -> None:
    found = [find_orientation(np.rot90(radiograph, -quarters)) for radiograph in RADIOGRAPHS]
    assert [each.turn for each in found] == [90 * quarters] * len(RADIOGRAPHS)
    assert all(each.is_turned == (quarters != 0) for each in found)


@pytest.mark.parametrize("size", [64, 256, 700])
def test_size_depth_aspect_and_polarity_do_not_matter(size: int) -> None:
    radiograph = cv2.resize(RADIOGRAPHS[0], (size, round(1.3 * size)))[::-1, ::-1]
    for copy in (
        radiograph,
        255 - radiograph,
        radiograph.astype(np.uint16) * 257,
        radiograph / np.float32(255),
    ):
        assert find_orientation(copy).turn == 180


def test_a_hand_small_in_a_bright_frame_is_found() -> None:
    radiograph = cv2.copyMakeBorder(RADIOGRAPHS[1], 60, 20, 90, 60, cv2.BORDER_CONSTANT, value=255)
    left, top, right, bottom = find_orientation(radiograph).window
    width, height = radiograph.shape[1], radiograph.shape[0]
    middle = ((left + right) / 2 * width, (top + bottom) / 2 * height)
    assert middle == pytest.approx((90 + 64, 60 + 64), abs=25)


def test_noise_is_not_said_to_be_turned() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert not find_orientation(rng.integers(0, 255, (80, 60)).astype(np.uint8)).is_turned
