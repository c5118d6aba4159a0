"""Explain an answer: a heat map of the places of a radiograph that move it.

One place after another is blurred, and the model answers again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from boneage.prediction.answers import sexes_to_answer
from boneage.prediction.engines import Engine
from boneage.prediction.predictor import Assessed, Predictor
from boneage.radiographs.framing import Framed
from boneage.radiographs.reader import Radiograph

Heat = npt.NDArray[np.float32]

BLUR = 0.025
"""Standard deviation of the blur, as a share of the framed side: it hides growth plates, and
keeps the outline of a finger."""
PATCHES = ((0.10, 16, 112), (0.20, 8, 40))
"""Patches of two sizes: the diameter as a share of the framed side, how many are in a row, and how
many are tried at most. Those that blurring changes most come first."""
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which places of a radiograph move the answer.

    Attributes:
        radiograph: Array `(h, w)`, uint8 or uint16, with bright bone: the part that is answered.
        heat: float32 `(h, w)`, months: how much older each place makes the answer. Where it is
            negative, the place makes the answer younger. It is 0 outside the framed part.
        outline: Corners (x, y) of the framed part, `(4, 2)`.
        patches: Diameters of the patches of both sizes, in pixels of the radiograph.
    """

    radiograph: Radiograph
    heat: Heat
    outline: npt.NDArray[np.float64]
    patches: tuple[float, ...]

    def framed_heat(self, size: int) -> Heat:
        """Return the heat map as one of the framed image, float32 `(size, size)`."""
        start, right, _, down = self.outline
        matrix = np.column_stack([(right - start) / size, (down - start) / size, start])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        found = cv2.warpAffine(self.heat, _from_centres(matrix), (size, size), flags=flags)
        return np.asarray(found, np.float32)


def explain(
    predictor: Predictor, radiograph: Radiograph, assessed: Assessed, sex: str | None
) -> Explanation:
    """Measure which places of a radiograph move the answer of one run or several.

    Each run computes its first view with up to 152 patches blurred, which takes a few seconds.

    Args:
        predictor: The runs.
        radiograph: Array `(h, w)`, uint8 or uint16.
        assessed: What `Predictor.assess` finds in it. It must have a framed image.
        sex: `F` or `M`. If it is None, the mean for both.

    Raises:
        InputError: A model can't be read.
    """
    levels = assessed.levels(radiograph)
    heat = np.zeros(levels.shape, np.float32)
    first_phases = [framed[0] for framed in assessed.framed]
    genders = [float(each == "M") for each in sexes_to_answer(sex)]
    for framed, engines in zip(first_phases, predictor.engines, strict=True):
        for engine in engines:
            for gender in genders:
                heat += _on_radiograph(occlude(engine, framed.pixels, gender), framed, heat.shape)
    first = first_phases[0]
    side = np.sqrt(abs(np.linalg.det(first.to_radiograph[:, :2]))) * len(first.pixels)
    return Explanation(
        levels,
        heat / np.float32(len(predictor.runs) * len(genders)),
        assessed.outline,
        tuple(diameter * side for diameter, _, _ in PATCHES),
    )


def occlude(engine: Engine, image: npt.NDArray[np.uint8], gender: float) -> Heat:
    """Return how much older each place of a framed image makes the answer, in months.

    That is the answer less the one with a patch blurred there, as a mean over both sizes of
    patches. Places between the centres of patches are interpolated.

    Args:
        engine: The network.
        image: uint8 (size, size), framed as in training.
        gender: 1.0 = male.

    Returns:
        float32 (size, size).
    """
    genders = np.full((_BATCH, 1), gender, np.float32)
    answer = engine.predict(image[np.newaxis], genders[:1]).months[0]
    heat = np.zeros(image.shape, np.float32)
    for diameter, count, most in PATCHES:
        patches = sorted(_blurred(image, diameter, count), key=lambda patch: -patch[0])[:most]
        moved = np.zeros((count, count), np.float32)
        for first in range(0, len(patches), _BATCH):
            batch = patches[first : first + _BATCH]
            images = np.stack([blurred for _, _, blurred in batch])
            months = engine.predict(images, genders[: len(batch)]).months
            for (_, place, _), other in zip(batch, months.tolist(), strict=True):
                moved[place] = answer - other
        heat += cv2.resize(moved, image.shape[::-1]) / len(PATCHES)
    return heat


def _blurred(
    image: npt.NDArray[np.uint8], diameter: float, count: int
) -> Iterator[tuple[float, tuple[int, int], npt.NDArray[np.uint8]]]:
    """Yield how much each patch changes, its row and column, and the image with it blurred."""
    size = len(image)
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), BLUR * size)
    pixels = np.arange(size) + 0.5
    centres = (np.arange(count) + 0.5) * (size / count)
    for row, y in enumerate(centres):
        for column, x in enumerate(centres):
            away = np.hypot(pixels[:, np.newaxis] - y, pixels - x) - diameter * size / 2
            weight = np.clip(0.5 - away / (0.02 * size), 0, 1).astype(np.float32)  # a soft edge
            change = (smooth - image) * weight
            blurred = np.rint(image + change).astype(np.uint8)
            if (blurred != image).any():
                yield float(np.abs(change).sum()), (row, column), blurred


def _on_radiograph(heat: Heat, framed: Framed, shape: tuple[int, ...]) -> Heat:
    """Return a heat map of the framed image as one of the radiograph, 0 outside."""
    matrix = _from_centres(framed.to_radiograph)
    return np.asarray(cv2.warpAffine(heat, matrix, shape[::-1]), np.float32)


def _from_centres(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a matrix of positions as one that counts from the centres of pixels, as OpenCV."""
    shifted = matrix.copy()
    shifted[:, 2] += shifted[:, :2] @ (0.5, 0.5) - 0.5
    return shifted
