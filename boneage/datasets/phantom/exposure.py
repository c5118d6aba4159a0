"""How a phantom is exposed: collimator, side marker, tone, noise and blur."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

_SPARE_LETTERS = "ABCDEHJKLMNPRST"
_FLESH_PER_MM = 0.017
_BONE_PER_MM = 0.092
_MARKER_PATCH = (54, 40)  # rows, columns


@dataclass(frozen=True, slots=True)
class Exposure:
    """The random values of one exposure; each field is drawn independently of the others.

    Attributes:
        gain: Factor of the absorption before the curve (tube voltage, detector speed).
        black: Grey of the exposed background, 0 to 1.
        span: Grey between background and the densest bone, 0 to 1.
        tilt: Change of grey over the radiograph, to the right and downwards (heel effect).
        noise: Standard deviation of the quantum noise, grey levels of 255.
        softness: Blur of focus and screen, as a share of the side. It varies as widely as
            between film, CR and DR: shapes must show the age, not sharpness.
        field: Width and height of the collimated field as shares of the side.
        field_shift: Shift of the field, as shares of the free margin, -1 to 1.
        field_angle: Rotation of the field, degrees.
        margin: Grey outside the field, 0 (shutter) to 1 (unexposed radiograph).
        marker_corner: Choice among the free positions of the marker, 0 to 1.
        marker_angle: Rotation of the marker, degrees.
        marker_size: Height of the marker as a share of the side.
        letters: The technician's initials, or empty.
    """

    gain: float
    black: float
    span: float
    tilt: tuple[float, float]
    noise: float
    softness: float
    field: tuple[float, float]
    field_shift: tuple[float, float]
    field_angle: float
    margin: float
    marker_corner: float
    marker_angle: float
    marker_size: float
    letters: str


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Draw the values of one exposure, always with the same number of random numbers."""
    u = rng.random(24)
    flat, bright = u[0] < 0.10, u[1] < 0.13
    shutter = u[2] < 0.8
    letters = "".join(_SPARE_LETTERS[int(x * len(_SPARE_LETTERS))] for x in u[20:23])
    return Exposure(
        gain=float(0.95 * 1.4 ** u[3]),
        black=float(0.26 + 0.22 * u[4] if bright else 0.02 + 0.09 * u[4]),
        span=float((0.22 + 0.2 * u[5]) if flat else (0.62 + 0.3 * u[5]) * (0.72 if bright else 1)),
        tilt=(float(0.10 * (u[6] - 0.5)), float(0.12 * (u[7] - 0.5))),
        noise=float(0.6 + 2.2 * u[8] ** 2),
        softness=float(0.0012 + 0.0032 * u[9]),
        field=(float(0.80 + 0.25 * u[10]), float(0.93 + 0.12 * u[11])),
        field_shift=(float(2 * u[12] - 1), float(2 * u[13] - 1)),
        field_angle=float(7.0 * (u[14] - 0.5) ** 3 * 8),
        margin=0.0 if shutter else float(0.3 + 0.55 * u[15]),
        marker_corner=float(u[16]),
        marker_angle=float(70 * (u[17] - 0.5)),
        marker_size=float(0.095 + 0.05 * u[18]),
        letters=letters[: 2 + int(u[23] * 2)] if u[19] < 0.8 else "",
    )


def expose(bone: Array, flesh: Array, exposure: Exposure, rng: np.random.Generator) -> Image:
    """Return the image of what the beam crosses.

    Args:
        bone: float32 (size, size), about millimetres of hard bone.
        flesh: float32 (size, size), millimetres of soft tissue.
        exposure: The values of the exposure.
        rng: Source of the noise.

    Returns:
        uint8 (size, size), dense is bright.
    """
    size = bone.shape[0]
    noise = rng.standard_normal((size, size), dtype=np.float32)
    mottle = cv2.GaussianBlur(noise, (0, 0), 0.006 * size) * np.float32(0.021 * size)
    inside = _field(size, exposure)
    absorption = flesh * _FLESH_PER_MM + bone * (_BONE_PER_MM * (1.0 + 0.05 * mottle))
    scatter = cv2.resize(flesh, (32, 32), interpolation=cv2.INTER_AREA)
    scatter = cv2.GaussianBlur(scatter, (0, 0), 2.0)
    absorption += cv2.resize(scatter, (size, size)) * np.float32(0.0016)
    marker = _marker(size, flesh, inside, exposure)
    absorption = np.maximum(absorption * np.float32(exposure.gain), marker)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    ground = exposure.black + exposure.tilt[0] * ramp + (exposure.tilt[1] * ramp)[:, None]
    ground = np.maximum(ground, 0.0) * (0.5 + exposure.black)
    image = ground + exposure.span * (1.0 - np.exp(-absorption))
    image = cv2.GaussianBlur(image, (0, 0), max(exposure.softness * size, 0.3))
    grain = 0.8 * noise + 0.3 * mottle
    image = 255.0 * image + exposure.noise * (0.2 + 1.2 * exposure.span) * grain
    outside = 255.0 * exposure.margin * (exposure.black + exposure.span)
    image = image * inside + outside * (1.0 - inside)
    levels: Image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return levels


def _field(size: int, exposure: Exposure) -> Array:
    """Return 1 inside the collimated field and 0 outside, float32 (size, size)."""
    side = np.minimum(np.asarray(exposure.field), 1.2) * size
    room = np.maximum(size - side, 0.0) * 0.5
    centre = 0.5 * size + room * np.asarray(exposure.field_shift)
    corners = cv2.boxPoints(
        (tuple(map(float, centre)), tuple(map(float, side)), exposure.field_angle)
    )
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, np.rint(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return np.asarray(mask, np.float32) / np.float32(255)


def _marker(size: int, flesh: Array, inside: Array, exposure: Exposure) -> Array:
    """Return the absorption of the lead letter L and the initials, where they hide no hand."""
    rows, columns = _MARKER_PATCH
    patch = np.full((rows, columns), 14, np.uint8)
    cv2.putText(patch, "L", (9, 32), cv2.FONT_HERSHEY_SIMPLEX, 1.1, 255, 4, cv2.LINE_AA)
    if exposure.letters:
        at = (5 if len(exposure.letters) > 2 else 9, 49)
        cv2.putText(
            patch, exposure.letters, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA
        )
    height = exposure.marker_size * size
    radius = 0.62 * height
    column, row = _free_position(size, flesh, inside, radius, exposure.marker_corner)
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), -exposure.marker_angle, height / rows)
    turn[:, 2] += (column - columns / 2, row - rows / 2)
    marker = cv2.warpAffine(patch, turn, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(marker * np.float32(3.2 / 255.0), np.float32)


def _free_position(
    size: int, flesh: Array, inside: Array, radius: float, chance: float
) -> tuple[float, float]:
    """Return column and row of a position in the field where a marker hides no part of the hand."""
    steps = np.linspace(radius + 1, size - radius - 1, 9)
    taken = (flesh > 0.5).astype(np.float32) + (inside < 0.5)
    blurred = cv2.blur(taken, (2 * int(radius) + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
    at = np.rint(steps).astype(int)
    covered = blurred[np.ix_(at, at)]
    # Technicians put it next to the fingers, on the little finger's side: prefer the upper left.
    cost = covered * 8 + np.linspace(0, 0.5, 9)[:, None] + np.linspace(0, 0.4, 9)
    order = np.argsort(cost, axis=None, kind="stable")
    row, column = np.unravel_index(order[int(chance * 8)], cost.shape)
    return float(steps[column]), float(steps[row])
