from __future__ import annotations

import random
from typing import Any

import albumentations as A
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.pipeline.augmentation_trial import try_steps
from boneage.pipeline.generator import DataGenerator

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8)
RARE_FOG = A.RandomFog(p=0.01)


def negative(image: Any, **_: Any) -> Any:
    return 255 - image


def found(source: Any) -> str:
    return "\n".join(map(str, try_steps(source, IMAGE)))


@pytest.mark.parametrize(
    "source",
    [
        RARE_FOG,
        A.Compose([A.HorizontalFlip(), RARE_FOG]),
        A.Compose([A.OneOf([A.HorizontalFlip(p=0.9), RARE_FOG], p=0.1)]),
        A.Sequential([A.SomeOf([RARE_FOG, A.Blur()], n=1)], p=0.2),
        A.Compose([A.Compose([A.RandomOrder([RARE_FOG, A.Blur()], n=2)])]),
        A.ReplayCompose([A.OneOrOther(A.Blur(), RARE_FOG)]),
    ],
)
def test_a_step_for_colour_is_named_wherever_it_is(source: Any) -> None:
    assert found(source).count("RandomFog fails on a uint8 image (24, 24): ValueError") == 1


def test_all_steps_that_fail_are_named() -> None:
    text = found(A.Compose([A.ISONoise(p=0.1), A.ChannelDropout(p=0.1), A.Normalize(p=0.1)]))
    assert text.count("augmentation: ") == 3
    assert "ISONoise fails" in text
    assert "ChannelDropout fails" in text
    assert "Normalize turned uint8 (24, 24) into float32 (24, 24)" in text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (A.Resize(12, 12, p=0.01), "Resize turned uint8 (24, 24) into uint8 (12, 12)"),
        (A.Compose([A.PadIfNeeded(30, 30), A.CenterCrop(24, 24, p=0.5)]), "into uint8 (30, 30)"),
        (A.Compose([A.OneOf([A.Blur(), A.ToFloat()], p=0.2)]), "ToFloat turned"),
    ],
)
def test_a_step_that_changes_shape_or_type_is_named(source: Any, message: str) -> None:
    assert message in found(source)


@pytest.mark.parametrize(
    "source",
    [
        A.Compose([A.PadIfNeeded(30, 30, p=1), A.RandomCrop(24, 24, p=1)]),
        A.Compose([A.Sequential([A.Resize(30, 30, p=1), A.Resize(24, 24, p=1)], p=0.5)]),
        A.Compose([A.ToFloat(p=1), A.FromFloat(dtype="uint8", p=1)]),
        A.Compose([A.RandomFog(p=0), A.Rotate(), A.GaussNoise()]),
        A.RandomResizedCrop((24, 24), p=0.3),
        A.Lambda(image=negative),
        A.Compose([]),
        lambda image: image[::-1],
    ],
)
def test_what_keeps_shape_and_type_in_the_end_is_taken(source: Any) -> None:
    assert found(source) == ""


def test_a_function_that_fails_is_named_with_its_line() -> None:
    def darker(image: Any) -> Any:
        return image // 0 if image.ndim == 2 and 1 / 0 else image

    text = found(darker)
    assert "darker fails on a uint8 image (24, 24): ZeroDivisionError: division by zero" in text
    assert "test_augmentation_trial.py" in text
    assert "<lambda> turned uint8 (24, 24) into float64 (24, 24)" in found(lambda image: image / 2)


def test_global_random_numbers_go_on_as_if_nothing_was_tried() -> None:
    def noisy(image: Any) -> Any:
        return image + np.uint8(np.random.randint(3) + random.randrange(3))  # noqa: NPY002

    drawn = []
    for source in (None, noisy):
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        assert source is None or found(source) == ""
        drawn.append((np.random.random(), random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_a_pipeline_draws_the_same_after_it_was_tried() -> None:
    def batches(pipeline: Any) -> list[bytes]:
        images = np.broadcast_to(IMAGE, (8, *IMAGE.shape))
        generator = DataGenerator(images, [1] * 8, [90] * 8, 4, augmentation=pipeline, seed=3)
        return [image.tobytes() for (image, _), _ in generator]

    pipeline = A.Compose([A.Rotate(p=0.5), A.GaussNoise(p=0.5)], seed=7)
    first = batches(pipeline)
    assert batches(pipeline) == first
    again = A.Compose([A.Rotate(p=0.5), A.GaussNoise(p=0.5)], seed=7)
    assert np.array_equal(pipeline(image=IMAGE)["image"], again(image=IMAGE)["image"])


def test_the_generator_refuses_all_at_once() -> None:
    with pytest.raises(InputError, match="ISONoise fails"):
        DataGenerator(IMAGE[None], ["F"], [90], augmentation=A.Compose([A.ISONoise(p=0.05)]))
