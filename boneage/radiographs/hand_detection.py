"""Where the hand is on a radiograph: its silhouette, its palm, its forearm, and the crop around it.

The method is classical and deterministic. Its parameters were set on 219 radiographs of the RSNA
set, so that the crop holds all of their annotated joints. Koitka et al. (2018) drew a box around
every ossification region. `experiments/framing-100px/measure.py` measures the crops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from boneage.radiographs.exposed_field import (
    Grey,
    Mask,
    above_background,
    contact,
    contact_stretches,
    disk,
    erode,
    exposed_field,
    filled,
    hull,
    largest,
    opened,
    shape,
    trimmed,
)
from boneage.radiographs.reader import Radiograph

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first outside."""

WORKING_SIDE = 160
"""Longer side of the small copy on which the hand is detected, pixels."""

WHOLE_RADIOGRAPH = "whole radiograph: no hand stands out from its background"

# In radii of the palm's inscribed circle, from its centre or from the silhouette.
_WRIST = 2.3  # how far below the palm the forearm is cut: the growth plates lie within 2.2
_MARGIN = 0.09
_BELOW = 0.5  # margin where the silhouette ends before the wrist does

_AXES_APART = 20.0  # degrees between the silhouette's axis and the fingers, at most

_SMALLEST_HAND = 0.03  # of the radiograph


@dataclass(frozen=True, eq=False)
class Hand:
    """The hand on one radiograph, or the whole radiograph where no hand was found.

    Attributes:
        box: The crop, in pixels of the radiograph; all of it where no hand was found.
        why: Empty where a hand was found, else why the whole radiograph is kept.
        copy: The small copy of the radiograph on which the hand was detected.
        mask: The silhouette on that copy: array `(h, w)`, uint8, 0 or 1.
        field: The exposed part of that copy, in the same form.
        forearm: Unit vector (x, y) from the palm towards the forearm, if there is a forearm.
        palm: Centre (x, y) and radius of the palm's inscribed circle, on the copy, if a hand was
            found.
    """

    box: Box
    why: str
    copy: Radiograph
    mask: Mask
    field: Mask
    forearm: tuple[float, float] | None = None
    palm: tuple[float, float, float] | None = None

    @property
    def is_found(self) -> bool:
        """Whether a hand was found."""
        return not self.why


def find_hand(radiograph: Radiograph, *, black_corners: bool = False) -> Hand:
    """Find the hand on a radiograph, bright on dark; it may be turned or cut off.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
        black_corners: Whether corners of level 0 may be those of a turned canvas. They are then
            left outside the exposed field.

    Returns:
        The hand, or the whole radiograph with the reason.
    """
    height, width = radiograph.shape
    copy = working_copy(radiograph)
    grey = as_grey(copy)
    mask, field = _silhouette(grey, _canvas(copy) if black_corners else None)
    if mask is None:
        return Hand((0, 0, width, height), WHOLE_RADIOGRAPH, copy, np.zeros_like(grey), field)
    palm = _palm(mask)
    forearm = _forearm(mask, field, palm)
    box = _box(mask, palm, forearm, (height, width))
    return Hand(box, "", copy, mask, field, forearm, palm)


def slant(hand: Hand, aspect: float = 1.0) -> float | None:
    """Return how far a hand is turned from the nearest quarter turn.

    The angle is that of the silhouette's axis of inertia. It counts only where the fingers point
    along it.

    Args:
        hand: The hand on a radiograph.
        aspect: Height of a pixel, in widths.

    Returns:
        Degrees from -45 to 45, by which a counter-clockwise turn makes the hand parallel to a side
        of the radiograph. None where no hand was found or its axis is not clear.
    """
    if hand.palm is None:
        return None
    x, y, radius = hand.palm
    rows, columns = np.nonzero(hand.mask & (1 - opened(hand.mask, 0.55 * radius)))
    across, down = columns - x, rows - y
    thin = np.hypot(across, down) > radius
    if hand.forearm is not None:
        thin &= across * hand.forearm[0] + down * hand.forearm[1] < 0.3 * radius
    if thin.sum() <= 20:
        return None
    fingers = np.degrees(np.arctan2(across[thin].mean(), -down[thin].mean() * aspect))
    moments = cv2.moments(hand.mask, binaryImage=True)
    spread = moments["mu02"] * aspect**2 - moments["mu20"]
    axis = -np.degrees(np.arctan2(2 * moments["mu11"] * aspect, spread)) / 2
    apart = (axis - fingers + 90) % 180 - 90
    return None if abs(apart) > _AXES_APART else float((axis + 45) % 90 - 45)


def turned(
    radiograph: Radiograph, hand: Hand, degrees: float, aspect: float = 1.0
) -> tuple[Radiograph, Hand, npt.NDArray[np.float64]]:
    """Turn a radiograph, and the hand that was found on it, about its centre.

    Args:
        radiograph: Array `(h, w)`, uint8 or uint16.
        hand: The hand that was found on it.
        degrees: Angle, counter-clockwise.
        aspect: Height of a pixel, in widths.

    Returns:
        The radiograph on a larger black canvas, so that nothing is cut off. The hand there. And the
        matrix `(2, 3)` from pixels (x, y) of the radiograph to those of the canvas.
    """
    picture, matrix = _rotated(radiograph, degrees, aspect, cv2.INTER_LANCZOS4)
    copy, small = _rotated(hand.copy, degrees, aspect, cv2.INTER_LINEAR)
    mask, field = (
        np.asarray(_rotated(part, degrees, aspect, cv2.INTER_NEAREST)[0], np.uint8)
        for part in (hand.mask, hand.field)
    )
    forearm = hand.forearm and _unit(*(small[:, :2] @ hand.forearm))
    x, y, radius = hand.palm or (0.0, 0.0, 0.0)
    x, y = small @ (x, y, 1)
    palm = float(x), float(y), radius
    box = _box(mask, palm, forearm, picture.shape)
    found = replace(hand, box=box, copy=copy, mask=mask, field=field, forearm=forearm, palm=palm)
    return picture, found, matrix


def _rotated(
    image: Radiograph, degrees: float, aspect: float, interpolation: int
) -> tuple[Radiograph, npt.NDArray[np.float64]]:
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), degrees, 1.0)
    matrix[0, 1], matrix[1, 0] = matrix[0, 1] * aspect, matrix[1, 0] / aspect
    across, down = (int(np.ceil(side)) for side in np.abs(matrix[:, :2]) @ (width, height))
    centre = np.array([width - 1, height - 1]) / 2
    matrix[:, 2] = np.array([across - 1, down - 1]) / 2 - matrix[:, :2] @ centre
    canvas = cv2.warpAffine(image, matrix, (across, down), flags=interpolation)
    return cast(Radiograph, canvas), np.asarray(matrix, np.float64)


def _box(
    mask: Mask,
    palm: tuple[float, float, float],
    forearm: tuple[float, float] | None,
    radiograph: tuple[int, int],
) -> Box:
    """Return the crop in pixels of the radiograph with this shape."""
    height, width = radiograph
    left, top, right, bottom = _crop(mask, palm, forearm)
    x, y = width / mask.shape[1], height / mask.shape[0]
    start = max(0, round(left * x)), max(0, round(top * y))
    return (*start, min(width, round(right * x)), min(height, round(bottom * y)))


def _canvas(copy: Radiograph) -> Mask | None:
    """Return a working copy's turned rectangle between corners of level 0, if it is one."""
    outside = cv2.copyMakeBorder(
        (copy == 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1
    )
    cv2.floodFill(outside, None, (0, 0), 2)
    inside = largest(np.asarray(outside[1:-1, 1:-1] != 2, np.uint8))
    if not 0.4 < inside.mean() < 0.99 or shape(inside)[0] < 0.93:
        return None
    angle = cv2.minAreaRect(cv2.findNonZero(inside))[2]
    if abs((angle + 45) % 90 - 45) < 1:  # a margin, which is peeled off like any other
        return None
    return erode(hull(inside), 2)


def working_copy(radiograph: Radiograph) -> Radiograph:
    """Return the radiograph shrunk by area to the working size, or a small one unchanged."""
    height, width = radiograph.shape
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return radiograph
    size = max(8, round(width * scale)), max(8, round(height * scale))
    # By halves first: OpenCV averages 2 x 2 pixels ten times as fast as it averages other areas.
    while width >= 4 * size[0] and height >= 4 * size[1]:
        width, height = width // 2, height // 2
        even = radiograph[: 2 * height, : 2 * width]
        radiograph = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return cast(Radiograph, cv2.resize(radiograph, size, interpolation=cv2.INTER_AREA))


def as_grey(copy: Radiograph) -> Grey:
    """Return a working copy without its specks, in 8 bits."""
    if copy.dtype != np.uint8:
        low, high = np.percentile(copy, [0.5, 99.5])
        scaled = (copy.astype(np.float32) - low) * (255 / max(1.0, high - low))
        copy = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return np.asarray(cv2.medianBlur(copy, 3), np.uint8)


def _silhouette(grey: Grey, canvas: Mask | None = None) -> tuple[Mask | None, Mask]:
    """Return the silhouette, or None where nothing is like one, and the field that holds it."""
    first = field = exposed_field(grey, canvas)
    spare: tuple[Mask, Mask] | None = None
    shrunk = 0
    for _ in range(5):
        above, noise = above_background(grey, field)
        bright = above[(field > 0) & (above > max(4 * noise, 1.5))]
        typical = float(np.percentile(bright, 60)) if bright.size else 0.0
        threshold = max(2.5 * noise, 0.14 * typical, 1.2)
        nested = None
        for _ in range(4):  # a weaker shadow behind the hand disappears as the threshold rises
            hot = (above > threshold).astype(np.uint8)
            inner = trimmed(hot, field)
            unspecked = cv2.morphologyEx(np.asarray(hot & inner), cv2.MORPH_OPEN, disk(1))
            part = largest(np.asarray(unspecked, np.uint8))
            mask = filled(part)
            if mask.mean() < _SMALLEST_HAND:
                break
            nested = _nested_field(part, mask)
            if nested is not None:
                break
            share, stretches = contact(mask, inner)
            if share <= 0.25 or (share <= 0.33 and stretches <= 1):
                return mask, inner
            if spare is None and share <= 0.33:
                spare = mask, inner
            threshold *= 1.5
        if nested is None:
            if spare is not None or shrunk == 2:
                break
            shrunk += 1
            nested = erode(field, 4)  # leave a broken bright border outside
        if nested.mean() < 0.1:
            break
        field = nested
    return spare or (None, first)


def _nested_field(part: Mask, mask: Mask) -> Mask | None:
    """Return the inside of a bright frame, or of a rectangle that is no hand; else None."""
    if mask.mean() <= 0.15:
        return None
    if part.sum() < 0.8 * mask.sum():
        return erode(mask, 4)
    rectangle, solid = shape(mask)
    return erode(hull(mask), 4) if rectangle > 0.8 and solid > 0.9 else None


def _palm(mask: Mask) -> tuple[float, float, float]:
    """Return centre and radius of the largest inscribed circle that is near the fingers."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    _, radius, _, (x, y) = cv2.minMaxLoc(depth)
    # A forearm may be as wide as the palm. Fingers, which an opening removes, are at the palm only.
    thin = mask & (1 - opened(mask, 0.55 * radius))
    thin = cv2.morphologyEx(np.asarray(thin, np.uint8), cv2.MORPH_OPEN, disk(1))
    rows, columns = np.nonzero(thin)
    if len(rows) > 0.5 * radius**2:
        deep = np.nonzero(depth > 0.5 * radius)
        away = np.hypot(deep[1] - columns.mean(), deep[0] - rows.mean())
        best = int((depth[deep] - 0.1 * away).argmax())
        y, x = int(deep[0][best]), int(deep[1][best])
    return float(x), float(y), float(depth[y, x])


def _forearm(
    mask: Mask, field: Mask, palm: tuple[float, float, float]
) -> tuple[float, float] | None:
    """Return the direction of the silhouette's thick part, to where it leaves the field."""
    x, y, radius = palm
    exits = [
        (columns.mean() - x, rows.mean() - y)
        for rows, columns in contact_stretches(mask, field, at_least=0.6 * radius)
    ]
    if not exits:  # the whole hand is inside the field: nothing has to be cut off
        return None
    rows, columns = np.nonzero(opened(mask, 0.5 * radius))
    across, down = columns - x, rows - y
    far = np.hypot(across, down) > 1.5 * radius
    if far.sum() > 0.15 * radius**2:
        along = _unit(across[far].mean(), down[far].mean())
        if any(np.dot(along, _unit(*exit_)) > 0.5 for exit_ in exits):
            return along
    return _unit(*exits[0]) if np.hypot(*exits[0]) > radius else None


def _unit(x: float, y: float) -> tuple[float, float]:
    length = max(1e-6, float(np.hypot(x, y)))
    return float(x / length), float(y / length)


def _crop(
    mask: Mask, palm: tuple[float, float, float], forearm: tuple[float, float] | None
) -> npt.NDArray[np.float64]:
    """Return left, top, right and bottom of the crop on the working copy, or beyond its border."""
    x, y, radius = palm
    rows, columns = np.nonzero(mask)
    outward = np.array([-1.0, -1.0, 1.0, 1.0])
    slack = max(mask.shape) / WORKING_SIDE
    margin = np.full(4, _MARGIN * radius) + slack
    if forearm is None:
        return np.asarray(_bounds(rows, columns) + outward * margin, np.float64)
    kept = (columns - x) * forearm[0] + (rows - y) * forearm[1] <= _WRIST * radius
    box = _bounds(rows[kept], columns[kept])
    towards = np.array([-forearm[0], -forearm[1], forearm[0], forearm[1]])
    margin[towards < -0.7] = slack  # the joints end well below the finger tips
    margin[towards > 0.7] = _BELOW * radius + slack
    crop = box + outward * margin
    wrist = np.array([x, y, x, y]) + outward * (_WRIST * radius + slack)
    below = towards > 0.7  # no further than the wrist, unless a slanting silhouette reaches on
    limit = outward * np.maximum(outward * box, np.minimum(outward * crop, outward * wrist))
    return np.asarray(np.where(below, limit, crop), np.float64)


def _bounds(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
