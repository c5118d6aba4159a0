"""Changes of a decoded radiograph that a model should stand, each with its gate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.radiographs.file_limits import SMALLEST_SIDE
from boneage.radiographs.image_quality import highest_level
from boneage.radiographs.reader import Radiograph

VERSION = 2
"""Raise it whenever a change gives other pixels or answers: kept ones are then computed again."""

Pixels = npt.NDArray[Any]
Apply = Callable[[Pixels, np.random.Generator, int], Pixels]
"""Changes a radiograph, given random numbers and the side of the model's images in pixels."""


@dataclass(frozen=True)
class Change:
    """One change of a radiograph.

    Attributes:
        name: Its name in tables.
        apply: What it does to the pixels.
        gate: Largest difference of the MAE that passes, months; None without a gate.
        refusal_passes: Whether the gate is passed, too, if nearly all changed images are refused.
        wrong_sex: Whether the model gets the other sex.
    """

    name: str
    apply: Apply
    gate: float | None = None
    refusal_passes: bool = False
    wrong_sex: bool = False

    def __call__(self, radiograph: Radiograph, image_id: str, size: int) -> Radiograph:
        """Return the changed radiograph; the same image and change always give the same pixels.

        Args:
            radiograph: Array `(h, w)`, uint8 or uint16. It stays as it is.
            image_id: Seeds the random numbers, together with the name.
            size: Side of the model's images, pixels.
        """
        digest = hashlib.sha256(f"{self.name} {image_id}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return np.ascontiguousarray(self.apply(radiograph, generator, size))


def _keep(radiograph: Pixels, *_: Any) -> Pixels:
    return radiograph


def _rotate(degrees: int) -> Apply:
    """Turn by quarters counter-clockwise, or by another angle to a random side.

    Nothing is cut off, and new corners are black.
    """

    def apply(radiograph: Pixels, generator: np.random.Generator, _: int) -> Pixels:
        if degrees % 90 == 0:
            return np.rot90(radiograph, degrees // 90)
        height, width = radiograph.shape
        angle = degrees if generator.integers(2) else -degrees
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        across, along = np.abs(matrix[:, :2]) @ (width, height)
        size = int(np.ceil(across)), int(np.ceil(along))
        matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
        return np.asarray(cv2.warpAffine(radiograph, matrix, size), radiograph.dtype)

    return apply


def _curve(curve: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Apply:
    """Replace every grey level, given as a share of the highest; clipped to 0 and 1."""

    def apply(radiograph: Pixels, *_: Any) -> Pixels:
        top = highest_level(radiograph)
        levels = np.clip(curve(np.arange(top + 1) / top), 0, 1) * top
        return np.rint(levels).astype(radiograph.dtype)[radiograph]

    return apply


def _add_noise(levels: float) -> Apply:
    """Add independent normal noise to every pixel; `levels` of 255 are its standard deviation."""

    def apply(radiograph: Pixels, generator: np.random.Generator, _: int) -> Pixels:
        top = highest_level(radiograph)
        noisy = generator.standard_normal(radiograph.shape, np.float32)
        noisy *= levels * top / 255
        noisy += radiograph
        return np.rint(np.clip(noisy, 0, top, out=noisy), out=noisy).astype(radiograph.dtype)

    return apply


def _blur(share: float) -> Apply:
    """Blur by a normal distribution whose deviation is a share of the longer side."""

    def apply(radiograph: Pixels, *_: Any) -> Pixels:
        blurred = cv2.GaussianBlur(radiograph, (0, 0), share * max(radiograph.shape))
        return np.asarray(blurred, radiograph.dtype)

    return apply


def _compress(quality: int) -> Apply:
    """Encode as JPEG, which has 8 bits, and decode."""

    def apply(radiograph: Pixels, *_: Any) -> Pixels:
        pixels = radiograph
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels * (255 / highest_level(pixels))).astype(np.uint8)
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)

    return apply


def _shrink(longer_side: int | None = None, *, average: bool = True) -> Apply:
    """Shrink to a longer side, by default to the model's; by averages or by picked pixels."""

    def apply(radiograph: Pixels, _: np.random.Generator, size: int) -> Pixels:
        height, width = radiograph.shape
        scale = (longer_side or size) / max(height, width)
        if scale >= 1:
            return radiograph
        shape = [max(SMALLEST_SIDE, round(side * scale)) for side in (height, width)]
        if average:
            small = cv2.resize(radiograph, shape[::-1], interpolation=cv2.INTER_AREA)
            return np.asarray(small, radiograph.dtype)
        rows, columns = (
            ((np.arange(count) + 0.5) * side / count).astype(int)
            for count, side in zip(shape, (height, width), strict=True)
        )
        return radiograph[np.ix_(rows, columns)]

    return apply


def _add_marker(radiograph: Pixels, *_: Any) -> Pixels:
    """Write a bright L into the upper left corner, a twelfth of the longer side high."""
    marked = radiograph.copy()
    side = max(radiograph.shape)
    inset, height, stroke = side // 40, side // 12, max(1, side // 100)
    level = round(0.95 * highest_level(radiograph))
    marked[inset : inset + height, inset : inset + stroke] = level
    marked[inset + height - stroke : inset + height, inset : inset + height // 2] = level
    return marked


def _add_border(radiograph: Pixels, *_: Any) -> Pixels:
    """Add a black border, as outside a collimator: an eighth of the longer side all around."""
    return np.pad(radiograph, max(radiograph.shape) // 8)


UNCHANGED = Change("unchanged", _keep)

CHANGES = (
    Change("rotation ±5°", _rotate(5), 0.3),
    Change("rotation ±10°", _rotate(10), 0.3),
    Change("rotation ±20°", _rotate(20), 0.5),
    Change("rotation ±45°", _rotate(45), 1.0),
    Change("rotation 90°", _rotate(90)),
    Change("rotation 180°", _rotate(180), 0.5),
    Change("rotation 270°", _rotate(270)),
    Change("mirrored", lambda radiograph, *_: radiograph[:, ::-1], 0.5),
    Change("flipped", lambda radiograph, *_: radiograph[::-1], 0.5),
    Change("brightness +0.2", _curve(lambda share: share + 0.2)),
    Change("brightness -0.2", _curve(lambda share: share - 0.2), 0.5, refusal_passes=True),
    Change("gamma 0.7", _curve(lambda share: share**0.7), 0.5),
    Change("gamma 1.4", _curve(lambda share: share**1.4), 0.5),
    Change("contrast halved", _curve(lambda share: 0.5 + (share - 0.5) / 2), 0.5),
    Change("inverted", _curve(lambda share: 1 - share), 0.5, refusal_passes=True),
    Change("noise 5 of 255", _add_noise(5), 0.5),
    Change("noise 10 of 255", _add_noise(10), 1.5),
    Change("blur 0.5 %", _blur(0.005)),
    Change("JPEG 50", _compress(50), 0.5),
    Change("JPEG 30", _compress(30), 0.5),
    Change("256 px", _shrink(256), 0.5),
    Change("128 px", _shrink(128)),
    Change("model's size, area", _shrink()),
    Change("model's size, nearest", _shrink(average=False)),
    Change("L marker", _add_marker),
    Change("collimator border", _add_border),
    Change("wrong sex", _keep, wrong_sex=True),
)
"""Every change, in the order of the tables.

Gates are of single changes, on images that the model was not trained on. Noise, JPEG, resolution
and oblique rotations say most about radiographs that are larger than the model's images. The turned
canvas of a small one is interpolated, and then shrunk again by `framing.source_pixels`.
"""
