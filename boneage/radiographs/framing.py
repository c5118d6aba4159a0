"""Frame a decoded image to one square uint8 image: hand, contrast, aspect, size."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.radiographs.exposed_field import disk
from boneage.radiographs.hand_detection import WHOLE_RADIOGRAPH, Box, Hand, find_hand, slant, turned
from boneage.radiographs.image_quality import ImageFinding
from boneage.radiographs.orientation import find_orientation
from boneage.radiographs.reader import SMALLEST_SIDE, Radiograph
from boneage.recipe import Framing

# Raise it whenever decoding and `frame` give other pixels for the same settings: stores are then
# rebuilt.
VERSION = 6

HAND = "hand"
WHOLE_RADIOGRAPH_ASKED = "whole radiograph: framing.crop is none"
REASONS = (HAND, WHOLE_RADIOGRAPH, WHOLE_RADIOGRAPH_ASKED)
"""Every value that `Crop.why` can have."""
LOW_RESOLUTION = 0.5
"""Share of the framed size below which the longer side of a crop has a low resolution."""
LOW_CONTRAST_LEVELS = 32
"""Levels of 255 that a hand spans in its radiograph, below which its contrast is low."""
CLIPPED_DARK, CLIPPED_BRIGHT = 0.5, 0.02
"""Shares of `Framed.clipped` above which an exposure is cut off at its dark or its bright end."""
SLANT = 15
"""Degrees from a quarter turn above which `upright = "fine"` turns a hand."""
CENTRE = (0.5, 0.5)
PHASES = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))
"""Phases (y, x) whose answers are averaged: four different pixels of the same small area."""


@dataclass(frozen=True)
class Crop:
    """Which part of an image was framed.

    Attributes:
        box: Left, top, right, bottom in pixels of the image; the last two are the first outside.
            Of a part that is not parallel to the image's sides, the smallest box around it.
        rotation: Degrees by which that part was turned, counter-clockwise, so that the fingers
            point up: 0, 90, 180 or 270, or with `upright = "fine"` any whole number below 360.
        why: Why that part was chosen, one of `REASONS`. It begins with `whole radiograph` where the
            part is all of the image.
    """

    box: Box
    rotation: int
    why: str


@dataclass(frozen=True, eq=False)
class Framed:
    """A framed image.

    Attributes:
        pixels: Array `(size, size)`, uint8.
        crop: The part of the image that they show.
        gain: Levels of the framed image for one level of the radiograph, as the contrast stretch
            sets it. Levels of both are 255ths of black to white. Of a uint16 image, white is the
            largest value of as many bits as its brightest pixel needs.
        to_radiograph: Matrix `(2, 3)` from positions (x, y) on the framed image to those on the
            radiograph. The top left corner of either is (0, 0), so its first pixel is centred at
            (0.5, 0.5).
        clipped: Share of the surroundings of the hand at the radiograph's lowest level, and share
            of the hand at the highest; 0 where no hand was found.
    """

    pixels: npt.NDArray[np.uint8]
    crop: Crop
    gain: float
    to_radiograph: npt.NDArray[np.float64]
    clipped: tuple[float, float] = (0.0, 0.0)


def frame(
    radiograph: Radiograph,
    framing: Framing,
    region: Box | None = None,
    *,
    phase: tuple[float, float] = CENTRE,
) -> Framed:
    """Cut out the hand, stretch its contrast and fit it into a square.

    With `source_pixels`, a larger image is shrunk to that square first. Everything below is then
    done to the shrunk image.

    With `crop = "hand"`, the hand is found and cut out with a margin. It is turned upright by
    quarter turns where its forearm and its orientation agree. The unexposed surroundings are made
    black. The grey level that becomes 0 is the lower percentile of the exposed part of the crop.
    The level that becomes 255 is the upper percentile of the hand, so bright markers do not count.

    With `upright = "fine"`, a hand that slants by more than `SLANT` degrees is first turned
    parallel to the nearest side, together with the image. Its pixels are then taken from the
    original where `sampling` is `nearest`, and interpolated elsewhere.

    Where no hand is found, and with `crop = "none"`, the whole image is kept, and both percentiles
    are those of all its pixels. Grey levels outside the two are clipped.

    `fit = "pad"` keeps the aspect and centres the crop in black. `fit = "stretch"` fills the
    square. Shrinking averages areas, to a 256th of a grey level. Enlarging interpolates linearly.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
        framing: The kind of crop, the size in pixels and the two percentiles.
        region: The part of the image to frame; by default all of it.
        phase: Which pixel `sampling = "nearest"` takes of each area that becomes one pixel, as
            shares (y, x) of its sides: at least 0 and below 1. `area` does not use it.

    Returns:
        The framed image, and where it is on the radiograph.

    Raises:
        InputError: The region is not inside the image.
    """
    if region is not None:
        radiograph = cut_region(radiograph, region)
    source = _shrunk(radiograph, framing, phase)
    framed = _frame(source, framing, radiograph, phase)
    left, top, right, bottom = framed.crop.box
    (height, width), (inner_height, inner_width) = radiograph.shape, source.shape
    across, down = (0, 0) if region is None else region[:2]
    box = (  # every pixel that the crop took some part of
        left * width // inner_width + across,
        top * height // inner_height + down,
        -(-right * width // inner_width) + across,
        -(-bottom * height // inner_height) + down,
    )
    scale = np.array([[width / inner_width], [height / inner_height]])
    to_radiograph = framed.to_radiograph * scale
    to_radiograph[:, 2] += across, down
    return replace(framed, crop=replace(framed.crop, box=box), to_radiograph=to_radiograph)


def _shrunk(
    radiograph: Radiograph, framing: Framing, phase: tuple[float, float] = CENTRE
) -> Radiograph:
    """Return a radiograph with sides of at most `source_pixels`."""
    if framing.source_pixels is None or max(radiograph.shape) <= framing.source_pixels:
        return radiograph
    height, width = (min(side, framing.source_pixels) for side in radiograph.shape)
    if framing.sampling == "area":
        shrunk = cv2.resize(radiograph, (width, height), interpolation=cv2.INTER_AREA)
        return cast(Radiograph, shrunk)
    steps_add_up = radiograph.dtype == np.uint8
    rows = _nearest(radiograph.shape[0], height, phase[0], steps_add_up)
    columns = _nearest(radiograph.shape[1], width, phase[1], steps_add_up)
    return cast(Radiograph, np.ascontiguousarray(radiograph[rows][:, columns]))


def _nearest(side: int, shrunk: int, phase: float, steps_add_up: bool) -> npt.NDArray[np.int64]:
    """Return which pixels of a side are taken: those of Pillow's `NEAREST` at phase 0.5."""
    if side == shrunk:
        return np.arange(side)
    # Rounding decides where a position falls on the border of two pixels. Pillow adds up the steps
    # in images of 8 bits, and multiplies in those of 16.
    if steps_add_up:
        steps = np.full(shrunk, side / shrunk)
        steps[0] *= phase
        positions = np.cumsum(steps)
    else:
        positions = (np.arange(shrunk) + phase) * (side / shrunk)
    return np.minimum(positions.astype(np.int64), side - 1)


def _frame(
    radiograph: Radiograph, framing: Framing, original: Radiograph, phase: tuple[float, float]
) -> Framed:
    """Frame all of a radiograph, which may be the shrunk copy of an original."""
    height, width = shape = radiograph.shape
    white = _white(radiograph)
    hand, matrix, degrees, clipped = None, None, 0, (0.0, 0.0)
    why = WHOLE_RADIOGRAPH_ASKED
    box = (0, 0, width, height)
    if framing.crop == "hand":
        found = find_hand(radiograph, black_corners=framing.upright == "fine")
        clipped = _clipped(found)
        if framing.upright == "fine":
            aspect = original.shape[0] * width / (height * original.shape[1])
            degrees = round(slant(found, aspect) or 0)
            degrees = degrees if abs(degrees) > SLANT else 0
        if degrees:
            radiograph, found, matrix = turned(radiograph, found, degrees, aspect)
            if framing.sampling == "nearest" and original.shape != shape:
                radiograph = _picked(original, shape, matrix, radiograph.shape, phase)
        hand = found if found.is_found else None
        box, why = found.box, found.why or HAND
    quarter = 0 if hand is None else _turn(hand)
    crop = Crop(box, (quarter + degrees) % 360, why)
    low, high = _levels(radiograph, crop.box, hand, framing.contrast_percentiles)
    inner = _scaled(radiograph, crop.box, _inner_size(crop.box, framing), (low, high))
    if hand is not None:
        _blacken_unexposed(inner, radiograph.shape, crop.box, hand)
        inner = np.rot90(inner, quarter // 90)
    to_radiograph = _from_framed(box, quarter, inner.shape, framing.size)
    if matrix is not None:
        to_radiograph = _before(matrix) @ _square(to_radiograph)
        crop = replace(crop, box=_box_before(box, matrix, shape))
    gain = _stretch(low, high) * white / 255
    return Framed(_centred(inner, framing.size), crop, gain, to_radiograph, clipped)


def _from_framed(
    box: Box, quarter: int, inner: tuple[int, ...], size: int
) -> npt.NDArray[np.float64]:
    """Return the matrix from positions on the framed image to those on what the box is part of."""
    left, top, right, bottom = box
    corners = np.array([(left, top), (left, bottom), (right, bottom), (right, top)], np.float64)
    # A quarter turn counter-clockwise brings the corner at the top right to the top left.
    start, down, _, across = np.roll(corners, quarter // 90, axis=0)
    x, y = (size - inner[1]) // 2, (size - inner[0]) // 2
    columns, rows = (across - start) / inner[1], (down - start) / inner[0]
    return np.column_stack([columns, rows, start - columns * x - rows * y])


def _picked(
    original: Radiograph,
    shrunk: tuple[int, ...],
    matrix: npt.NDArray[np.float64],
    canvas: tuple[int, ...],
    phase: tuple[float, float],
) -> Radiograph:
    """Return a turned canvas of single pixels of the original, as `_shrunk` takes them.

    Pixels that are interpolated look like those of a radiograph that was shrunk by averaging.
    """
    back = cv2.invertAffineTransform(matrix)  # from the canvas to the shrunk image
    for axis, (side, small) in enumerate(zip(original.shape[::-1], shrunk[::-1], strict=True)):
        back[axis] *= side / small
        share = phase[1 - axis] if side > small else 0.5
        back[axis, 2] += share * side / small - 0.5
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cast(Radiograph, cv2.warpAffine(original, back, canvas[::-1], flags=flags))


def _box_before(box: Box, matrix: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Box:
    """Return the smallest box around a part, where it was before the image was turned."""
    left, top, right, bottom = box
    corners = np.array([[x, y, 1] for x in (left, right) for y in (top, bottom)])
    before = corners @ _before(matrix).T
    start = np.floor(np.maximum(before.min(0), 0)).astype(int).tolist()
    end = np.ceil(np.minimum(before.max(0), shape[::-1])).astype(int).tolist()
    return (start[0], start[1], end[0], end[1])


def _before(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the matrix of positions from a turned canvas to the image.

    The matrix of `turned` counts from the centre of the first pixel, positions from its corner.
    """
    back = cv2.invertAffineTransform(matrix)
    back[:, 2] += 0.5 - back[:, :2] @ (0.5, 0.5)
    return np.asarray(back, np.float64)


def _square(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.vstack([matrix, (0.0, 0.0, 1.0)])


def _white(radiograph: Radiograph) -> int:
    """Return the largest value of a radiograph's depth, by its brightest pixel where unknown."""
    return 255 if radiograph.dtype == np.uint8 else 2 ** int(radiograph.max()).bit_length() - 1


def framing_findings(framed: Framed) -> list[ImageFinding]:
    """Return what is doubtful about the part of an image that was framed."""
    findings = []
    if framed.crop.why == WHOLE_RADIOGRAPH:
        what = "no hand stands out from its background, so all of it is used"
        fix = "Check the image. Is it a radiograph of one hand?"
        findings.append(ImageFinding("no-hand", what, fix))
    left, top, right, bottom = framed.crop.box
    width, height, size = right - left, bottom - top, len(framed.pixels)
    if max(width, height) < LOW_RESOLUTION * size:
        what = f"the hand has only {width} x {height} pixels, enlarged to {size} x {size}"
        findings.append(ImageFinding("low-resolution", what, "Use the original image."))
    if framed.crop.rotation:
        clockwise = framed.crop.rotation > 180
        degrees = 360 - framed.crop.rotation if clockwise else framed.crop.rotation
        what = (
            f"the hand was turned by {degrees} degrees {'' if clockwise else 'counter-'}clockwise"
        )
        what, fix = f"{what}, to put it upright", "Check the image."
        findings.append(ImageFinding("rotated", what, fix, is_corrected=True))
    return findings + _exposure_findings(framed)


def _exposure_findings(framed: Framed) -> list[ImageFinding]:
    """Return what is doubtful about the grey levels of the hand."""
    findings = []
    fix = "Check the image. Export it again with its full range."
    if framed.crop.why == HAND and framed.gain > 255 / LOW_CONTRAST_LEVELS:
        what = f"the hand spans only {255 / framed.gain:.0f} of 255 grey levels"
        findings.append(ImageFinding("low-contrast", what, fix))
    dark, bright = framed.clipped
    if dark > CLIPPED_DARK:
        what = "the edge of the hand may be lost: all around it is black"
        findings.append(ImageFinding("too-dark", what, fix))
    if bright > CLIPPED_BRIGHT:
        share = f"{100 * bright:.0f} % of the hand"
        what = f"{share} is as bright as the image can be, so bone is lost there"
        findings.append(ImageFinding("too-bright", what, fix))
    return findings


def _clipped(hand: Hand) -> tuple[float, float]:
    """Return the shares of `Framed.clipped`, as the small copy of the radiograph shows them."""
    if not hand.is_found:
        return 0.0, 0.0
    inside = hand.mask > 0
    around = (cv2.dilate(hand.mask, disk(2)) > 0) & ~inside
    low, high = float(hand.copy.min()), float(hand.copy.max())
    slack = (high - low) / 128  # averaging moves a level
    dark = (hand.copy[around] <= low + slack / 2).mean() if around.any() else 0.0
    return float(dark), float((hand.copy[inside] >= high - slack).mean())


def framing_key(framing: Framing) -> str:
    """Return a hex digest that changes whenever the framed pixels may change."""
    text = json.dumps({"version": VERSION, **framing.recorded()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def cut_region(radiograph: Radiograph, region: Box) -> Radiograph:
    """Return a part of an image.

    Raises:
        InputError: The region is not inside the image, or too small.
    """
    height, width = radiograph.shape
    left, top, right, bottom = region
    outside = min(left, top) < 0 or right > width or bottom > height
    if outside or min(right - left, bottom - top) < SMALLEST_SIDE:
        raise InputError(
            Fault(
                "region",
                f"its corners are {left} {top} {right} {bottom}, "
                f"and the image has {width} x {height} pixels",
                "Correct the column region, or leave it empty for the whole image.",
                expected=f"a part of the image with sides of at least {SMALLEST_SIDE} pixels",
            )
        )
    return radiograph[top:bottom, left:right]


def _turn(hand: Hand) -> int:
    """Return the degrees, counter-clockwise, that put the forearm below the fingers."""
    if hand.forearm is None:
        return 0
    x, y = hand.forearm
    turn = (0 if y > 0 else 180) if abs(y) >= abs(x) else (90 if x < 0 else 270)
    # Of a closed hand, the silhouette may be wrong; of a slanting one, the orientation. Turn the
    # hand only where both agree.
    return turn if turn and find_orientation(hand.copy).turn == turn else 0


def _levels(
    radiograph: Radiograph, box: Box, hand: Hand | None, percentiles: tuple[float, float]
) -> tuple[float, float]:
    """Return the grey levels that become 0 and 255."""
    if hand is None:
        return _radiograph_levels(radiograph, percentiles)
    copy = hand.copy
    y, x = copy.shape[0] / radiograph.shape[0], copy.shape[1] / radiograph.shape[1]
    left, top, right, bottom = box
    part = (
        slice(int(top * y), round(bottom * y) or 1),
        slice(int(left * x), round(right * x) or 1),
    )
    exposed = copy[part][hand.field[part] > 0]
    silhouette = copy[part][hand.mask[part] > 0]
    low = float(np.percentile(exposed, percentiles[0])) if exposed.size else 0.0
    return low, float(np.percentile(silhouette, percentiles[1]))


def _radiograph_levels(
    radiograph: Radiograph, percentiles: tuple[float, float]
) -> tuple[float, float]:
    # A histogram is one cheap pass, where sorting 3 million pixels costs more than decoding them.
    levels = 256 if radiograph.dtype == np.uint8 else 65_536
    counts = cv2.calcHist([radiograph], [0], None, [levels], [0, levels]).ravel()
    cumulative = np.cumsum(counts, dtype=np.float64)
    # The level at a percentile is the lowest that this share of the pixels, and at least one
    # pixel, does not exceed.
    shares = np.array(percentiles) / 100
    low, high = np.searchsorted(cumulative, np.maximum(shares * cumulative[-1], 1))
    return float(low), float(high)


def _inner_size(box: Box, framing: Framing) -> tuple[int, int]:
    """Return the width and height that the box gets within the square, in pixels."""
    if framing.fit == "stretch":
        return framing.size, framing.size
    left, top, right, bottom = box
    scale = framing.size / max(right - left, bottom - top)
    return max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))


def _scaled(
    radiograph: Radiograph, box: Box, inner: tuple[int, int], levels: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Resize the part in the box to `inner` (width, height), and stretch its contrast."""
    left, top, right, bottom = box
    part = radiograph[top:bottom, left:right]
    is_fine = part.dtype == np.uint8
    if is_fine:  # 256ths of a grey level are kept while areas are averaged
        part = np.left_shift(part, 8, dtype=np.uint16)
    # One side may shrink while the other grows; OpenCV averages areas only where both shrink.
    shrunk = min(inner[0], part.shape[1]), min(inner[1], part.shape[0])
    for size, interpolation in ((shrunk, cv2.INTER_AREA), (inner, cv2.INTER_LINEAR)):
        if size != part.shape[::-1]:
            part = np.asarray(cv2.resize(part, size, interpolation=interpolation), np.uint16)
    return _contrasted(np.divide(part, np.float32(256 if is_fine else 1), dtype=np.float32), levels)


def _contrasted(
    grey: npt.NDArray[np.float32], levels: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Stretch grey levels, with their fractions, so that two of them become 0 and 255."""
    low, high = levels
    above = np.maximum(grey - low, 0)
    return np.asarray(cv2.convertScaleAbs(above, alpha=_stretch(low, high)), np.uint8)


def _stretch(low: float, high: float) -> float:
    """Return the factor that stretches grey levels between two of them to 0 to 255."""
    return 255.0 / max(1.0, high - low)


def _blacken_unexposed(
    inner: npt.NDArray[np.uint8], radiograph: tuple[int, int], box: Box, hand: Hand
) -> None:
    """Make black, in place, what is neither in the exposed field nor near the hand."""
    if hand.field.all():
        return
    keep = cv2.dilate(hand.field, disk(2)) | cv2.dilate(hand.mask, disk(4))
    height, width = keep.shape
    inner_height, inner_width = inner.shape
    left, top, right, bottom = box
    # From pixels of the resized crop to those of the working copy.
    x, y = (
        (right - left) / inner_width * width / radiograph[1],
        (bottom - top) / inner_height * height / radiograph[0],
    )
    matrix = np.array([[x, 0, left * width / radiograph[1]], [0, y, top * height / radiograph[0]]])
    kept = cv2.warpAffine(
        keep,
        matrix,
        (inner_width, inner_height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inner[kept == 0] = 0


def _centred(inner: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    if inner.shape == (size, size):
        return inner
    height, width = inner.shape
    square = np.zeros((size, size), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = inner
    return square
