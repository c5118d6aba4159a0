"""What looking at one radiograph tells: turned, two hands, inverted, flat, burnt out, nearly empty."""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass

import cv2
import numpy as np

from boneage.radiographs.orientation import (
    WINDOW_PIXELS,
    Floats,
    Orientation,
    find_orientation,
    four_scores,
    gradient_cells,
    shrunk,
    unit,
    windows_of,
)
from boneage.radiographs.reader import Radiograph

FLAT_LEVELS = 8.0
"""Spread (1st to 99th percentile) of 8-bit levels below which a radiograph holds next to nothing."""
SATURATED_SHARE = 0.6
"""Share of the radiograph at its very lightest level above which it is burnt out."""
EMPTY_SHARE = 0.9
"""Share of the radiograph that is no lighter than its background above which it is nearly empty; a hand
on a black one leaves up to 0.84 (2,000 radiographs of RSNA, drawn by chance)."""

_PAIR_SURE, _HALVES_SURE, _INVERTED_SURE = -1.0, -0.5, -1.0
_BANDS = ((0.7, 2.5), (1.0, 5.0), (2.5, 10.0))
_BAND_CELLS = 12
_DARK = 0.05


@dataclass(frozen=True, slots=True)
class Quality:
    """What one radiograph looks like.

    Attributes:
        orientation: How the hand lies.
        pair: How far the radiograph looks like one of two hands; above 0 for sure.
        polarity: How far dense is bright; below 0 the radiograph is inverted for sure.
        spread: 99th less 1st percentile of the levels, of 255 that the bits in use can tell.
        lightest: Share of the radiograph at its highest level.
        dark: Share of the radiograph within a 20th of its range of its lowest level.
    """

    orientation: Orientation
    pair: float
    polarity: float
    spread: float
    lightest: float
    dark: float

    @property
    def has_two_hands(self) -> bool:
        """Whether there are two hands on the radiograph for sure."""
        return self.pair > 0

    @property
    def is_inverted(self) -> bool:
        """Whether dense is dark for sure; of a radiograph of two hands it isn't told."""
        return self.polarity < 0 and not self.has_two_hands

    @property
    def is_turned(self) -> bool:
        """Whether the hand is not upright for sure; of a radiograph of two hands it isn't told."""
        return self.orientation.is_turned and not self.has_two_hands


def assess_quality(radiograph: Radiograph) -> Quality:
    """Looks at one radiograph.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
    """
    small = shrunk(radiograph)
    orientation = find_orientation(small)
    spread, lightest, dark = _levels(radiograph)
    return Quality(
        orientation,
        _pair_score(small),
        _polarity_score(small, orientation),
        spread,
        lightest,
        dark,
    )


def grey_bands(radiograph: Floats) -> Floats:
    """Where a radiograph is lighter or darker than what is around, at three sizes; inverted it is minus.

    Args:
        radiograph: float32 (h, w).

    Returns:
        float32 (12, 12, 6): for each band of sizes the mean and the mean cube, in cells.
    """
    square = cv2.resize(radiograph, (WINDOW_PIXELS, WINDOW_PIXELS), interpolation=cv2.INTER_AREA)
    size = (_BAND_CELLS, _BAND_CELLS)
    bands = []
    for fine, coarse in _BANDS:
        band = cv2.GaussianBlur(square, (0, 0), fine) - cv2.GaussianBlur(square, (0, 0), coarse)
        power = band * band
        around = np.sqrt(cv2.GaussianBlur(power, (0, 0), 2 * coarse))
        band = np.clip(band / (around + 0.2 * np.sqrt(power.mean()) + 1e-3), -3, 3)
        bands += [
            cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (band, band**3 / 3)
        ]
    return np.stack(bands, 2).astype(np.float32)


def _levels(radiograph: Radiograph) -> tuple[float, float, float]:
    """Spread in 8-bit levels, and the shares of the highest level and of the dark."""
    # Every few pixels: enough for percentiles, and a full-size radiograph takes no longer than a
    # small.
    step = max(1, max(radiograph.shape) // 512)
    levels = np.sort(radiograph[::step, ::step], axis=None)
    low, high = levels[[len(levels) // 100, len(levels) - 1 - len(levels) // 100]]
    # A detector of 10 or 12 bits leaves the upper ones of 16 unused.
    scale = (2 ** max(8, int(levels[-1]).bit_length()) - 1) / 255
    lightest = len(levels) - int(np.searchsorted(levels, levels[-1]))
    # A few hot pixels have no say in the range.
    darkest, brightest = float(levels[0]), float(levels[len(levels) - 1 - len(levels) // 1000])
    limit = np.floor(darkest + _DARK * (brightest - darkest))
    dark = int(np.searchsorted(levels, levels.dtype.type(limit), side="right"))
    return (float(high) - float(low)) / scale, lightest / len(levels), dark / len(levels)


def _pair_score(radiograph: Floats) -> float:
    """How sure two looks are of two hands, in the one that is less sure; above 0 both are.

    One look is at the whole radiograph. The other asks whether each half looks more like a hand
    than the whole does, whichever way up the two of them are.
    """
    looks = (
        four_scores(unit(gradient_cells(radiograph, WINDOW_PIXELS))[None], "pair")[0] - _PAIR_SURE
    )
    if looks.max() < 0:
        return float(looks.max())
    scores = []
    whole = _hand_scores(radiograph).max()
    for turn, look in enumerate(looks):
        if look < 0:
            continue
        upright = np.rot90(radiograph, turn)
        middle = upright.shape[1] // 2
        halves = [_hand_scores(upright[:, :middle])[0], _hand_scores(upright[:, middle:])[0]]
        scores.append(min(float(look), float(min(halves) - whole) - _HALVES_SURE))
    return max(scores)


def _hand_scores(radiograph: Floats) -> Floats:
    """float32 (4,): the most that a large window looks like a hand, turned by 0 to 3 quarters."""
    windows, _ = windows_of(np.ascontiguousarray(radiograph), (1.0, 1.25))
    return np.asarray(four_scores(windows, "window").max(0))


def _polarity_score(radiograph: Floats, orientation: Orientation) -> float:
    """How sure one of two looks is that dense is bright; below 0 neither is, and it is inverted.

    One look is at the whole radiograph, the other at the window of the hand alone, so that the
    white margin of an unexposed collimator does not pass for an inverted radiograph.
    """
    height, width = radiograph.shape
    left, top, right, bottom = orientation.window
    window = radiograph[
        int(top * height) : max(int(bottom * height), 1),
        int(left * width) : max(int(right * width), 1),
    ]
    weights = _polarity_weights()
    looks = []
    for part in (radiograph, window if min(window.shape) > 1 else radiograph):
        upright = np.ascontiguousarray(np.rot90(part, orientation.turn // 90))
        looks.append(float((grey_bands(upright) * weights).sum()))
    return max(looks) - _INVERTED_SURE


@functools.cache
def _polarity_weights() -> Floats:
    file = importlib.resources.files("boneage.radiographs") / "orientation.npz"
    with file.open("rb") as stream, np.load(stream) as stored:
        return np.asarray(stored["polarity"], np.float32)
