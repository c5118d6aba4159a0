"""Shapes of bone and flesh, and the thickness that X-rays cross in them.

This module knows nothing about children. A `Tube`, a `Plate` or a `Lump` lies in the plane of the
radiograph, in millimetres of an adult's hand, and adds its thickness to what the beam crosses.
Overlapping bones add up, as on a radiograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Point = tuple[float, float]

_WIDTH_STEPS = 256
_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class View:
    """Where the plane of the hand lies on the radiograph.

    Attributes:
        size: Side of the square image, pixels.
        scale: Pixels to a millimetre of the plane.
        angle: Rotation of the hand, radians, clockwise as seen.
        centre: The point of the plane, millimetres, that lies at `position`.
        position: Column and row, pixels.
    """

    size: int
    scale: float
    angle: float
    centre: Point
    position: Point

    def pixels(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert points of the plane (n, 2), millimetres, y up, to columns and rows (n, 2)."""
        offset = np.atleast_2d(np.asarray(points, np.float64)) - self.centre
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        column = offset[:, 0] * cos + offset[:, 1] * sin
        row = offset[:, 0] * sin - offset[:, 1] * cos
        return np.column_stack([column, row]) * self.scale + self.position


@dataclass(frozen=True, slots=True)
class Tube:
    """A tubular bone without its epiphysis: a bright cortex around a darker marrow.

    Attributes:
        start: Middle of the proximal end, millimetres.
        angle: Direction of the bone, radians, 0 upwards, positive to the right.
        length: Millimetres.
        half_widths: Half the width at evenly spaced stations from start to end, millimetres.
        rounding: Length over which the start and the end are rounded, millimetres.
        cortex: Thickness of the cortex at mid-shaft, millimetres.
        dense_ends: Brightness of the line of fresh calcification at start and end, 0 to 1.
        density: Factor of the absorption; 1 is an adult bone.
    """

    start: Point
    angle: float
    length: float
    half_widths: Array
    rounding: tuple[float, float]
    cortex: float
    dense_ends: tuple[float, float] = (0.0, 0.0)
    density: float = 1.0

    def draw(self, radiograph: Array, view: View) -> None:
        """Add the bone's absorption to `radiograph` (size, size) in place."""
        grid = _local(radiograph, view, self.start, self.angle, (0.0, self.length), self._reach())
        if grid is None:
            return
        window, across, along = grid
        table = self._widths()
        station = (along * ((_WIDTH_STEPS - 1) / self.length)).astype(np.int32)
        width = table.take(station, mode="clip")
        squared = across * across
        middle = 2.0 * along / self.length - 1.0
        cortex = self.cortex * np.maximum(1.0 - 0.80 * np.abs(middle * middle * middle), 0.25)
        inner = np.maximum(width - cortex, 0.0)
        outside = np.sqrt(np.maximum(width * width - squared, 0.0))
        inside = np.sqrt(np.maximum(inner * inner - squared, 0.0))
        # Spongy bone is dense towards the ends, where the cortex is thin, and sparse at mid-shaft.
        sponge = 0.08 + 0.42 * np.square(middle * middle)
        path = outside - inside * (1.0 - sponge)
        for distance, dense in zip((along, self.length - along), self.dense_ends, strict=True):
            if dense:
                path = path + (0.42 * dense) * outside * np.exp(-np.square(distance / 1.1))
        ends = np.minimum(along, self.length - along) * view.scale + 0.5
        path *= np.clip(ends, 0.0, 1.0)
        radiograph[window] += (2.0 * self.density) * path

    def _reach(self) -> float:
        return float(self.half_widths.max())

    def _widths(self) -> Array:
        stations = np.linspace(0.0, 1.0, _WIDTH_STEPS, dtype=np.float32)
        knots = np.linspace(0.0, 1.0, len(self.half_widths))
        table = np.interp(stations, knots, self.half_widths)
        # Straight lines between knots would show as kinks in the outline: smooth them.
        reach = round(0.6 * _WIDTH_STEPS / (len(knots) - 1))
        kernel = np.hanning(2 * reach + 1)
        padded = np.pad(table, reach, mode="edge")
        table = np.convolve(padded, kernel / kernel.sum(), mode="valid")
        for distance, radius in zip(
            (stations * self.length, (1.0 - stations) * self.length), self.rounding, strict=True
        ):
            short = np.clip(1.0 - distance / max(radius, 1e-3), 0.0, 1.0)
            table = table * np.sqrt(1.0 - short**3)
        return table.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Plate:
    """An epiphysis, or the scar of a growth plate: a disc seen from its edge.

    Attributes:
        centre: Millimetres.
        angle: Direction of the bone it belongs to, radians, 0 upwards, positive to the right.
        half_width: Half the extent across the bone, millimetres.
        thickness: Extent along the bone, millimetres.
        bend: How far the edges bend along the bone, millimetres, positive towards the bone's end.
        square: 1 for an oblong with rounded corners, 0 for an ellipse.
        slant: Extra thickness at the right-hand edge, as a share; negative at the left-hand edge.
        sealed: How far the shell towards the bone's start has disappeared, 0 to 1; negative for
            the shell towards its end. A fused epiphysis has no shell against its shaft.
        density: Factor of the absorption; 1 is an adult bone.
    """

    centre: Point
    angle: float
    half_width: float
    thickness: float
    bend: float = 0.0
    square: float = 0.9
    slant: float = 0.0
    sealed: float = 0.0
    density: float = 1.0

    def draw(self, radiograph: Array, view: View) -> None:
        """Add the disc's absorption to `radiograph` (size, size) in place."""
        half = 0.5 * self.thickness * (1.0 + abs(self.slant)) + abs(self.bend)
        grid = _local(radiograph, view, self.centre, self.angle, (-half, half), self.half_width)
        if grid is None:
            return
        window, across, along = grid
        u = across / self.half_width
        squared = u * u
        v = (along - self.bend * squared) / (0.5 * self.thickness)
        if self.slant:
            v = v / np.maximum(1.0 + self.slant * u, 0.3)
        v *= v
        oblong = np.sqrt(np.sqrt(squared * squared + v * v))
        radius = np.sqrt(squared + v) * (1.0 - self.square) + oblong * self.square
        distance = np.hypot(across, along) * (1.0 / np.maximum(radius, 0.05) - 1.0)
        cover = np.clip(distance * view.scale + 0.5, 0.0, 1.0)
        rim = np.exp(-np.square(np.maximum(distance, 0.0) / 1.0))
        if self.sealed:
            side = np.clip(0.6 - np.sign(self.sealed) * 2.0 * along / self.thickness, 0.0, 1.0)
            rim *= 1.0 - abs(self.sealed) * side
        depth = min(self.half_width + 0.7, 1.5 + 1.2 * self.thickness)
        radiograph[window] += (self.density * depth) * cover * (0.70 + 0.5 * rim)


@dataclass(frozen=True, slots=True)
class Lump:
    """A carpal bone or a sesamoid: a lump with a thin bright shell.

    Attributes:
        centre: Millimetres.
        angle: Rotation, radians, clockwise as seen.
        radii: Distance of the outline from the centre at evenly spaced angles, millimetres,
            counterclockwise from the right-hand side.
        density: Factor of the absorption; 1 is an adult bone.
    """

    centre: Point
    angle: float
    radii: Array
    density: float = 1.0

    def draw(self, radiograph: Array, view: View) -> None:
        """Add the lump's absorption to `radiograph` (size, size) in place."""
        reach = float(self.radii.max())
        grid = _local(radiograph, view, self.centre, self.angle, (-reach, reach), reach)
        if grid is None:
            return
        window, across, along = grid
        radius = np.hypot(across, along)
        turn = np.arctan2(along, across) * (len(self.radii) / (2.0 * np.pi))
        outline = self.radii.take(np.rint(turn).astype(np.int32), mode="wrap")
        distance = outline - radius
        cover = np.clip(distance * view.scale + 0.5, 0.0, 1.0)
        rim = np.exp(-np.square(np.maximum(distance, 0.0) / 0.9))
        bulge = np.sqrt(np.clip(1.0 - np.square(radius / np.maximum(outline, 1e-3)), 0.0, 1.0))
        depth = min(float(self.radii.mean()), 6.5)
        radiograph[window] += (self.density * depth) * cover * (0.40 + 0.30 * bulge + 0.45 * rim)


Bone = Tube | Plate | Lump


def _local(
    radiograph: Array, view: View, origin: Point, angle: float, along: Point, reach: float
) -> tuple[tuple[slice, slice], Array, Array] | None:
    """Return the window that a shape can touch, and its pixels in the shape's own coordinates.

    Returns:
        The window, and millimetres across and along the shape (both float32, the window's
        shape); None where the shape lies outside the radiograph.
    """
    up = (np.sin(angle), np.cos(angle))
    right = (up[1], -up[0])
    margin = 1.5 / view.scale
    corners = [
        (origin[0] + a * up[0] + c * right[0], origin[1] + a * up[1] + c * right[1])
        for a in (along[0] - margin, along[1] + margin)
        for c in (-reach - margin, reach + margin)
    ]
    pixels = view.pixels(corners)
    low = np.maximum(np.floor(pixels.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(pixels.max(axis=0)) + 1, view.size).astype(int)
    if (high <= low).any():
        return None
    start = view.pixels([origin])[0]
    columns = ((np.arange(low[0], high[0]) - start[0]) / view.scale).astype(np.float32)
    rows = ((np.arange(low[1], high[1]) - start[1]) / view.scale).astype(np.float32)[:, None]
    turned = angle + view.angle
    cos, sin = np.float32(np.cos(turned)), np.float32(np.sin(turned))
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    return window, columns * cos + rows * sin, columns * sin - rows * cos


def draw_bones(bones: Sequence[Bone], view: View) -> Array:
    """Return what the beam crosses in bone, float32 (size, size), about mm of hard bone."""
    radiograph = np.zeros((view.size, view.size), np.float32)
    for bone in bones:
        bone.draw(radiograph, view)
    return radiograph


def draw_flesh(outlines: Sequence[npt.NDArray[np.float64]], view: View) -> Array:
    """Return what the beam crosses in soft tissue.

    Args:
        outlines: Polygons (n, 2) in millimetres whose union is the silhouette.
        view: Position of the plane on the radiograph.

    Returns:
        Thickness, float32 (size, size), millimetres: round over the fingers, thicker over palm
        and forearm.
    """
    mask = np.zeros((view.size, view.size), np.uint8)
    for outline in outlines:
        fixed = np.rint(view.pixels(outline) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    # Blurring, then a threshold at a half: the joints of the union become smooth curves.
    soft = cv2.GaussianBlur(mask.astype(np.float32) / 255.0, (0, 0), 2.2 * view.scale)
    edge = np.clip((soft - 0.5) * (4.0 * view.scale) + 0.5, 0.0, 1.0)
    depth = cv2.distanceTransform((edge > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / view.scale
    finger = np.sqrt(np.clip(1.0 - np.square(1.0 - np.minimum(depth, 8.0) / 8.0), 0.0, 1.0))
    thickness = 14.0 * finger + 0.8 * np.minimum(depth, 26.0)
    smooth = cv2.GaussianBlur(thickness, (0, 0), max(0.9 * view.scale, 0.6))
    return np.asarray(smooth * edge, np.float32)
