"""The quality of one image: blank, flat, nearly empty, turned, two hands, inverted or saturated.

Every command that takes radiographs calls these functions, so that all of them judge alike.
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from boneage.errors import Fault, InputError
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
"""Spread (1st to 99th percentile), in 8-bit levels, below which an image is nearly uniform."""
SATURATED_SHARE = 0.6
"""Share of the pixels at the lightest level above which an image is saturated."""
EMPTY_SHARE = 0.9
"""Share of the pixels within the background above which an image is nearly empty. A hand on a black
image leaves up to 0.84 (2,000 radiographs of RSNA, chosen at random), a white margin up to 0.15."""

_PAIR_SURE, _HALVES_SURE, _INVERTED_SURE = -1.0, -0.5, -1.0
_BANDS = ((0.7, 2.5), (1.0, 5.0), (2.5, 10.0))
_BAND_CELLS = 12
_BACKGROUND = 0.05


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one image.

    Attributes:
        orientation: The orientation of the hand.
        pair: Score of two hands in the image; above 0, both classifiers agree.
        polarity: Score of dense being bright; below 0, both classifiers say that it is dark.
        spread: 99th minus 1st percentile of the levels, where the bits in use are scaled to 255.
        lightest: Share of the pixels at the highest level.
        empty: Share of the pixels within a 20th of the range from the lowest level, or the highest.
    """

    orientation: Orientation
    pair: float
    polarity: float
    spread: float
    lightest: float
    empty: float

    @property
    def has_two_hands(self) -> bool:
        """Whether the image shows two hands."""
        return self.pair > 0

    @property
    def is_inverted(self) -> bool:
        """Whether dense is dark; not known for an image of two hands."""
        return self.polarity < 0 and not self.has_two_hands

    @property
    def is_turned(self) -> bool:
        """Whether the hand is turned; not known for an image of two hands."""
        return self.orientation.is_turned and not self.has_two_hands


@dataclass(frozen=True, slots=True)
class ImageFinding:
    """Something that is wrong with what an image shows.

    Attributes:
        code: Kind of finding, such as `inverted`.
        what: What is wrong, with its value: a clause without a full stop.
        fix: What to do about the file: whole sentences.
        row_fix: What to do instead about its row of a manifest.
        is_corrected: It was put right for the answer, so nothing needs to be done.
    """

    code: str
    what: str
    fix: str
    row_fix: str = "Or remove its row."
    is_corrected: bool = False


def find_blank(radiograph: Radiograph) -> ImageFinding | None:
    """Return why an image shows too little to be used, or None.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
    """
    if radiograph.min() == radiograph.max():
        what = f"every pixel is {radiograph.flat[0]}"
        return ImageFinding("blank-image", what, "Check the image, and export it again.")
    spread, _, empty = _levels(radiograph)
    if spread < FLAT_LEVELS:
        what = f"its grey levels span only {spread:.1f} of 255"
        fix = "Check the image. Export it again with its full range."
        return ImageFinding("flat-image", what, fix)
    if empty > EMPTY_SHARE:
        what = f"{_percent(empty)} of it is as dark or light as its background"
        fix = "Check the image. Export it again, or crop it to the hand."
        return ImageFinding("nearly-empty-image", what, fix)
    return None


def refuse_blank(radiograph: Radiograph, path: Path) -> None:
    """Refuse an image that shows too little to be used.

    Raises:
        InputError: `find_blank` has found something.
    """
    found = find_blank(radiograph)
    if found is not None:
        raise InputError(Fault(str(path), found.what, f"{found.fix} {found.row_fix}"))


def quality_findings(quality: Quality) -> list[ImageFinding]:
    """Return what a person should check: a hand that is turned, two hands, inverted, saturated."""
    findings = []
    if quality.is_turned:
        turn = "upside down" if quality.orientation.turn == 180 else "sideways"
        fix = "Check the image. Rotate the file."
        findings.append(ImageFinding("turned-hand", f"the hand is probably {turn}", fix))
    if quality.has_two_hands:
        fix = "Check the image. Cut out the left hand."
        row_fix = "Or write the part with the left hand into the column region."
        findings.append(ImageFinding("two-hands", "it probably shows two hands", fix, row_fix))
    if quality.is_inverted:
        fix = "Check the image. Export it again, or invert the file."
        findings.append(ImageFinding("inverted", "it is probably inverted: bone is dark", fix))
    if quality.lightest > SATURATED_SHARE:
        what = f"{_percent(quality.lightest)} of it is saturated"
        fix = "Check the image. Export it again with another window."
        findings.append(ImageFinding("saturated-image", what, fix))
    return findings


def _percent(share: float) -> str:
    """Return a share in percent, never rounded up to 100 %."""
    return f"{int(100 * share)} %"


def assess_quality(radiograph: Radiograph) -> Quality:
    """Assess the quality of one image.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
    """
    small = shrunk(radiograph)
    orientation = find_orientation(small)
    polarity = _polarity_score(small, orientation)
    return Quality(orientation, _pair_score(small), polarity, *_levels(radiograph))


def highest_level(radiograph: Radiograph) -> int:
    """Return the highest grey level of the bits in use: at least 255, for 12 bits 4,095."""
    return int(2 ** max(8, int(radiograph.max()).bit_length()) - 1)


def invert_levels(radiograph: Radiograph) -> Radiograph:
    """Return a radiograph with dark for bright, in the same dtype."""
    return highest_level(radiograph) - radiograph


def grey_bands(radiograph: Floats) -> Floats:
    """Return how much lighter the image is than its surroundings, at three scales.

    An inverted image gives the negative of it.

    Args:
        radiograph: float32 (h, w).

    Returns:
        float32 (12, 12, 6): for each scale the mean and the mean cube, in cells.
    """
    square = cv2.resize(radiograph, (WINDOW_PIXELS, WINDOW_PIXELS), interpolation=cv2.INTER_AREA)
    size = (_BAND_CELLS, _BAND_CELLS)
    bands = []
    for fine, coarse in _BANDS:
        band = _blurred(square, fine) - _blurred(square, coarse)
        power = band * band
        around = np.sqrt(_blurred(power, 2 * coarse))
        band = np.clip(band / (around + 0.2 * np.sqrt(power.mean()) + 1e-3), -3, 3)
        bands += [
            cv2.resize(part, size, interpolation=cv2.INTER_AREA)
            for part in (band, band * band * band / 3)  # a power takes 60 times as long
        ]
    return np.stack(bands, 2).astype(np.float32)


def _blurred(square: Floats, sigma: float) -> Floats:
    """Return OpenCV's Gaussian blur of a square, in a fifth of its time for a wide kernel."""
    matrix = _blur_matrix(len(square), sigma)
    return np.asarray(matrix @ square @ matrix.T)


@functools.cache
def _blur_matrix(side: int, sigma: float) -> Floats:
    kernel = cv2.getGaussianKernel(round(8 * sigma + 1) | 1, sigma, cv2.CV_32F)
    one = np.ones((1, 1), np.float32)
    return np.asarray(cv2.sepFilter2D(np.eye(side, dtype=np.float32), -1, one, kernel))


def _levels(radiograph: Radiograph) -> tuple[float, float, float]:
    """Return the spread in 8-bit levels, and the shares of the highest level and of background."""
    # Every few pixels are enough for percentiles, and a large image then takes no longer.
    step = max(1, max(radiograph.shape) // 512)
    # numpy sorts uint16 in a 20th of the time that it takes for uint8.
    levels = np.sort(radiograph[::step, ::step].astype(np.uint16), axis=None)
    low, high = levels[[len(levels) // 100, len(levels) - 1 - len(levels) // 100]]
    # A detector of 10 or 12 bits leaves the upper bits of 16 unused.
    scale = highest_level(levels) / 255
    lightest = len(levels) - int(np.searchsorted(levels, levels[-1]))
    empty = 0
    for ordered in (levels, levels[-1] - levels[::-1]):  # from the darkest, and from the lightest
        # A few hot pixels do not change the range.
        first, last = float(ordered[0]), float(ordered[len(levels) - 1 - len(levels) // 1000])
        limit = ordered.dtype.type(first + _BACKGROUND * (last - first))
        empty = max(empty, int(np.searchsorted(ordered, limit, side="right")))
    return (float(high) - float(low)) / scale, lightest / len(levels), empty / len(levels)


def _pair_score(radiograph: Floats) -> float:
    """Return the lower of two classifiers' scores of two hands; above 0, both agree.

    The first is of the whole image. The second compares each half with the whole: with two hands,
    each half is more like a hand. All four turns are tried.
    """
    cells = gradient_cells(radiograph, WINDOW_PIXELS)
    pair_scores = four_scores(unit(cells)[None], "pair")[0] - _PAIR_SURE
    if pair_scores.max() < 0:
        return float(pair_scores.max())
    scores = []
    whole = _hand_scores(radiograph).max()
    for turn, pair_score in enumerate(pair_scores):
        if pair_score < 0:
            continue
        upright = np.rot90(radiograph, turn)
        middle = upright.shape[1] // 2
        halves = [_hand_scores(upright[:, :middle])[0], _hand_scores(upright[:, middle:])[0]]
        scores.append(min(float(pair_score), float(min(halves) - whole) - _HALVES_SURE))
    return max(scores)


def _hand_scores(radiograph: Floats) -> Floats:
    """Return float32 (4,): the best score of a large window, turned by 0 to 3 quarters."""
    windows, _ = windows_of(np.ascontiguousarray(radiograph), (1.0, 1.25))
    return np.asarray(four_scores(windows, "window").max(0))


def _polarity_score(radiograph: Floats, orientation: Orientation) -> float:
    """Return the higher of two scores of dense being bright; below 0, the image is inverted.

    One score is of the whole image, the other of the window of the hand. So the white margin of an
    unexposed collimator does not count as an inverted image.
    """
    height, width = radiograph.shape
    left, top, right, bottom = orientation.window
    window = radiograph[
        int(top * height) : max(int(bottom * height), 1),
        int(left * width) : max(int(right * width), 1),
    ]
    weights = read_polarity_weights()
    scores = []
    for part in (radiograph, window if min(window.shape) > 1 else radiograph):
        upright = np.ascontiguousarray(np.rot90(part, orientation.turn // 90))
        scores.append(float((grey_bands(upright) * weights).sum()))
    return max(scores) - _INVERTED_SURE


@functools.cache
def read_polarity_weights() -> Floats:
    """Return the weights of `grey_bands` by which dense is bright."""
    file = importlib.resources.files("boneage.radiographs") / "orientation.npz"
    with file.open("rb") as stream, np.load(stream) as stored:
        return np.asarray(stored["polarity"], np.float32)
