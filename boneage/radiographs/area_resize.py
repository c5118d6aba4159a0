"""Shrinking a radiograph by area to the very pixels that OpenCV gives, in a quarter of its time.

`cv2.resize(..., interpolation=cv2.INTER_AREA)` adds up float32 products pixel by pixel, which costs
more than a nanosecond for each pixel of the radiograph. Here the sums are read off one integral
image, exactly; where OpenCV's rounding errors might carry a value over to the next level, and only
there, its own sums are done again in its own order (`resizeArea_` and `computeResizeAreaTab` in
OpenCV 4.14's `modules/imgproc/src/resize.cpp`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_LARGEST = (2**31 - 1) // 255  # pixels whose grey levels are sure to add up to an int32
_SMALLEST = (
    2**18
)  # pixels: OpenCV itself takes a fraction of a millisecond for a smaller radiograph
_WORTHWHILE = (
    6  # pixels of the radiograph to one of the copy; with fewer there is nothing to be gained
)
_SLIVER = 1e-3  # of a pixel: OpenCV leaves out what is narrower
_UNIT = 2.0**-24  # half a unit in the last place of a float32, relative


class _Axis(NamedTuple):
    """How OpenCV weighs the pixels of one side of a radiograph.

    Attributes:
        scale: Pixels of the radiograph to one of the copy.
        start: For each pixel of the copy the first one of the radiograph that has a weight.
        weights: float32 (pixels of the copy, taps): of that one and those after it, zeros last.
        edges: float64 (pixels of the copy + 1,): where the pixels of the copy begin and end.
        odd: bool, for each pixel of the copy whether a sliver may have been left out.
    """

    scale: float
    start: Indices
    weights: npt.NDArray[np.float32]
    edges: Floats
    odd: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Areas:
    """The means of areas of one radiograph.

    Attributes:
        radiograph: Array `(h, w)`, uint8.
        sums: Its integral image: array `(h + 1, w + 1)`, int32.
    """

    radiograph: Grey
    sums: npt.NDArray[np.int32]

    def serve(self, part: tuple[int, int], copy: tuple[int, int]) -> bool:
        """Whether a part of the radiograph is to be shrunk to a copy, each `(h, w)`, with them.

        Not where OpenCV is as fast, nor where it rounds otherwise: when each pixel of the copy is
        a whole number of the part's, both ways.
        """
        whole = part[0] % copy[0] == 0 and part[1] % copy[1] == 0
        shrunk = part[0] >= copy[0] and part[1] >= copy[1]
        return shrunk and not whole and part[0] * part[1] >= _WORTHWHILE * copy[0] * copy[1]


def add_up(radiograph: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Areas | None:
    """Adds up a radiograph; None for one of 16 bits, and where it would not pay or not fit."""
    if radiograph.dtype != np.uint8 or not _SMALLEST <= radiograph.size <= _LARGEST:
        return None
    return Areas(
        np.asarray(radiograph, np.uint8),
        np.asarray(cv2.integral(radiograph, sdepth=cv2.CV_32S), np.int32),
    )


class Shrunk:
    """A part of a radiograph shrunk by area, each mean with the bounds of what OpenCV makes of it.

    Attributes:
        means: Array `(h, w)`, float64, grey levels.
        error: Array `(h, w)`, float64: how far OpenCV's float32 may be from them; infinite where
            that is not known.
    """

    def __init__(
        self, areas: Areas, size: tuple[int, int], box: tuple[int, int, int, int] | None = None
    ) -> None:
        """Shrinks the part in the box (left, top, right, bottom) to a size (width, height)."""
        height, width = areas.radiograph.shape
        left, top, right, bottom = box or (0, 0, width, height)
        self._part = areas.radiograph[top:bottom, left:right]
        self._x, self._y = _axis(right - left, size[0]), _axis(bottom - top, size[1])
        rows, down = _split(self._y.edges, top, height)
        columns, across = _split(self._x.edges, left, width)
        corners = areas.sums[rows][:, columns].astype(np.float64)
        above, below = corners[: len(down)], corners[len(down) :]
        corners = above + down[:, None] * (below - above)
        before, after = corners[:, : len(across)], corners[:, len(across) :]
        whole = np.diff(np.diff(before + across * (after - before), axis=0), axis=1)
        self.means: Floats = whole * (1 / (self._x.scale * self._y.scale))
        taps = self._x.weights.shape[1] + self._y.weights.shape[1]
        # One rounding a weight, a product and an addition, and some for this class's own.
        self.error: Floats = self.means * ((taps + 6) * _UNIT) + 1e-7
        self.error[self._y.odd] = np.inf
        self.error[:, self._x.odd] = np.inf

    def as_opencv(self, rows: Indices, columns: Indices) -> npt.NDArray[np.float32]:
        """What OpenCV has for some pixels of the copy before it rounds them: float32 (n,)."""
        down, across = self._y.weights[rows], self._x.weights[columns]
        height, width = self._part.shape
        y = np.minimum(self._y.start[rows, None] + np.arange(down.shape[1]), height - 1)
        x = np.minimum(self._x.start[columns, None] + np.arange(across.shape[1]), width - 1)
        pixels = self._part[y[:, :, None], x[:, None, :]].astype(np.float32)
        lines = np.zeros(y.shape, np.float32)
        for tap in range(across.shape[1]):
            lines += pixels[:, :, tap] * across[:, tap, None]
        total = np.zeros(len(rows), np.float32)
        for tap in range(down.shape[1]):
            total += lines[:, tap] * down[:, tap]
        return total


def shrink(areas: Areas, size: tuple[int, int]) -> Grey:
    """The radiograph shrunk by area to a size (width, height), as `cv2.resize` does it.

    Args:
        areas: The radiograph's.
        size: One that they serve.

    Returns:
        Array `(height, width)`, uint8.
    """
    shrunk = Shrunk(areas, size)
    lowest = np.rint(shrunk.means - shrunk.error)
    rows, columns = np.nonzero(lowest != np.rint(shrunk.means + shrunk.error))
    lowest[rows, columns] = np.rint(shrunk.as_opencv(rows, columns))
    return lowest.astype(np.uint8)


def _axis(pixels: int, shrunk: int) -> _Axis:
    scale = 1 / (shrunk / pixels)  # as OpenCV has it, to the last bit
    begin = np.arange(shrunk) * scale
    end = begin + scale
    cell = np.minimum(scale, pixels - begin)
    first = np.ceil(begin).astype(np.int64)
    last = np.minimum(np.floor(end).astype(np.int64), pixels - 1)
    first = np.minimum(first, last)
    before, after = first - begin, end - last
    has_before = before > _SLIVER
    start = first - has_before
    tap = np.arange(int(np.ceil(scale)) + 2) + start[:, None]
    weights = np.where((tap >= first[:, None]) & (tap < last[:, None]), 1 / cell[:, None], 0.0)
    weights[has_before, 0] = (before / cell)[has_before]
    rest = np.flatnonzero(after > _SLIVER)
    part = np.minimum(np.minimum(after, 1.0), cell) / cell
    weights[rest, (last - start)[rest]] = part[rest]
    edges = np.append(begin, float(pixels))
    sliver = np.abs(edges - np.rint(edges))
    odd = (sliver > 1e-9) & (sliver < 2 * _SLIVER)
    return _Axis(scale, start, weights.astype(np.float32), edges, odd[:-1] | odd[1:])


def _split(edges: Floats, offset: int, most: int) -> tuple[Indices, Floats]:
    """The lines of an integral image before all edges and after all, and the way between them."""
    whole = np.floor(edges)
    before = whole.astype(np.int64) + offset
    return np.concatenate([before, np.minimum(before + 1, most)]), edges - whole
