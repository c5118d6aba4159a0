from __future__ import annotations

import numpy as np
import pytest

from boneage.recipe import Augmentation
from experiments.throughput.benchmark.policy import stock_policy


def test_it_is_the_recipe_s_policy_in_albumentations_own_transforms():
    names = [type(step).__name__ for step in stock_policy(Augmentation()).transforms]
    assert names == [
        "Affine",
        "HorizontalFlip",
        "OpticalDistortion",
        "RandomGamma",
        "RandomBrightnessContrast",
        "Sharpen",
    ]
    chances = [step.p for step in stock_policy(Augmentation()).transforms]
    assert chances == [1.0, 0.5, 0.5, 0.5, 0.2, 0.5]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_it_keeps_shape_type_and_range(dtype):
    most = 255 if dtype == np.uint8 else 1
    image = (np.random.default_rng(0).random((64, 64)) * most).astype(dtype)
    policy = stock_policy(Augmentation(), seed=1)
    made = [policy(image=image)["image"] for _ in range(20)]
    assert {(one.shape, one.dtype) for one in made} == {((64, 64), np.dtype(dtype))}
    assert min(one.min() for one in made) >= 0
    assert max(one.max() for one in made) <= most
    assert len({one.tobytes() for one in made}) > 15


def test_a_seed_repeats_it():
    image = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    first, again = (stock_policy(Augmentation(), seed=5)(image=image)["image"] for _ in range(2))
    assert np.array_equal(first, again)
