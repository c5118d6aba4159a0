from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.pipeline.augmentation import build_augmentation
from boneage.pipeline.fused_transform import (
    BLUR,
    DRAWS,
    DRAWS_TO_DEGRADE,
    DRAWS_TO_ERASE,
    ERASED_AREA,
    NOISE,
    SAMPLERS,
    RandomVariation,
)
from boneage.radiographs.framing import frame
from boneage.recipe import Augmentation, Framing

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
    image: npt.NDArray[np.uint8], settings: dict[str, Any], gain: float = 1.0, **draws: float
) -> npt.NDArray[np.int16]:
    """The image varied with these draws; what is not named is drawn at the top of its range."""
    transform = RandomVariation(Augmentation(**{**NOTHING, **settings}))
    transform.gain = gain
    names = DRAWS + DRAWS_TO_ERASE + DRAWS_TO_DEGRADE
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


@pytest.mark.parametrize("name", ["resample", "blur", "noise", "jpeg"])
def test_nothing_is_drawn_for_lower_quality_unless_it_may_be(name: str) -> None:
    def drawn(**settings: float) -> dict[str, Any]:
        transform = RandomVariation(Augmentation(**settings))
        transform.set_random_seed(3)
        return transform.get_params()

    without, beside = drawn(erase=0.5), drawn(erase=0.5, **{name: 0.5})
    assert set(beside) - set(without) == set(DRAWS_TO_DEGRADE)
    assert {key: beside[key] for key in without} == without


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS)))
@pytest.mark.parametrize("settings", [{}, {"horizontal_flip": 1.0}, MOVED])
@pytest.mark.parametrize("distortion", [0.0, 1.0])
def test_a_resampled_image_stays_where_it_was(
    image: npt.NDArray[np.uint8], sampler: int, settings: dict[str, Any], distortion: float
) -> None:
    smooth = cv2.GaussianBlur(image, (0, 0), 4)
    settings = {**settings, "optical_distortion": distortion}
    drawn = {**MOVES, "flipped_x": 0.5, "distorted": 0.0, "distortion": 0.9}
    number = (SAMPLERS.index(sampler) + 0.5) / len(SAMPLERS)
    degraded = {**drawn, "resampled": 0.0, "shrinking": 0.3, "sampler": number}
    whole = varied(smooth, settings, **drawn)
    small = varied(smooth, {**settings, "resample": 1.0}, **degraded)
    inside = np.s_[5:-5, 5:-5]
    assert small.shape == whole.shape
    assert 0 < np.abs(small - whole)[inside].mean() < 1.5
    for shift in (-1, 1):  # half a pixel to a side would show
        for axis in (0, 1):
            moved = np.abs(np.roll(small, shift, axis) - whole)[inside].mean()
            assert moved > 1.3 * np.abs(small - whole)[inside].mean()


def test_a_blur_has_the_width_that_was_drawn(image: npt.NDArray[np.uint8]) -> None:
    for share in (0.0, 0.4, 0.999):
        ours = varied(image, {"blur": 1.0}, blurred=0.0, blur=share)
        sigma = share * BLUR[1]
        theirs = cv2.GaussianBlur(image, (0, 0), sigma) if share else image
        assert np.abs(ours - theirs.astype(np.int16)).max() <= 3


def test_jpeg_keeps_less_at_a_lower_quality(image: npt.NDArray[np.uint8]) -> None:
    errors = [
        np.abs(varied(image, {"jpeg": 1.0}, compressed=0.0, quality=share) - image.astype(np.int16))
        for share in (0.0, 0.5, 0.999)
    ]
    assert errors[0].mean() > errors[1].mean() > errors[2].mean() > 0
    decoded = cv2.imdecode(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 30))[1], 0)
    assert np.array_equal(errors[0], np.abs(decoded.astype(np.int16) - image))


@pytest.mark.parametrize("contrast", [30, 200])
@pytest.mark.parametrize("bits", [8, 16])
def test_noise_is_as_strong_as_noise_of_the_radiograph(contrast: int, bits: int) -> None:
    # Half of it background, half of it hand; the second kind is flat, and its noise is stretched.
    radiograph = np.full((300, 300), 25.0)
    radiograph[:, 150:] += contrast
    ramp = np.linspace(0, 1, 300)[:, None]
    radiograph[:, 100:200] = 25 + contrast * ramp
    sigma, white = 4.0, 2**bits - 1
    noise = np.random.default_rng(1).normal(0, sigma, radiograph.shape)
    framing = Framing(size=300, crop="none", contrast_percentiles=(10.0, 90.0))

    def framed(levels: npt.NDArray[np.float64]) -> Any:
        whole = np.rint(levels * white / 255).astype(np.uint8 if bits == 8 else np.uint16)
        whole[0, 0] = white  # so that all bits are used
        return frame(whole, framing)

    clean = framed(radiograph)
    inside = (clean.pixels > 50) & (clean.pixels < 205)
    real = (framed(radiograph + noise).pixels.astype(float) - clean.pixels)[inside].std()
    draws = {"noisy": 0.0, "noise": sigma / NOISE[1], "noise_start": 0.2}
    ours = varied(clean.pixels, {"noise": 1.0}, clean.gain, **draws) - clean.pixels.astype(float)
    assert abs(ours[inside].std() / real - 1) < 0.12
    assert abs(ours[inside].mean()) < 0.1 * real


def test_noise_is_the_same_everywhere_and_differs_by_image() -> None:
    grey = np.full((SIDE, SIDE), 128, np.uint8)
    first, same, other = (
        varied(grey, {"noise": 1.0}, noisy=0.0, noise=0.5, noise_start=start)
        for start in (0.1, 0.1, 0.6)
    )
    assert np.array_equal(first, same)
    assert first[0, :8].tolist() == [131, 128, 119, 130, 125, 132, 123, 128]
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.1
    assert abs((first - 128).std() - NOISE[1] / 2) < 0.2


def test_each_is_done_as_often_as_it_is_asked_for(image: npt.NDArray[np.uint8]) -> None:
    chances = {"horizontal_flip": 0.5, "optical_distortion": 0.3, "gamma": 0.4, "sharpen": 0.6}
    chances |= {"erase": 0.5, "resample": 0.5, "noise": 0.3, "jpeg": 0.4}
    for name, chance in chances.items():
        pipeline = build_augmentation(Augmentation(**{**NOTHING, name: chance}))
        pipeline.set_random_seed(1)
        done = sum(not np.array_equal(pipeline(image=image)["image"], image) for _ in range(500))
        assert abs(done / 500 - chance) < 0.07, name


def test_images_need_not_be_square_nor_contiguous(image: npt.NDArray[np.uint8]) -> None:
    pipeline = build_augmentation(Augmentation())
    for part in (image[:60], image[:, ::2], image[::-1, 10:50]):
        assert all(pipeline(image=part)["image"].shape == part.shape for _ in range(20))


def test_lower_quality_leaves_the_shape_and_what_came_in(image: npt.NDArray[np.uint8]) -> None:
    settings = {**NOTHING, **dict.fromkeys(("resample", "blur", "noise", "jpeg"), 0.7)}
    pipeline = build_augmentation(Augmentation(**settings))
    for part in (image[:60], image[:, ::2], image[::-1, 10:50], image[:2, :2], image[:1, :1]):
        before = part.copy()
        for _ in range(30):
            changed = pipeline(image=part)["image"]
            assert (changed.shape, changed.dtype) == (part.shape, np.uint8)
        assert np.array_equal(part, before)
