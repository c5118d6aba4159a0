from __future__ import annotations

import os
from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.errors import InputError
from boneage.pipeline.augmentation import Augment, build_augmentation
from boneage.pipeline.generator import DataGenerator
from boneage.recipe import Augmentation

OFF: dict[str, Any] = {
    "shift": 0.0,
    "scale": (1.0, 1.0),
    "rotate_degrees": 0.0,
    "horizontal_flip": 0.0,
    "gamma": 0.0,
    "brightness_contrast": 0.0,
    "sharpen": 0.0,
    "optical_distortion": 0.0,
}


def only(**settings: Any) -> Augmentation:
    return Augmentation(**{**OFF, **settings})


@pytest.fixture(scope="module")
def image() -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.asarray(cv2.normalize(smooth, None, 30, 255, cv2.NORM_MINMAX), np.uint8)


def steps(settings: Augmentation) -> list[Any]:
    return list(build_augmentation(settings).transforms)


def test_a_policy_that_changes_nothing_has_no_step(image: npt.NDArray[np.uint8]) -> None:
    assert steps(only()) == []
    assert np.array_equal(Augment(only()).seeded(0, 0)(image), image)
    for setting, value in {"shift": 0.1, "scale": (0.9, 1.0), "rotate_degrees": 5.0}.items():
        assert len(steps(only(**{setting: value}))) == 1
    assert len(steps(only(vertical_flip=0.5))) == 1


def test_importing_albumentations_asks_no_server() -> None:
    build_augmentation(Augmentation())
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_the_same_words_give_the_same_images(image: npt.NDArray[np.uint8]) -> None:
    augment = Augment(Augmentation())

    def batch(*words: int) -> bytes:
        apply = augment.seeded(*words)
        return b"".join(apply(image).tobytes() for _ in range(4))

    assert batch(1, 2, 3) == batch(1, 2, 3)
    assert len({batch(1, 2, 3), batch(1, 2, 4), batch(1, 3, 3), batch(2, 2, 3)}) == 4


def test_noise_alone_depends_on_the_gain(image: npt.NDArray[np.uint8]) -> None:
    def changed(gain: float, **settings: float) -> Any:
        augment = Augment(only(**settings))
        assert augment.uses_gain == ("noise" in settings)
        return [augment.seeded(0, index)(image, gain) for index in range(8)]

    low, high = changed(1.0, noise=1.0), changed(6.0, noise=1.0)
    for one, other in zip(low, high, strict=True):
        weak, strong = (float(np.abs(each - image.astype(float)).mean()) for each in (one, other))
        assert strong > 2 * weak
    others = {"resample": 0.5, "blur": 0.5, "jpeg": 0.5}
    assert np.array_equal(changed(1.0, **others), changed(6.0, **others))
    augment = Augment(only(noise=1.0))
    assert np.array_equal(augment.seeded(0, 0)(image), low[0]), "without a gain it is one"


def test_steps_do_not_share_their_draws(image: npt.NDArray[np.uint8]) -> None:
    # With one seed for each step, flip and gamma would happen together or not at all.
    augment = Augment(only(horizontal_flip=0.5, gamma=0.5)).seeded(0, 5)
    seen = set()
    for _ in range(60):
        result = augment(image)
        flipped = np.corrcoef(result.ravel(), image[:, ::-1].ravel())[0, 1] > 0.9
        original = image[:, ::-1] if flipped else image
        seen.add((flipped, bool(np.array_equal(result, original))))
    assert len(seen) == 4


def test_a_users_transform_is_copied_and_seeded(image: npt.NDArray[np.uint8]) -> None:
    theirs = A.Compose(
        [A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=0.5), A.Rotate(p=1)]
    )
    one, other = Augment(theirs), Augment(theirs)
    first = [one.seeded(3, index)(image) for index in range(8)]
    theirs(image=image)
    second = [other.seeded(3, index)(image) for index in reversed(range(8))]
    assert np.array_equal(first, second[::-1])
    single = Augment(A.HorizontalFlip(p=1)).seeded(0, 0)
    assert np.array_equal(single(image), image[:, ::-1])


@pytest.mark.parametrize(
    "source",
    [lambda x: x / 255, lambda x: x[:10], lambda x: x[..., None], lambda _: None],
)
def test_a_function_must_keep_shape_and_type(source: Any, image: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="Return a uint8 array of the same shape"):
        Augment(source).seeded(0, 0)(image)


def test_a_crop_is_refused(image: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"\(32, 32\)"):
        Augment(A.RandomCrop(32, 32)).seeded(0, 0)(image)


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.warns(UserWarning, match="angle"):
        misspelt = A.Compose([A.OneOf([A.Rotate(angle=3)])])
    with pytest.raises(InputError, match="Rotate has no argument 'angle'"):
        Augment(misspelt)


@pytest.mark.parametrize(
    ("source", "message"), [("strong", "it is a str"), (A.Rotate, "it is the class Rotate")]
)
def test_something_else_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augment(source)


def test_a_step_that_writes_to_its_argument_leaves_the_images_as_they_are() -> None:
    def erased(image: Any, **_: Any) -> Any:
        image[:4] //= 2
        return image

    for source in (erased, A.Compose([A.Lambda(image=erased, p=1)])):
        images = np.full((4, 8, 8), 200, np.uint8)
        generator = DataGenerator(images, [1] * 4, [90] * 4, augmentation=source)
        first, again = (generator[0][0][0] for _ in range(2))
        assert np.array_equal(first, again)
        assert (images == 200).all()
