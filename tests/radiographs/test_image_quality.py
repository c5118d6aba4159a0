from __future__ import annotations

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.radiographs.image_quality import (
    EMPTY_SHARE,
    assess_quality,
    find_blank,
    quality_findings,
)

RADIOGRAPHS = [phantom(5, i, 128).image for i in range(12)]


def framed(radiograph: np.ndarray, level: int) -> np.ndarray:
    """The radiograph small in a bright or dark frame."""
    return cv2.copyMakeBorder(radiograph, 20, 20, 24, 24, cv2.BORDER_CONSTANT, value=level)


def test_an_upright_hand_has_no_fault() -> None:
    for radiograph in RADIOGRAPHS:
        quality = assess_quality(radiograph)
        assert quality.orientation.turn == 0
        assert not any([quality.is_turned, quality.has_two_hands, quality.is_inverted])


def test_an_inverted_radiograph_is_found_whatever_its_margins() -> None:
    assert (
        sum(assess_quality(255 - radiograph).is_inverted for radiograph in RADIOGRAPHS)
        >= len(RADIOGRAPHS) - 1
    )
    assert not any(
        assess_quality(framed(radiograph, 255)).is_inverted for radiograph in RADIOGRAPHS
    )


def test_two_hands_are_found_in_either_polarity() -> None:
    pairs = [np.hstack([radiograph, radiograph[:, ::-1]]) for radiograph in RADIOGRAPHS]
    assert sum(assess_quality(pair).has_two_hands for pair in pairs) >= len(RADIOGRAPHS) - 1
    assert sum(assess_quality(255 - pair).has_two_hands for pair in pairs) >= len(RADIOGRAPHS) - 1
    upside_down = [np.ascontiguousarray(pair[::-1]) for pair in pairs]
    assert sum(assess_quality(pair).has_two_hands for pair in upside_down) >= len(RADIOGRAPHS) - 1


def test_of_two_hands_neither_turn_nor_polarity_is_known() -> None:
    quality = assess_quality(255 - np.hstack([RADIOGRAPHS[0], RADIOGRAPHS[0][:, ::-1]])[::-1])
    assert not any([quality.is_turned, quality.is_inverted])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_are_scaled_to_eight_bits(dtype: type) -> None:
    radiograph = np.zeros((64, 64), dtype)
    radiograph[:32] = np.iinfo(dtype).max
    quality = assess_quality(radiograph)
    assert quality.spread == pytest.approx(255)
    assert quality.lightest == quality.empty == 0.5


def empty_radiographs() -> dict[str, np.ndarray]:
    """Return nearly empty radiographs, by name."""
    rng = np.random.default_rng(0)
    specks = np.where(rng.random((400, 300)) < 0.02, 200, 0)
    corner = np.zeros((400, 300), np.uint16)
    corner[:40, :40] = 60_000
    noise = rng.normal(5, 1.5, (400, 300)).clip(0, 10)
    noise[:40, :40] = 255
    return {"specks": specks.astype(np.uint8), "corner": corner, "noise": noise.astype(np.uint8)}


@pytest.mark.parametrize("name", ["specks", "corner", "noise"])
def test_a_nearly_empty_radiograph_is_found_in_either_polarity(name: str) -> None:
    dark = empty_radiographs()[name]
    for image in (dark, np.iinfo(dark.dtype).max - dark):
        assert assess_quality(image).empty > EMPTY_SHARE
        assert code_of(image) == "nearly-empty-image"


def code_of(image: np.ndarray) -> str | None:
    found = find_blank(image)
    return None if found is None else found.code


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(16, 16), (16, 3000), (3000, 16), (700, 900)])
def test_an_image_that_shows_nothing_is_blank_whatever_its_size(dtype, shape) -> None:
    most = int(np.iinfo(dtype).max)
    for level in (0, 7, most):
        assert code_of(np.full(shape, level, dtype)) == "blank-image"
    cold = np.full(shape, most, dtype)
    cold[3, 3] = 0
    rng = np.random.default_rng(0)
    assert code_of(cold) == "flat-image"
    assert code_of(rng.integers(0, most // 64, shape).astype(dtype) + most // 2) == "flat-image"
    assert code_of(rng.integers(0, most, shape).astype(dtype)) is None


def test_a_radiograph_is_not_blank_in_any_orientation_or_polarity() -> None:
    for radiograph in RADIOGRAPHS:
        for image in (radiograph, 255 - radiograph, radiograph[::-1], np.rot90(radiograph)):
            assert code_of(np.ascontiguousarray(image)) is None


def test_findings_have_a_code_a_reason_and_a_remedy() -> None:
    radiograph = RADIOGRAPHS[0]
    white = np.where(np.arange(128)[:, None] < 100, 255, radiograph).astype(np.uint8)
    for image, codes in (
        (radiograph, []),
        (radiograph[::-1], ["turned-hand"]),
        (np.hstack([radiograph, radiograph[:, ::-1]]), ["two-hands"]),
        (255 - radiograph, ["inverted"]),
        (white, ["saturated-image"]),
    ):
        findings = quality_findings(assess_quality(np.ascontiguousarray(image)))
        assert [found.code for found in findings] == codes
        assert all(found.what and found.fix.endswith(".") for found in findings)


def test_a_hand_on_black_is_not_nearly_empty_though_a_pixel_is_hot() -> None:
    for radiograph in RADIOGRAPHS:
        hot = radiograph.astype(np.uint16)
        hot[0, 0] = 65_535
        assert assess_quality(framed(radiograph, 0)).empty < EMPTY_SHARE
        assert assess_quality(hot).empty < EMPTY_SHARE
