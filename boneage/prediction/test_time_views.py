"""The ways that one framed radiograph is looked at where several answers are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import cv2
import numpy as np

from boneage.errors import Fault, InputError
from boneage.pipeline.augmentation import Image, ImageFunction
from boneage.recipe import Views

TURN_DEGREES = 10.0


def _mirrored(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def _turned(image: Image, degrees: float) -> Image:
    height, width = image.shape
    centre = (width - 1) / 2, (height - 1) / 2
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR))


# The mirror image first: it alone is worth most, because a right hand is as good as a left one.
_VIEWS: tuple[ImageFunction | None, ...] = (
    None,
    _mirrored,
    lambda image: _turned(image, TURN_DEGREES),
    lambda image: _turned(image, -TURN_DEGREES),
    lambda image: _turned(_mirrored(image), TURN_DEGREES),
    lambda image: _turned(_mirrored(image), -TURN_DEGREES),
)


def looks(views: int) -> Sequence[ImageFunction | None]:
    """What is done to an image for each of the answers that are averaged.

    Args:
        views: 1, the image as it is; 2, its mirror image too; 6, both turned by 10 degrees either
            way too. What comes in from beyond the border is black, as in training.

    Returns:
        As many functions of uint8 `(h, w)`; None leaves the image as it is.

    Raises:
        InputError: Another number of views.
    """
    if views not in get_args(Views):
        known = ", ".join(map(str, get_args(Views)))
        raise InputError(
            Fault("views", f"it is {views}", "Choose one of them.", expected=f"one of {known}")
        )
    return _VIEWS[:views]
