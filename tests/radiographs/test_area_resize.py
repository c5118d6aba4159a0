"""Means of areas are those of OpenCV, to the bit, whatever the radiograph and the sizes."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.phantom.cohort import draw_hand
from boneage.radiographs import area_resize as areas
from boneage.radiographs.area_resize import Areas, Shrunk, add_up, shrink
from boneage.radiographs.framing import frame
from boneage.radiographs.hand_detection import find_hand, working_copy
from boneage.recipe import Framing

RNG = np.random.default_rng(20_171_116)


def opencv(radiograph: npt.NDArray[np.generic], size: tuple[int, int]) -> npt.NDArray[np.generic]:
    return np.asarray(cv2.resize(np.asarray(radiograph), size, interpolation=cv2.INTER_AREA))


def radiograph(kind: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    noise = RNG.random((height, width))
    if kind == "noise":
        return (256 * noise).astype(np.uint8)
    if kind == "dither":  # many means lie half-way between two levels
        return np.where(noise < 0.5, np.uint8(7), np.uint8(8))
    if kind == "white":
        return np.full((height, width), 255, np.uint8)
    return np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)


def of(pixels: npt.NDArray[np.uint8]) -> Areas:
    return Areas(pixels, np.asarray(cv2.integral(pixels, sdepth=cv2.CV_32S), np.int32))


@pytest.mark.parametrize("kind", ["noise", "dither", "white", "slope"])
def test_a_radiograph_is_shrunk_as_opencv_does_it(kind: str) -> None:
    for _ in range(60):
        height, width = (int(side) for side in RNG.integers(16, 400, 2))
        copy = int(RNG.integers(1, height + 1)), int(RNG.integers(1, width + 1))
        if height % copy[0] == 0 and width % copy[1] == 0:
            continue
        pixels = radiograph(kind, height, width)
        shrunk = shrink(of(pixels), copy[::-1])
        np.testing.assert_array_equal(shrunk, opencv(pixels, copy[::-1]), f"{height, width, copy}")


def test_the_means_behind_them_are_opencvs_to_the_last_bit() -> None:
    # 2,001 / 1,000 leaves out slivers; 250 / 7 has no end in binary.
    for height, width, copy in ((2001, 64, (1000, 9)), (250, 333, (7, 41)), (90, 91, (45, 12))):
        pixels = radiograph("noise", height, width)
        shrunk = Shrunk(of(pixels), copy[::-1])
        rows, columns = (index.ravel() for index in np.indices(copy))
        exact = opencv(pixels.astype(np.float32), copy[::-1])
        np.testing.assert_array_equal(shrunk.as_opencv(rows, columns), exact.ravel())
        assert (np.abs(shrunk.means - exact) <= shrunk.error).all()


def test_a_part_of_a_radiograph_is_shrunk_by_itself() -> None:
    pixels = radiograph("noise", 301, 260)
    box = (11, 23, 250, 299)
    shrunk = Shrunk(of(pixels), (31, 37), box)
    exact = opencv(pixels[23:299, 11:250].astype(np.float32), (31, 37))
    rows, columns = (index.ravel() for index in np.indices((37, 31)))
    np.testing.assert_array_equal(shrunk.as_opencv(rows, columns), exact.ravel())
    assert (np.abs(shrunk.means - exact) <= shrunk.error).all()


def test_what_opencv_rounds_otherwise_is_left_to_it() -> None:
    sums = of(radiograph("noise", 600, 600))
    assert sums.serve((600, 590), (150, 147))
    assert not sums.serve((600, 600), (150, 150))  # whole pixels, both ways
    assert not sums.serve((600, 600), (400, 401))  # hardly shrunk
    assert not sums.serve((600, 16), (299, 17))


def test_only_radiographs_that_fit_and_pay_are_added_up() -> None:
    assert add_up(np.zeros((100, 100), np.uint8)) is None
    assert add_up(np.zeros((1000, 1000), np.uint16)) is None
    assert add_up(np.zeros((2900, 2905), np.uint8)) is None
    white = add_up(np.full((2900, 2900), 255, np.uint8))
    assert white is not None
    assert white.sums[-1, -1] == 2900 * 2900 * 255


@pytest.mark.parametrize("crop", ["hand", "film"])
def test_a_radiograph_is_framed_the_same_with_them_and_without(
    crop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        drawn = draw_hand(30 * number + 10, "FM"[number % 2], rng=RNG, size=256)
        pixels = cv2.resize(drawn, (917, 1013), interpolation=cv2.INTER_CUBIC)
        pixels = np.asarray(cv2.add(pixels, radiograph("slope", 1013, 917) >> 5), np.uint8)
        framing = Framing.model_validate({"size": 299 if number % 2 else 128, "crop": crop})
        assert add_up(pixels) is not None
        quick = frame(pixels, framing)
        hand = find_hand(pixels, add_up(pixels))
        np.testing.assert_array_equal(working_copy(pixels, add_up(pixels)), working_copy(pixels))
        with monkeypatch.context() as without:
            without.setattr(areas, "_SMALLEST", 2**60)
            assert add_up(pixels) is None
            slow = frame(pixels, framing)
        assert quick.crop == slow.crop
        assert hand.box == find_hand(pixels).box
        np.testing.assert_array_equal(quick.pixels, slow.pixels)
