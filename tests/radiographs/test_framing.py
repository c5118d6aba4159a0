from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.radiographs.framing import (
    HAND,
    PHASES,
    REASONS,
    VERSION,
    WHOLE_RADIOGRAPH_ASKED,
    frame,
    framing_findings,
    framing_key,
)
from boneage.radiographs.hand_detection import WHOLE_RADIOGRAPH, find_hand, turned
from boneage.recipe import Framing

PLAIN = (0.0, 100.0)
PINNED = np.array(
    [
        [10.7, 33.2, 19.2, 3.7],
        [42.9, 118.7, 57.0, 14.7],
        [44.3, 133.6, 120.3, 26.4],
        [48.4, 110.5, 79.0, 26.9],
    ]
)


def whole(radiograph: np.ndarray, **settings: object) -> np.ndarray:
    """The pixels of a radiograph that is framed whole."""
    return frame(radiograph, Framing.model_validate({"crop": "none", **settings})).pixels


def gradient(height: int, width: int, low: int = 0, high: int = 255) -> np.ndarray:
    return np.tile(np.linspace(low, high, width).round(), (height, 1)).astype(np.uint8)


@given(
    height=st.integers(16, 200),
    width=st.integers(16, 200),
    size=st.integers(32, 128),
    bits=st.sampled_from([8, 16]),
)
def test_any_radiograph_becomes_a_square(height: int, width: int, size: int, bits: int) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    radiograph = rng.integers(0, 2**bits, (height, width)).astype(f"uint{bits}")
    square = whole(radiograph, size=size)
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert np.array_equal(square, whole(radiograph.copy(), size=size))


def test_the_aspect_is_kept_and_the_rest_is_black() -> None:
    square = whole(np.full((200, 100), 200, np.uint8) - gradient(200, 100, 0, 9), size=64)
    assert not square[:, :16].any()
    assert not square[:, 48:].any()
    assert (square[:, 16:47] > 0).mean() > 0.95


def test_stretched_the_picture_fills_the_square_whatever_its_aspect() -> None:
    radiograph = gradient(90, 120, 1, 255)
    squashed = cv2.resize(radiograph, (60, 90), interpolation=cv2.INTER_AREA)
    ours = whole(radiograph, size=60, fit="stretch", contrast_percentiles=PLAIN).astype(int)
    assert (
        np.abs(ours - whole(squashed, size=60, fit="stretch", contrast_percentiles=PLAIN)).max() < 3
    )
    assert np.abs(ours - ours[0]).max() <= 1, "the columns go from left to right all the way"
    assert (ours[0, 0], ours[0, -1]) < (4, 256)
    assert ours[0, -1] > 250


def test_shrinking_averages_areas() -> None:
    radiograph = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8)
    radiograph[0, :2] = 0, 255
    square = whole(radiograph, size=32, contrast_percentiles=PLAIN)
    expected = radiograph.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.abs(square - expected).max() <= 0.5


def test_levels_at_the_percentiles_become_black_and_white() -> None:
    radiograph = np.random.default_rng(1).normal(100, 10, (400, 400)).clip(0, 255).astype(np.uint8)
    low, high = np.percentile(radiograph, [2, 99.5])
    square = whole(radiograph, size=400)
    assert square[radiograph <= low].max() == 0
    assert square[radiograph >= high].min() == 255
    between = (radiograph > low) & (radiograph < high)
    assert set(square[between].tolist()).isdisjoint({0, 255})


@pytest.mark.parametrize("level", [0, 255])
def test_a_blank_radiograph_gives_no_contrast(level: int) -> None:
    square = frame(np.full((100, 100), level, np.uint8), Framing(size=32)).pixels
    assert len(np.unique(square)) == 1


def test_the_key_changes_with_every_setting() -> None:
    keys = {
        framing_key(Framing(size=size, crop=crop, fit=fit, contrast_percentiles=percentiles))
        for size in (64, 65)
        for crop in ("hand", "none")
        for fit in ("pad", "stretch")
        for percentiles in ((2.0, 99.5), (2.0, 99.0), (1.0, 99.5))
    }
    assert len(keys) == 24
    assert framing_key(Framing()) == framing_key(Framing())


def test_the_hand_fills_the_frame_whatever_lies_around_it() -> None:
    radiograph = np.zeros((600, 500), np.uint8)
    radiograph[150:406, 100:356] = phantom(0, 2, 256).image
    framed = frame(radiograph, Framing(size=128))
    alone = frame(phantom(0, 2, 256).image, Framing(size=128))
    assert framed.crop.why == HAND
    left, top, right, bottom = framed.crop.box
    assert left >= 95
    assert top >= 145
    assert right <= 361
    assert bottom <= 411
    across = np.corrcoef(framed.pixels.ravel(), alone.pixels.ravel())[0, 1]
    assert across > 0.8  # all but the same picture


def test_a_bright_marker_has_no_say_in_the_hand_s_contrast() -> None:
    hand = (phantom(0, 2, 256).image * 0.1 + 20).astype(np.uint8)  # a twentieth of the range
    hand[:30, :40] = 255
    framed = frame(hand, Framing(size=128)).pixels
    middle = framed[48:96, 48:96]
    assert np.percentile(middle, 90) > 180
    assert np.percentile(whole(hand, size=128)[48:96, 48:96], 90) < 60


def test_what_is_not_exposed_becomes_black() -> None:
    radiograph = np.full((400, 400), 120, np.uint8)
    radiograph[60:316, 80:336] = phantom(0, 2, 256).image // 2
    turned = frame(radiograph, Framing(size=128))
    assert turned.crop.why == HAND
    corners = turned.pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() < 60


def test_a_radiograph_without_a_hand_is_kept_whole_and_says_so() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 150)).astype(np.uint8)
    framed = frame(noise, Framing(size=64))
    assert framed.crop.box == (0, 0, 150, 200)
    assert framed.crop.why == WHOLE_RADIOGRAPH
    assert np.array_equal(framed.pixels, whole(noise, size=64))
    assert frame(noise, Framing(size=64, crop="none")).crop.why == WHOLE_RADIOGRAPH_ASKED
    assert {HAND, WHOLE_RADIOGRAPH, WHOLE_RADIOGRAPH_ASKED} == set(REASONS)


def test_a_region_is_framed_alone_and_its_crop_is_in_pixels_of_the_image() -> None:
    left, right = phantom(0, 2, 256).image, phantom(0, 5, 256).image
    both = np.hstack([left, right])
    settings = Framing(size=128)
    part = frame(both, settings, (256, 0, 512, 256))
    alone = frame(right, settings)
    assert np.array_equal(part.pixels, alone.pixels)
    x, y, x2, y2 = alone.crop.box
    assert part.crop.box == (x + 256, y, x2 + 256, y2)


@pytest.mark.parametrize("region", [(0, 0, 101, 50), (90, 0, 100, 100), (-1, 0, 50, 50)])
def test_a_region_outside_the_picture_is_refused(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(
        InputError, match="region: its corners are .*, and the image has 100 x 100 pixels"
    ):
        frame(np.zeros((100, 100), np.uint8), Framing(size=32), region)


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_hand_that_lies_on_its_side_or_head_is_put_upright(turned: int) -> None:
    settings = Framing(size=128)
    for index in (2, 5):
        radiograph = phantom(0, index, 256).image
        upright = frame(radiograph, settings)
        framed = frame(np.rot90(radiograph, -turned // 90).copy(), settings)
        assert upright.crop.rotation == 0
        assert framed.crop.rotation == turned
        across = np.corrcoef(framed.pixels.ravel(), upright.pixels.ravel())[0, 1]
        assert across > 0.9


def test_the_same_version_gives_the_same_pixels() -> None:
    # A mean of every cell of a grid, with slack for another build of OpenCV: a change of the
    # framing moves them by more. Who changes them raises VERSION, and these with it.
    radiograph = np.zeros((300, 260), np.uint8)
    radiograph[20:276, :256] = phantom(0, 3, 256).image
    cells = frame(radiograph, Framing(size=64)).pixels.reshape(4, 16, 4, 16).mean((1, 3))
    assert VERSION == 6
    assert np.abs(cells - PINNED).max() < 1.5


@pytest.mark.parametrize("shape", [(4000, 64), (64, 4000), (16, 20_000), (16, 16)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_of_any_shape_is_framed(shape, dtype):
    gradient = np.linspace(0, np.iinfo(dtype).max, shape[1]).astype(dtype)
    framed = frame(np.tile(gradient, (shape[0], 1)), Framing(size=32))
    assert framed.pixels.shape == (32, 32)
    assert {finding.code for finding in framing_findings(framed)} <= {"no-hand", "low-resolution"}


@given(height=st.integers(16, 700), width=st.integers(16, 700), source=st.integers(16, 320))
def test_nearest_takes_the_pixels_that_pillow_takes(height: int, width: int, source: int) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    size = min(width, source), min(height, source)
    settings = {"size": 64, "source_pixels": source, "sampling": "nearest"}
    for dtype in ("uint8", "uint16"):
        radiograph = rng.integers(0, 256 ** np.dtype(dtype).itemsize, (height, width)).astype(dtype)
        picked = np.asarray(Image.fromarray(radiograph).resize(size, Image.Resampling.NEAREST))
        assert np.array_equal(whole(radiograph, **settings), whole(picked.astype(dtype), size=64))


def test_a_region_is_cut_out_before_it_is_shrunk() -> None:
    drawn = phantom(0, 2, 400).image
    region = (40, 30, 390, 380)
    framing = Framing(size=64, source_pixels=100, sampling="nearest")
    part, alone = frame(drawn, framing, region), frame(drawn[30:380, 40:390], framing)
    assert np.array_equal(part.pixels, alone.pixels)
    shift = np.array([40, 30, 40, 30])
    assert np.array_equal(part.crop.box, np.array(alone.crop.box) + shift)


@pytest.mark.parametrize("sampling", ["area", "nearest"])
def test_the_hand_is_looked_for_on_the_shrunk_image_and_the_box_is_one_of_the_original(
    sampling: str,
) -> None:
    drawn = phantom(0, 2, 400).image
    framing = Framing.model_validate({"size": 64, "source_pixels": 100, "sampling": sampling})
    framed = frame(drawn, framing)
    way = cv2.INTER_AREA if sampling == "area" else cv2.INTER_NEAREST
    small = cv2.resize(drawn, (100, 100), interpolation=way)
    if sampling == "nearest":
        small = np.ascontiguousarray(drawn[2::4, 2::4])
    alone = frame(small, Framing(size=64))
    assert np.array_equal(framed.pixels, alone.pixels)
    assert np.array_equal(framed.crop.box, 4 * np.array(alone.crop.box))
    found = {
        each.code
        for each in framing_findings(frame(drawn, framing.model_copy(update={"size": 256})))
    }
    assert "low-resolution" not in found, "the original has pixels enough"


def test_a_side_that_is_not_larger_is_left_as_it_is() -> None:
    drawn = phantom(0, 2, 100).image
    for sampling in ("area", "nearest"):
        framing = Framing.model_validate({"size": 64, "source_pixels": 100, "sampling": sampling})
        for phase in PHASES:
            framed, plain = frame(drawn, framing, phase=phase), frame(drawn, Framing(size=64))
            assert np.array_equal(framed.pixels, plain.pixels)
            assert framed.crop == plain.crop
    tall = np.random.default_rng(0).integers(0, 256, (300, 50)).astype(np.uint8)
    settings = {"size": 64, "source_pixels": 100, "sampling": "nearest"}
    assert np.array_equal(whole(tall, **settings), whole(tall[1::3], size=64))


def test_the_phases_take_other_pixels_of_the_same_areas() -> None:
    radiograph = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    framing = Framing(
        size=64, crop="none", contrast_percentiles=PLAIN, source_pixels=64, sampling="nearest"
    )
    radiograph[:8, :8] = np.arange(64).reshape(8, 8) * 4
    radiograph[-1, -1] = 255
    corners = [frame(radiograph, framing, phase=phase).pixels[0, 0] for phase in PHASES]
    plain = Framing(size=64, crop="none", contrast_percentiles=PLAIN)
    expected = [frame(radiograph[y::4, x::4], plain).pixels[0, 0] for y in (1, 3) for x in (1, 3)]
    assert corners == expected
    assert len(set(corners)) == 4


def test_averaging_does_not_use_the_phase() -> None:
    drawn = phantom(0, 2, 400).image
    framing = Framing(size=64, source_pixels=100)
    assert np.array_equal(
        frame(drawn, framing, phase=PHASES[0]).pixels, frame(drawn, framing).pixels
    )


@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_the_gain_is_that_of_the_contrast_stretch(white: int) -> None:
    dtype = np.uint8 if white == 255 else np.uint16
    levels = np.linspace(0.2, 0.6, 4096).reshape(64, 64) * white
    levels[0, 0] = white
    framing = Framing(size=64, crop="none", contrast_percentiles=(0.0, 99.9))
    framed = frame(levels.round().astype(dtype), framing)
    assert framed.gain == pytest.approx(1 / 0.4, rel=0.02)
    assert np.ptp(framed.pixels.astype(int)) == 255


def test_settings_added_later_change_no_key_until_they_are_used() -> None:
    assert framing_key(Framing(size=128)) == (
        "49e4e6914c04b195fc0ec64a28332aded909ade3af9ff80cb1172565ca7f9875"
    )
    used = [
        Framing(),
        Framing(source_pixels=100, sampling="nearest"),
        Framing(source_pixels=100),
        Framing(upright="fine"),
    ]
    assert len({framing_key(framing) for framing in used}) == 4
    assert "source_pixels" not in Framing().recorded()
    assert used[1] == Framing.model_validate(used[1].recorded())


def test_sampling_needs_the_number_of_pixels() -> None:
    with pytest.raises(InputError, match="needs source_pixels"):
        Framing(sampling="nearest")


def canvas(image: np.ndarray, degrees: float) -> np.ndarray:
    """An image turned counter-clockwise on a black canvas that holds all of it."""
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    across, down = np.ceil(np.abs(matrix[:, :2]) @ (width, height)).astype(int).tolist()
    matrix[:, 2] += (across - width) / 2, (down - height) / 2
    return cv2.warpAffine(image, matrix, (across, down))


FINE = Framing(size=96, upright="fine")
UPRIGHT = canvas(phantom(0, 4, 400).image, -7)


@pytest.mark.parametrize("degrees", [-45, -30, -20, 20, 30, 40])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_slanting_hand_is_turned_back(degrees: int, dtype: type) -> None:
    drawn = UPRIGHT.astype(dtype) * (1 if dtype == np.uint8 else 16)
    upright, slanting = frame(drawn, FINE), frame(canvas(drawn, degrees), FINE)
    assert abs((slanting.crop.rotation + degrees + 180) % 360 - 180) <= 4
    apart = np.abs(slanting.pixels.astype(int) - upright.pixels).mean()
    assert (
        apart
        < 0.5
        * np.abs(
            frame(canvas(drawn, degrees), Framing(size=96)).pixels.astype(int) - upright.pixels
        ).mean()
    )
    assert slanting.gain == pytest.approx(upright.gain, rel=0.1)


@pytest.mark.parametrize("degrees", [0, 5, -10, 90, 180])
def test_a_hand_that_hardly_slants_is_turned_by_quarters_alone(degrees: int) -> None:
    slanting = np.rot90(UPRIGHT, degrees // 90) if degrees % 90 == 0 else canvas(UPRIGHT, degrees)
    rotation = -degrees % 360 if degrees % 90 == 0 else 0
    assert frame(np.ascontiguousarray(slanting), FINE).crop.rotation == rotation
    drawn = phantom(0, 1, 400).image
    assert np.array_equal(frame(drawn, FINE).pixels, frame(drawn, Framing(size=96)).pixels)


def test_a_box_holds_the_turned_part_in_pixels_of_the_original() -> None:
    slanting = canvas(UPRIGHT, 30)
    height, width = slanting.shape
    hand = frame(UPRIGHT, FINE).crop.box
    corners = np.array([[x, y] for x in hand[::2] for y in hand[1::2]]) - len(UPRIGHT) / 2
    turn = cv2.getRotationMatrix2D((0, 0), 30, 1.0)[:, :2]
    around = corners @ turn.T + np.array([width, height]) / 2
    expected = np.clip([*around.min(0), *around.max(0)], 0, max(width, height))
    for framing in (FINE, FINE.model_copy(update={"source_pixels": 150})):
        crop = frame(slanting, framing).crop
        assert np.abs(np.array(crop.box) - expected).max() < 0.05 * width


def test_a_turn_is_one_of_the_original_s_aspect() -> None:
    """A square of 100 pixels may be a tall image; the hand slants there as in the original."""
    slanting = canvas(UPRIGHT, 30)[:, 120:-120]
    framing = FINE.model_copy(update={"source_pixels": 200, "fit": "stretch"})
    direct, shrunk = (frame(slanting, f).crop.rotation for f in (FINE, framing))
    assert direct == pytest.approx(shrunk, abs=3)


def test_a_turned_image_that_was_shrunk_holds_pixels_of_the_original() -> None:
    rng = np.random.default_rng(0)
    slanting = canvas(np.where(UPRIGHT > 60, 200, 100 * (UPRIGHT > 0)).astype(np.uint8), 30)
    noisy = np.where(slanting > 150, rng.choice([160, 240], slanting.shape), slanting)
    drawn = noisy.astype(np.uint8)
    settings = {"upright": "fine", "source_pixels": 400, "contrast_percentiles": PLAIN}
    nearest = Framing.model_validate({**settings, "sampling": "nearest"})
    shrunk = np.asarray(Image.fromarray(drawn).resize((400, 400), Image.Resampling.NEAREST))
    rotation = frame(drawn, nearest).crop.rotation
    hand = find_hand(shrunk, black_corners=True)
    left, top, right, bottom = turned(shrunk, hand, rotation - 360)[1].box
    size = max(right - left, bottom - top)  # so that the crop is not scaled

    def share_of_three_levels(framing: Framing) -> float:
        pixels = frame(drawn, framing.model_copy(update={"size": size})).pixels
        levels = np.sort(np.bincount(pixels[pixels > 0]))
        return float(levels[-3:].sum() / levels.sum())

    assert share_of_three_levels(nearest) > 0.9
    assert share_of_three_levels(nearest.model_copy(update={"sampling": "area"})) < 0.8
    framed = [frame(drawn, nearest, phase=phase).pixels.tobytes() for phase in PHASES]
    assert len(set(framed)) == 4


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 30, -30])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("source", [None, 150])
def test_the_matrix_leads_from_the_framed_image_to_the_radiograph(
    degrees: int, fit: str, source: int | None
) -> None:
    smooth = cv2.GaussianBlur(UPRIGHT, (0, 0), 4)
    drawn = np.rot90(smooth, degrees // 90) if degrees % 90 == 0 else canvas(smooth, degrees)
    height, width = drawn.shape
    framing = FINE.model_copy(update={"fit": fit, "source_pixels": source, "size": 80})
    framed = frame(np.ascontiguousarray(drawn), framing, (9, 5, width, height - 7))
    matrix = framed.to_radiograph.copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(np.ascontiguousarray(drawn), matrix, (80, 80), flags=flags)
    shown = framed.pixels > 0
    assert np.corrcoef(seen[shown], framed.pixels[shown])[0, 1] > 0.99
    left, top, right, bottom = framed.crop.box
    x, y = framed.to_radiograph @ (40, 40, 1)
    assert left < x < right
    assert top < y < bottom
