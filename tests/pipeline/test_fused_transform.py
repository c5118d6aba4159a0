from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.pipeline.augmentation import build_augmentation
from boneage.pipeline.fused_transform import (
    DRAWS,
    DRAWS_TO_ERASE,
    ERASED_AREA,
    RandomVariation,
)
from boneage.recipe import Augmentation

SIDE = 100
NOTHING: dict[str, Any] = {
    "affine": 0.0,
    "horizontal_flip": 0.0,
    "gamma": 0.0,
    "brightness_contrast": 0.0,
    "sharpen": 0.0,
    "optical_distortion": 0.0,
}
MOVED: dict[str, Any] = {"affine": 1.0, "shift": 0.2, "scale": (0.8, 1.2), "rotate_degrees": 20.0}
# A scale of 1.08, 12 degrees, 4 pixels to the right and 8 up.
MOVES = {"moved": 0.0, "scale": 0.7, "angle": 0.8, "shift_x": 0.6, "shift_y": 0.3}


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def varied(
    image: npt.NDArray[np.uint8], settings: dict[str, Any], **draws: float
) -> npt.NDArray[np.int16]:
    """The image varied with these draws; what is not named is drawn at the top of its range."""
    transform = RandomVariation(Augmentation(**{**NOTHING, **settings}))
    names = DRAWS + DRAWS_TO_ERASE
    drawn = {**dict.fromkeys(names, 0.999), **draws}
    return transform.apply(image, **drawn).astype(np.int16)


def theirs(image: npt.NDArray[np.uint8], *steps: Any) -> npt.NDArray[np.int16]:
    return np.asarray(A.Compose(steps)(image=image)["image"], np.int16)


def affine() -> Any:
    return A.Affine(
        scale=(1.08, 1.08),
        rotate=(12.0, 12.0),
        translate_px={"x": (4, 4), "y": (-8, -8)},
        keep_ratio=True,
        fill=0,
        p=1,
    )


def test_shift_scale_and_rotation_are_those_of_albumentations(image: npt.NDArray[np.uint8]) -> None:
    assert np.array_equal(varied(image, MOVED, **MOVES), theirs(image, affine()))


@pytest.mark.parametrize(("across", "down"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_flips_follow_the_move(image: npt.NDArray[np.uint8], across: float, down: float) -> None:
    settings = {**MOVED, "horizontal_flip": across, "vertical_flip": down}
    ours = varied(image, settings, **MOVES, flipped_x=0.5, flipped_y=0.5)
    chain = theirs(image, affine(), A.HorizontalFlip(p=across), A.VerticalFlip(p=down))
    # The fixed-point places of OpenCV are rounded to 1/32 pixel from the other side.
    assert np.abs(ours - chain).max() <= 8
    assert np.abs(ours - chain).mean() < 0.5


@pytest.mark.parametrize(("across", "down"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_flip_alone_moves_whole_pixels(
    image: npt.NDArray[np.uint8], across: float, down: float
) -> None:
    settings = {"horizontal_flip": across, "vertical_flip": down}
    ours = varied(image, settings, flipped_x=0.5, flipped_y=0.5)
    assert np.array_equal(ours, image[:: -1 if down else 1, :: -1 if across else 1])


def distorted(image: npt.NDArray[np.int16], bend: float) -> npt.NDArray[np.int16]:
    camera = np.array([[SIDE, 0, (SIDE - 1) / 2], [0, SIDE, (SIDE - 1) / 2], [0, 0, 1]])
    lens = np.array([bend, bend, 0, 0, 0])
    places = cv2.initUndistortRectifyMap(camera, lens, None, camera, (SIDE, SIDE), cv2.CV_32FC1)
    return np.asarray(cv2.remap(image.astype(np.uint8), *places, cv2.INTER_LINEAR), np.int16)


def test_distortion_is_that_of_a_camera_s_lens(image: npt.NDArray[np.uint8]) -> None:
    # albumentations' own is the same but for half a pixel, by which it shifts every radiograph it
    # bends.
    ours = varied(image, {"optical_distortion": 1.0}, distorted=0.0, distortion=0.9)
    assert np.abs(ours - distorted(image.astype(np.int16), 0.04)).max() <= 4


def test_a_move_and_a_distortion_are_one_interpolation(image: npt.NDArray[np.uint8]) -> None:
    settings = {**MOVED, "horizontal_flip": 1.0, "optical_distortion": 1.0}
    drawn = {**MOVES, "flipped_x": 0.5, "distorted": 0.0, "distortion": 0.1}
    ours = varied(image, settings, **drawn)
    chain = distorted(theirs(image, affine(), A.HorizontalFlip(p=1)), -0.04)
    inside = np.s_[20:-20, 20:-20]  # away from the border, which the chain makes black twice
    assert np.corrcoef(ours[inside].ravel(), chain[inside].ravel())[0, 1] > 0.98
    assert cv2.Laplacian(ours, cv2.CV_16S).var() > 1.1 * cv2.Laplacian(chain, cv2.CV_16S).var()


def test_gamma_contrast_brightness_and_sharpening_are_those_of_albumentations(
    image: npt.NDArray[np.uint8],
) -> None:
    settings = {"gamma": 1.0, "brightness_contrast": 1.0, "sharpen": 1.0}
    tone = {"gamma_changed": 0.0, "gamma": 0.2, "exposed": 0.0, "contrast": 0.8, "brightness": 0.4}
    ours = varied(image, settings, **tone, sharpened=0.0, sharpening=0.5, lightness=0.5)
    chain = theirs(
        image,
        A.RandomGamma((88, 88), p=1),
        A.RandomBrightnessContrast((-0.04, -0.04), (0.12, 0.12), p=1),
        A.Sharpen((0.35, 0.35), (0.75, 0.75), p=1),
    )
    assert np.abs(ours - chain).max() <= 4  # one level of the table, times the kernel
    assert np.abs(ours - chain).mean() < 0.1


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_an_erased_rectangle_is_black_and_everything_else_is_left(
    image: npt.NDArray[np.uint8], draw: float
) -> None:
    places = dict.fromkeys(("area", "aspect", "erased_x", "erased_y"), draw)
    light = np.maximum(image, 1)
    ours = varied(light, {"erase": 1.0}, erased=0.5, **places)
    rows, columns = np.nonzero(ours == 0)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    assert not ours[top:bottom, left:right].any()
    assert len(rows) == (bottom - top) * (right - left)
    assert np.array_equal(ours[ours > 0], light[ours > 0])
    low, high = ERASED_AREA
    assert low * 0.8 < len(rows) / light.size < high * 1.2
    assert light.min() == 1, "what came in stays as it was"


def test_nothing_is_drawn_for_erasing_unless_it_may_be(image: npt.NDArray[np.uint8]) -> None:
    def drawn(**settings: float) -> dict[str, Any]:
        transform = RandomVariation(Augmentation(**settings))
        transform.set_random_seed(3)
        return transform.get_params()

    without, beside = drawn(), drawn(erase=0.5)
    assert set(beside) - set(without) == set(DRAWS_TO_ERASE)
    assert {name: beside[name] for name in without} == without


def test_each_is_done_as_often_as_it_is_asked_for(image: npt.NDArray[np.uint8]) -> None:
    chances = {"horizontal_flip": 0.5, "optical_distortion": 0.3, "gamma": 0.4, "sharpen": 0.6}
    chances["erase"] = 0.5
    for name, chance in chances.items():
        pipeline = build_augmentation(Augmentation(**{**NOTHING, name: chance}))
        pipeline.set_random_seed(1)
        done = sum(not np.array_equal(pipeline(image=image)["image"], image) for _ in range(500))
        assert abs(done / 500 - chance) < 0.07, name


def test_images_need_not_be_square_nor_contiguous(image: npt.NDArray[np.uint8]) -> None:
    pipeline = build_augmentation(Augmentation())
    for part in (image[:60], image[:, ::2], image[::-1, 10:50]):
        assert all(pipeline(image=part)["image"].shape == part.shape for _ in range(20))
