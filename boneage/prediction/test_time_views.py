"""The views of one framed image whose answers are averaged: mirrored and rotated copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, get_args

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.prediction.engines import Engine, Outputs
from boneage.recipe import Views

BATCH_SIZE = 64
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


def mean_of_views(
    engine: Engine,
    images: Sequence[Image] | Image,
    gender: npt.NDArray[np.float32],
    views: int = 1,
    batch_size: int = BATCH_SIZE,
) -> Outputs:
    """Compute every framed image, averaged over its test-time views.

    Args:
        engine: The network.
        images: uint8 (n, size, size), or a list of (size, size), framed as in training.
        gender: float32 (n, 1), 1.0 = male.
        views: Test-time views averaged per image.
        batch_size: Images per batch; it does not change the answers.

    Returns:
        The mean of the answers, and of the variances; the pooled features of the image itself.
    """
    parts = []
    for first in range(0, len(images), batch_size):
        rows = range(first, min(first + batch_size, len(images)))
        batch, sexes = [images[row] for row in rows], gender[rows.start : rows.stop]
        seen = [
            engine.predict(np.stack([make_view(image) for image in batch]), sexes)
            for make_view in test_time_views(views)
        ]
        variances = [each.variance for each in seen if each.variance is not None]
        parts.append(
            Outputs(
                sum((each.months for each in seen), np.zeros(len(batch))) / views,
                sum(variances, np.zeros(len(batch))) / views if variances else None,
                seen[0].pooled,
            )
        )
    return join_outputs(parts)


def join_outputs(parts: Sequence[Outputs]) -> Outputs:
    """Return the outputs of several batches as those of one."""
    months = np.concatenate([np.empty(0), *(each.months for each in parts)])
    variances = [each.variance for each in parts if each.variance is not None]
    pooled = [each.pooled for each in parts if each.pooled is not None]
    return Outputs(
        months,
        np.concatenate(variances) if variances else None,
        np.concatenate(pooled) if pooled else None,
    )
