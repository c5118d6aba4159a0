"""A child's left hand seen from its back: the position and shape of every bone at one maturity.

The plane is in millimetres of an adult's hand. The origin lies in the capitate, x points to the
thumb (right, as on a left-hand radiograph), y to the fingertips. A child's hand is the same plane
with smaller bones in it. The `View` decides how large the hand is on the radiograph.

Adult lengths are rounded after Garn SM, Hertzog KP, Poznanski AK, Nagy JM. Metacarpophalangeal
length in the evaluation of skeletal malformation. Radiology 1972;105:375-381. Widths, cortices
and the carpal outlines were drawn by eye.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt

from boneage.datasets.phantom.ossification import EPIPHYSES, ROUND_BONES
from boneage.datasets.phantom.tissue import Array, Bone, Lump, Plate, Point, Tube

_RAYS = (1, 2, 3, 4, 5)
_ROWS = {1: ("metacarpal", "proximal", "distal")}
_LONG_ROWS = ("metacarpal", "proximal", "middle", "distal")

_LENGTHS = {  # millimetres, epiphyses and joint gaps included
    "metacarpal": {1: 47.0, 2: 69.0, 3: 66.0, 4: 59.0, 5: 54.0},
    "proximal": {1: 33.0, 2: 42.0, 3: 46.5, 4: 43.5, 5: 34.5},
    "middle": {2: 25.5, 3: 30.5, 4: 29.5, 5: 21.0},
    "distal": {1: 24.5, 2: 19.5, 3: 20.5, 4: 21.0, 5: 19.0},
}
_BASES = {1: (25.0, 5.0), 2: (12.5, 13.0), 3: (1.8, 12.5), 4: (-8.2, 12.0), 5: (-17.0, 10.0)}
_SLENDERNESS = {1: 1.14, 2: 1.0, 3: 1.03, 4: 0.94, 5: 0.86}

_HALF_WIDTHS = {  # proximal to distal, adult, millimetres
    "metacarpal": (6.6, 5.6, 4.3, 3.7, 3.6, 4.1, 5.8, 7.6),
    "thumb": (7.8, 6.4, 4.9, 4.3, 4.2, 4.7, 6.0, 6.8),
    "proximal": (7.8, 6.1, 4.8, 4.2, 4.0, 4.2, 5.2, 5.8),
    "middle": (6.9, 5.3, 4.1, 3.5, 3.4, 3.7, 4.7, 5.2),
    "distal": (6.0, 4.7, 3.5, 2.8, 2.6, 2.9, 3.7, 4.0),
    "radius": (*(6.8,) * 9, 6.9, 7.4, 9.6, 15.2),
    "ulna": (*(5.8,) * 6, 5.6, 5.4, 5.0, 4.7, 4.6, 5.2, 7.4),
}
_CARTILAGE = {"metacarpal": 0.165, "proximal": 0.15, "middle": 0.18, "distal": 0.22}
_FOREARM_LENGTH = 205.0  # reaches beyond the edge of every radiograph
_WRIST: Point = (-2.0, -23.0)

_CARPAL_OUTLINES: dict[str, tuple[Point, tuple[Point, ...]]] = {  # centre; corners around it
    "capitate": ((0, -0.5), ((6, 11.5), (-6, 11), (-6.5, 5), (-5, -3), (-5, -8), (-3, -12),
                             (2.5, -12.5), (5.5, -9), (4.5, -2), (6.5, 5))),
    "hamate": ((-13, 1.5), ((5.6, 9.5), (-7.5, 9), (-8.5, 4), (-5.5, -2), (0, -8), (4.5, -11),
                            (6, -4), (6.5, 4))),
    "triquetral": ((-18.5, -10), ((3, 5), (-5, 5.5), (-6.8, 0), (-1, -6.5), (5, -6.5), (7, -1))),
    "pisiform": ((-20.5, -10.5), ((4.6, 0), (3.2, 4.6), (-3, 4.8), (-4.6, 0), (-3, -5), (3, -5))),
    "lunate": ((-6, -18), ((4, 4.5), (-3, 5.2), (-8, 2), (-7, -4.5), (-1, -7), (6.5, -5.2),
                           (8.2, 0))),
    "scaphoid": ((10, -12), ((8, 10.5), (3.5, 10.5), (0, 6), (-6, 3), (-5, -5), (0, -8.5),
                             (6, -5.5), (9, 4))),
    "trapezium": ((18, 2), ((5, 7.5), (-2, 8), (-6.5, 4), (-6, -2.5), (-2, -7), (5, -5.5),
                            (8, 1))),
    "trapezoid": ((9.5, 5.5), ((2, 7.5), (-4, 5.5), (-5, -2), (-1, -5.5), (4.5, -3.5), (6, 4))),
    "sesamoid": ((0, 0), ((2.6, 0), (1.6, 2.8), (-1.6, 2.8), (-2.6, 0), (-1.6, -2.8),
                          (1.6, -2.8))),
}  # fmt: skip

_OUTLINE_STEPS = 96

# Months on the boys' clock, and the hand's length as a share of the adult's. Rounded from the
# growth of the metacarpals in Garn et al. 1972.
_GROWTH_MONTHS = (0.0, 12.0, 24.0, 48.0, 84.0, 120.0, 150.0, 174.0, 204.0, 240.0)
_GROWTH_SHARE = (0.34, 0.42, 0.48, 0.57, 0.68, 0.78, 0.87, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Pose:
    """How the hand lies.

    Attributes:
        splay: Spread of the fingers, 0 relaxed, 1 wide, negative closed.
        thumb: Angle of the thumb away from the middle finger, radians.
        bends: Extra angle of each ray's finger, radians, rays 1 to 5.
        wrist: Angle between forearm and hand, radians.
    """

    splay: float
    thumb: float
    bends: tuple[float, ...]
    wrist: float


@dataclass(frozen=True, slots=True)
class Hand:
    """The shapes to draw: bones and the outlines of the flesh, in one plane."""

    bones: list[Bone]
    outlines: list[npt.NDArray[np.float64]]


def hand_length_share(maturity: float) -> float:
    """Return the hand's length as a share of the adult's, at a maturity on the boys' clock."""
    return float(np.interp(maturity, _GROWTH_MONTHS, _GROWTH_SHARE))


@dataclass(frozen=True, slots=True)
class Build:
    """One child: the maturity of each centre, and the proportions.

    Attributes:
        maturity: Maturity of the bones as a whole, months on the boys' clock.
        centres: Maturity of each centre by name; it scatters a little around `maturity`.
        stoutness: Factor of the widths of all bones.
        mineral: Factor of cortex and density.
        lengths: Factor of the length of each ray, rays 1 to 5.
        flesh: Factor of the thickness of the flesh around the bones.
    """

    maturity: float
    centres: Mapping[str, float]
    stoutness: float
    mineral: float
    lengths: tuple[float, ...]
    flesh: float

    @property
    def cortex(self) -> float:
        """Cortex at mid-shaft of a metacarpal, millimetres of the adult plane."""
        months = (0, 60, 130, 180, 250)
        return self.mineral * float(np.interp(self.maturity, months, (1.1, 1.25, 1.45, 1.7, 1.9)))

    @property
    def density(self) -> float:
        """Mineral density of the bones, 1 in adults."""
        months = (0, 60, 150, 200, 250)
        return self.mineral * float(np.interp(self.maturity, months, (0.8, 0.86, 0.92, 0.97, 1.0)))

    def waist(self, half_widths: tuple[float, ...]) -> Array:
        """Return half-widths of a shaft at this age: an infant's bones have less waist."""
        widths = np.asarray(half_widths, np.float32)
        infancy = float(np.interp(self.maturity, (0, 150), (1, 0)))
        mean = float(widths.mean())
        return cast(Array, (widths + 0.35 * infancy * (mean - widths)) * self.stoutness)


@cache
def _outline(name: str) -> Array:
    """Return the smoothed radii of a carpal's adult outline, float32 (96,), counterclockwise."""
    corners = np.asarray(_CARPAL_OUTLINES[name][1], np.float64)
    closed = np.vstack([corners, corners[:1]])
    steps = np.linspace(0, len(corners), 40 * len(corners), endpoint=False)
    x = np.interp(steps, np.arange(len(closed)), closed[:, 0])
    y = np.interp(steps, np.arange(len(closed)), closed[:, 1])
    turn = np.arctan2(y, x) * (_OUTLINE_STEPS / (2 * np.pi))
    order = np.argsort(turn)
    radii = np.interp(
        np.arange(_OUTLINE_STEPS), turn[order], np.hypot(x, y)[order], period=_OUTLINE_STEPS
    )
    kernel = np.hanning(13)
    wrapped = np.concatenate([radii[-6:], radii, radii[:6]])
    return np.convolve(wrapped, kernel / kernel.sum(), mode="valid").astype(np.float32)


def _step(start: Point, angle: float, along: float, across: float = 0.0) -> Point:
    sin, cos = float(np.sin(angle)), float(np.cos(angle))
    return (start[0] + along * sin + across * cos, start[1] + along * cos - across * sin)


def _lump(name: str, centre: Point, angle: float, build: Build) -> list[Bone]:
    growth = ROUND_BONES[name].growth(build.centres[name])
    if not growth:
        return []
    adult = _outline(name)
    # A young centre is a round dot; its corners come with its size.
    radii = 1.13 * growth * (adult.mean() + min(growth * 1.15, 1.0) * (adult - adult.mean()))
    density = 1.15 * (0.6 + 0.4 * build.density * growth)
    return [Lump(centre, angle, radii.astype(np.float32), density)]


def _long_bone(
    name: str, kind: str, start: Point, angle: float, length: float, width: float, build: Build,
    *, growing_end: str, slant: float = 0.0,
) -> list[Bone]:  # fmt: skip
    """Return a shaft, its epiphysis if visible and its scar if fused."""
    epiphysis, clock = EPIPHYSES[name], build.centres[name]
    row = name.split("-")[0]
    youth = float(np.interp(clock, (0, 165), (1, 0)))
    adult_zone = _CARTILAGE.get(row, 0.0) * length if row in _CARTILAGE else width * 0.72
    zone = adult_zone * (1.0 + 0.62 * youth)
    thickness = 0.84 * adult_zone * epiphysis.thickness(clock)
    plate = epiphysis.plate(clock) * max(0.55 * (zone - thickness), 0.15 * adult_zone)
    if not thickness:
        plate = 0.5 * zone
    other = length * (0.015 + 0.06 * youth)  # cartilage of the end without an epiphysis
    square = 0.6 if row == "metacarpal" else 0.8  # a round head, a flat base
    depth = 0.62 if row == "radius" else 1.0  # the radius is broad, but flat
    sign = 1.0 if growing_end == "distal" else -1.0
    shaft_end = length - zone if growing_end == "distal" else zone  # where the plate begins
    widths = build.waist(_HALF_WIDTHS[kind]) * np.float32(width / max(_HALF_WIDTHS[kind]))
    growing = float(widths[-1] if growing_end == "distal" else widths[0])
    open_ = 1.0 - epiphysis.bridged(clock)
    rounding = (0.9 * growing * (0.25 + 0.35 * youth), 0.6 * width)
    dense = (0.9 * open_, 0.0)
    if growing_end == "distal":
        shaft = (other, shaft_end)
        rounding, dense = rounding[::-1], dense[::-1]
    else:
        shaft = (shaft_end, length - other)
    bones: list[Bone] = [
        Tube(
            _step(start, angle, shaft[0]), angle, shaft[1] - shaft[0], widths, rounding,
            build.cortex * width / 7.0, dense, build.density * depth,
        )
    ]  # fmt: skip
    if thickness:
        share = epiphysis.width(clock)
        overlap = 0.2 * thickness * epiphysis.bridged(clock)
        middle = shaft_end + sign * (plate + 0.5 * thickness - overlap)
        bend = -sign * 0.16 * adult_zone * epiphysis.capping(clock) * open_
        bones.append(
            Plate(
                _step(start, angle, middle), angle, growing * share, thickness, bend, square, slant,
                sign * epiphysis.bridged(clock),
                0.66 * (0.75 + 0.25 * share) * depth * build.density,
            )
        )  # fmt: skip
    if scar := epiphysis.scar(clock):
        at = _step(start, angle, shaft_end)
        bones.append(Plate(at, angle, 0.86 * growing, 1.6, density=0.8 * scar * depth))
    return bones


def _ray(ray: int, build: Build, pose: Pose) -> tuple[list[Bone], list[tuple[Point, float]]]:
    """Return the bones of a ray, and the points of its axis with half the flesh's width."""
    bones: list[Bone] = []
    rows = _ROWS.get(ray, _LONG_ROWS)
    metacarpal = {1: pose.thumb, 2: 0.16, 3: 0.02, 4: -0.13, 5: -0.29}[ray]
    finger = {
        1: pose.thumb - 0.12,
        2: 0.11 + 0.13 * pose.splay,
        3: 0.01,
        4: -0.09 - 0.10 * pose.splay,
        5: -0.2 - 0.21 * pose.splay,
    }[ray] + pose.bends[ray - 1]
    at, angle = _BASES[ray], metacarpal + 0.12 * pose.splay * (finger - metacarpal)
    plump = build.flesh * float(np.interp(build.maturity, (0, 150), (1.22, 1.0)))
    axis = [(at, 11.0 * plump)]
    for row in rows:
        length = _LENGTHS[row][ray] * build.lengths[ray - 1]
        kind = "thumb" if row == "metacarpal" and ray == 1 else row
        width = max(_HALF_WIDTHS[kind]) * _SLENDERNESS[ray]
        if kind == "thumb":
            width = _HALF_WIDTHS[kind][0]
        distal = row == "metacarpal" and ray != 1
        bones += _long_bone(
            f"{row}-{ray}", kind, at, angle, length, width, build,
            growing_end="distal" if distal else "proximal",
        )  # fmt: skip
        if kind == "thumb":
            centre = _step(at, angle, 0.93 * length, -8.5)
            bones += _lump("sesamoid", centre, angle, build)
        at = _step(at, angle, length)
        flesh = {"metacarpal": 10.2, "proximal": 9.0, "middle": 7.8, "distal": 6.2}[row]
        axis.append((at, flesh * plump * (1.08 if ray == 1 else _SLENDERNESS[ray] ** 0.5)))
        angle = finger + (angle - finger) * 0.15 if row == "metacarpal" else angle
        angle += 0.35 * pose.bends[ray - 1] if row != "metacarpal" else 0.0
    return bones, axis


def _forearm(build: Build, pose: Pose) -> tuple[list[Bone], npt.NDArray[np.float64]]:
    """Return radius and ulna with their epiphyses, and the outline of the forearm's flesh."""
    wrist = _WRIST
    bones: list[Bone] = []
    for name, across, along, tilt, width in (
        ("radius", 8.5, 0.0, 0.03, 15.0),
        ("ulna", -16.5, -3.5, -0.03, 7.2),
    ):
        angle = pose.wrist + tilt
        end = _step(wrist, pose.wrist, along, across)
        start = _step(end, angle, -_FOREARM_LENGTH)
        bones += _long_bone(
            name, name, start, angle, _FOREARM_LENGTH, width * build.stoutness, build,
            growing_end="distal", slant=0.22 if name == "radius" else -0.2,
        )  # fmt: skip
    plump = build.flesh * float(np.interp(build.maturity, (0, 150), (1.14, 1.0)))
    sides = [(12.0, 27.0), (0.0, 28.5), (-25.0, 29.0), (-60.0, 33.0), (-240.0, 42.0)]
    left = [_step(wrist, pose.wrist, along, -half * plump) for along, half in sides]
    right = [_step(wrist, pose.wrist, along, half * plump) for along, half in sides]
    return bones, np.asarray([*left, *right[::-1]])


def _strip(axis: list[tuple[Point, float]]) -> npt.NDArray[np.float64]:
    """Return the outline of a finger: the flesh on both sides of its axis, and a round tip."""
    points = np.asarray([point for point, _ in axis])
    halves = np.asarray([half for _, half in axis])
    steps = np.diff(points, axis=0)
    steps /= np.hypot(steps[:, 0], steps[:, 1])[:, None]
    along = np.vstack([steps[:1], 0.5 * (steps[1:] + steps[:-1]), steps[-1:]])
    across = np.column_stack([along[:, 1], -along[:, 0]])
    turns = np.linspace(0, np.pi, 13)
    tip = (
        points[-1]
        + np.cos(turns)[:, None] * across[-1] * halves[-1]
        + np.sin(turns)[:, None] * along[-1] * (halves[-1] * 0.95)
    )
    right = points[:-1] + across[:-1] * halves[:-1, None]
    left = points[:-1] - across[:-1] * halves[:-1, None]
    return np.vstack([right, tip, left[::-1]])


def build_hand(build: Build, pose: Pose) -> Hand:
    """Return every bone that is visible at the child's maturity, and the flesh around them."""
    bones, forearm = _forearm(build, pose)
    outlines = [forearm]
    axes = {}
    for ray in _RAYS:
        ray_bones, axes[ray] = _ray(ray, build, pose)
        bones += ray_bones
        outlines.append(_strip(axes[ray]))
    for name, (centre, _) in _CARPAL_OUTLINES.items():
        if name != "sesamoid":
            bones += _lump(name, centre, 0.0, build)
    heads = {ray: axes[ray][1][0] for ray in _RAYS}
    plump = build.flesh
    foot = [_step(_WRIST, pose.wrist, 0, side * 28 * plump) for side in (-1, 1)]
    palm = [
        foot[0], (-31 * plump, 4), _step(heads[5], -0.25, 4, -9 * plump),
        _step(heads[4], -0.1, 16), _step(heads[3], 0, 17), _step(heads[2], 0.15, 4, 9 * plump),
        _step(heads[2], 0.15, -22, 12), _step(heads[1], pose.thumb, -6, -10), heads[1],
        (33 * plump, 3), foot[1],
    ]  # fmt: skip
    outlines.append(np.asarray(palm))
    return Hand(bones, outlines)
