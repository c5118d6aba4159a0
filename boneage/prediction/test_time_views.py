"""The views of one framed image whose predictions are averaged: mirrored and rotated copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, get_args

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.recipe import Views

ROTATION_DEGREES = 10.0

Image: TypeAlias = npt.NDArray[np.uint8]


def _keep(image: Image) -> Image:
    return image


def _mirror(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def _rotate(image: Image, degrees: float) -> Image:
    height, width = image.shape
    centre = (width - 1) / 2, (height - 1) / 2
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR))


# The mirror image comes second because it helps most: left and right hands are equally good.
_VIEWS: tuple[Callable[[Image], Image], ...] = (
    _keep,
    _mirror,
    lambda image: _rotate(image, ROTATION_DEGREES),
    lambda image: _rotate(image, -ROTATION_DEGREES),
    lambda image: _rotate(_mirror(image), ROTATION_DEGREES),
    lambda image: _rotate(_mirror(image), -ROTATION_DEGREES),
)


def test_time_views(views: int) -> Sequence[Callable[[Image], Image]]:
    """Return the functions that make the views of an image; the first one keeps the image.

    Args:
        views: 1 is the image alone. 2 adds its mirror image. 6 adds both of them rotated by
            10 degrees to either side. Rotation fills the corners with black, as in training.

    Returns:
        `views` functions of a uint8 array `(h, w)`.

    Raises:
        InputError: There is no such number of views.
    """
    if views not in get_args(Views):
        known = ", ".join(map(str, get_args(Views)))
        raise InputError(Fault("views", f"it is {views}", f"Choose one of {known}."))
    return _VIEWS[:views]
