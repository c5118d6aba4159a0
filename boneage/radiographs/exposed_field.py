"""The exposed part of a radiograph, without collimators, frames and shading.

All functions work on a small 8-bit copy, with masks of 0 and 1. The radiograph is peeled from its
border inwards as long as the rest is like a rectangle. Then a smooth surface is fitted to the
background of the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]

MOST_TRIMMED = 0.12
"""Largest share of the field's sides that is cut off as bands without any background."""

_PEELINGS = 3  # a cassette, a collimator and a border, one inside the other
_SMALLEST_FIELD = 0.1
_RING_SHARE = 0.5  # of the border that one grey level must cover to be an unexposed margin
_TOLERANCE = 0.05  # of the span of grey levels: within it, levels count as one
_SAMPLES = 1500  # pixels for the fit of the background: more cost time and change nothing
_NOISE_AT_LEAST = 0.35  # grey levels: the noise of rounding


def disk(radius: float) -> Mask:
    """Return a round structuring element of at least one pixel around the middle."""
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def erode(mask: Mask, radius: int) -> Mask:
    """Erode a mask by `radius` pixels, also at the border of the image."""
    border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    return np.asarray(cv2.erode(mask, disk(radius), **border), np.uint8)


def opened(mask: Mask, radius: float) -> Mask:
    """Remove what is thinner than a disk, by distances, which cost the same at any radius."""
    inner = cv2.distanceTransform(mask, cv2.DIST_L2, 5) > radius
    if not inner.any():
        return np.zeros_like(mask)
    away = cv2.distanceTransform((~inner).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray((away <= radius) & (mask > 0), np.uint8)


def largest(mask: Mask) -> Mask:
    """Return the largest connected part of a mask; all zero if it is empty."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if len(stats) < 2:
        return np.zeros_like(mask)
    return np.asarray(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax(), np.uint8)


def filled(mask: Mask) -> Mask:
    """Return a mask without its holes."""
    flooded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(flooded, None, (0, 0), 2)
    return np.asarray(flooded[1:-1, 1:-1] != 2, np.uint8)


def hull(mask: Mask) -> Mask:
    """Return the convex hull of a mask's largest outline."""
    out = np.zeros_like(mask)
    cv2.fillConvexPoly(out, cv2.convexHull(_outline(mask)), 1)
    return out


def shape(mask: Mask) -> tuple[float, float]:
    """Return which shares of its smallest rectangle, and of its convex hull, a mask fills."""
    outline = _outline(mask)
    _, (width, height), _ = cv2.minAreaRect(outline)
    area = float(mask.sum())
    return area / ((width + 1) * (height + 1)), area / max(
        1.0, cv2.contourArea(cv2.convexHull(outline))
    )


def exposed_field(grey: Grey, within: Mask | None = None) -> Mask:
    """Find the exposed part of a radiograph by peeling margins of one grey level from its border.

    Args:
        grey: Array `(h, w)`, uint8: a small copy of the radiograph.
        within: Mask `(h, w)` of the part that may be exposed; by default all of it.

    Returns:
        Mask `(h, w)`; all ones if the radiograph has no margin.
    """
    field = np.ones_like(grey) if within is None else within
    for _ in range(_PEELINGS):
        ring = field & (1 - erode(field, 3))
        if ring.sum() < 20:
            break
        low, high = percentiles(grey, field, (2, 90))
        tolerance = max(1, round(_TOLERANCE * (high - low)))
        level, share = commonest(grey, ring, tolerance)
        if share < _RING_SHARE:
            break
        near = cv2.inRange(grey, level - 2 * tolerance - 1, level + 2 * tolerance + 1) // 255
        count, labels = cv2.connectedComponents(np.asarray(near & field), connectivity=4)
        margin = np.zeros(count, np.uint8)
        margin[labels[ring > 0]] = 1
        margin[0] = 0
        rest = filled(largest(np.asarray(field & (1 - margin[labels]), np.uint8)))
        rest = largest(np.asarray(cv2.morphologyEx(rest, cv2.MORPH_OPEN, disk(3)), np.uint8))
        if rest.mean() < _SMALLEST_FIELD or rest.sum() > 0.97 * field.sum():
            break
        if not _is_field(rest):
            break
        field = erode(hull(rest), 2)
    return np.asarray(field, np.uint8)


def trimmed(bright: Mask, field: Mask) -> Mask:
    """Cut off the field's sides the lines that are bright all over: frames, edges of plates."""
    rows, columns = np.flatnonzero(field.any(1)), np.flatnonzero(field.any(0))
    out = np.zeros_like(field)
    if not len(rows):
        return out
    top, bottom = _trim((bright & field).sum(1), field.sum(1), rows[0], rows[-1] + 1)
    left, right = _trim((bright & field).sum(0), field.sum(0), columns[0], columns[-1] + 1)
    out[top:bottom, left:right] = field[top:bottom, left:right]
    return out


def contact(mask: Mask, field: Mask) -> tuple[float, int]:
    """Return the share of the field's edge that a mask meets, and the number of long stretches."""
    total = max(1, int(_edge(field).sum()))
    lengths = [len(rows) / total for rows, _ in contact_stretches(mask, field)]
    return sum(lengths), sum(length > 0.06 for length in lengths)


def contact_stretches(
    mask: Mask, field: Mask, *, at_least: float = 0.0
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return rows and columns of each stretch of the field's edge in a mask, the longest first.

    Args:
        mask: Within the field.
        field: Its edge is two pixels wide.
        at_least: Shortest stretch, pixels.
    """
    touching = np.asarray(_edge(field) & mask, np.uint8)
    count, labels = cv2.connectedComponents(
        np.asarray(cv2.dilate(touching, disk(1)), np.uint8), connectivity=8
    )
    labels[touching == 0] = 0
    stretches = [np.nonzero(labels == part) for part in range(1, count)]
    long = [(rows, columns) for rows, columns in stretches if len(rows) >= 2 * at_least]
    return sorted(long, key=lambda stretch: -len(stretch[0]))


def _edge(field: Mask) -> Mask:
    return np.asarray(field & (1 - erode(field, 2)), np.uint8)


def above_background(grey: Grey, field: Mask) -> tuple[npt.NDArray[np.float32], float]:
    """Subtract the background: a quadratic surface through what is like the field's edge.

    Returns:
        Array `(h, w)`, float32, grey levels above the background. And the standard deviation of
        the background's noise, from the median absolute deviation.
    """
    height, width = grey.shape
    terms = _terms(height, width)
    # In 32 bits, the order of additions, which differs between processors, would move some crops.
    values = grey.astype(np.float64)
    ring = field & (1 - erode(field, 6))
    low, high = percentiles(grey, field, (5, 90))
    tolerance = max(1, round(_TOLERANCE * (high - low)))
    level, _ = commonest(grey, ring, tolerance)
    above = values - level
    most_noise = tolerance + 0.5
    noise = 1.0
    # A little stiffness keeps the surface flat in a corner that has few samples.
    stiffness = np.diag(np.array([0, 0, 0, 1, 1, 1]) * 7.5e-4)
    background = (ring > 0) & (np.abs(above) <= 2 * tolerance + 1)
    for _ in range(4):
        chosen = np.flatnonzero(background)
        if len(chosen) < 60:
            break
        chosen = chosen[:: len(chosen) // _SAMPLES + 1]
        sampled = terms[chosen]
        try:
            weights = np.linalg.solve(
                sampled.T @ sampled + len(chosen) * stiffness, sampled.T @ values.ravel()[chosen]
            )
        except np.linalg.LinAlgError:  # all samples are on a line
            break
        above = values - (terms @ weights).reshape(height, width)
        residual = above.ravel()[chosen]
        spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
        noise = min(max(_NOISE_AT_LEAST, spread), most_noise)
        background = (field > 0) & (np.abs(above) <= max(3 * noise, 1.0))
    return np.asarray(above, np.float32), noise


def commonest(grey: Grey, mask: Mask, tolerance: int) -> tuple[int, float]:
    """Return the grey level within whose `tolerance` most of a mask lies, and that share."""
    counts = np.zeros(256 + 2 * tolerance + 1, np.int64)
    counts[tolerance + 1 : tolerance + 257] = _histogram(grey, mask)
    up_to = counts.cumsum()
    near = up_to[2 * tolerance + 1 :] - up_to[:256]
    level = int(near.argmax())
    return level, float(near[level]) / max(1, int(up_to[-1]))


def percentiles(grey: Grey, mask: Mask, shares: Sequence[float]) -> list[float]:
    """Return the percentiles of the grey levels in a mask that is not empty, as numpy does."""
    up_to = np.cumsum(_histogram(grey, mask))
    found = []
    for share in shares:
        position = (int(up_to[-1]) - 1) * (share / 100)
        before = int(position)
        way = position - before
        low, high = (int(level) for level in up_to.searchsorted((before, before + 1), "right"))
        high = low if high > 255 else high
        found.append(high - (high - low) * (1 - way) if way >= 0.5 else low + (high - low) * way)
    return found


def _histogram(grey: Grey, mask: Mask) -> npt.NDArray[np.int64]:
    return np.asarray(cv2.calcHist([grey], [0], mask, [256], [0, 256]).ravel(), np.int64)


@functools.lru_cache(maxsize=16)
def _terms(height: int, width: int) -> npt.NDArray[np.float64]:
    """Return the terms of a quadratic surface: float64 (height * width, 6)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = (x / width - 0.5).ravel(), (y / height - 0.5).ravel()
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    terms.flags.writeable = False
    return np.asarray(terms)


def _is_field(mask: Mask) -> bool:
    rectangle, solid = shape(mask)
    return (
        rectangle > 0.86
        or (rectangle / solid > 0.88 and solid > 0.85)  # with a marker or a hand cut out of it
        or (solid > 0.95 and mask.mean() > 0.25)  # turned, and cut by the radiograph's border
    )


def _trim(
    bright: npt.NDArray[np.int64], total: npt.NDArray[np.int64], start: int, end: int
) -> tuple[int, int]:
    most = int(MOST_TRIMMED * (end - start))
    first, last = start, end
    while first < start + most and bright[first] > 0.8 * total[first]:
        first += 1
    while last > end - most and bright[last - 1] > 0.8 * total[last - 1]:
        last -= 1
    return first, last


def _outline(mask: Mask) -> npt.NDArray[np.int32]:
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(outlines, key=cv2.contourArea), np.int32)
