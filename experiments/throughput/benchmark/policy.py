"""The recipe's augmentation as a chain of albumentations' own transforms, for the peers.

The package makes the same changes in one fused pass (`boneage.pipeline.augmentation`). This chain
has the same parameters, probabilities and order, as a user of the library would write it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from boneage.recipe import Augmentation

if TYPE_CHECKING:
    import albumentations


def stock_policy(settings: Augmentation, seed: int | None = None) -> albumentations.Compose:
    """Return the policy for arrays `(h, w)`: uint8, or float32 in [0, 1].

    Args:
        settings: Extents and probabilities.
        seed: Seed of the random state, or None for a random seed.
    """
    # Without this variable, importing albumentations asks a server for its newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    steps: list[albumentations.BasicTransform] = [
        albumentations.Affine(
            translate_percent=(-settings.shift, settings.shift),
            scale=settings.scale,
            keep_ratio=True,
            rotate=(-settings.rotate_degrees, settings.rotate_degrees),
            fill=0,
            p=settings.affine,
        ),
        albumentations.HorizontalFlip(p=settings.horizontal_flip),
        albumentations.VerticalFlip(p=settings.vertical_flip),
        albumentations.OpticalDistortion(p=settings.optical_distortion),
        albumentations.RandomGamma(p=settings.gamma),
        albumentations.RandomBrightnessContrast(p=settings.brightness_contrast),
        albumentations.Sharpen(p=settings.sharpen),
    ]
    return albumentations.Compose([step for step in steps if step.p > 0], strict=True, seed=seed)
