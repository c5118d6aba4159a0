"""Training-time augmentation of uint8 grey images, reproducible in any thread or process."""

from __future__ import annotations

import copy
import os
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.recipe import Augmentation

if TYPE_CHECKING:
    import albumentations

Image: TypeAlias = npt.NDArray[np.uint8]
ImageFunction: TypeAlias = Callable[[Image], Image]


def build_augmentation(settings: Augmentation) -> albumentations.Compose:
    """Makes the albumentations pipeline of a recipe's settings.

    One transform that does everything in one pass (see `fused_transform`), in the order
    of a chain: shift, scale and rotation; flips; optical distortion; gamma; brightness and
    contrast; sharpening; erasing. What comes in from beyond the border is black, as the padding of
    a framed radiograph is.

    Args:
        settings: Extents and probabilities.

    Returns:
        A pipeline for uint8 arrays `(h, w)`; an empty one if every setting is off.
    """
    # albumentations asks a server for its newest version when it is imported, unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    from boneage.pipeline.fused_transform import RandomVariation

    moves = settings.shift > 0 or settings.scale != (1.0, 1.0) or settings.rotate_degrees > 0
    chances = (
        settings.affine if moves else 0,
        settings.horizontal_flip,
        settings.vertical_flip,
        settings.optical_distortion,
        settings.gamma,
        settings.brightness_contrast,
        settings.sharpen,
        settings.erase,
    )
    # Strict, because a misspelt argument would otherwise pass with a warning.
    return albumentations.Compose([RandomVariation(settings)] if any(chances) else [], strict=True)


class Augment:
    """An augmentation that gives the same images for the same seed, wherever it runs.

    An albumentations pipeline holds its random state, and two threads in it disturb each other:
    every thread gets a copy of its own, and every batch sets that copy's state anew.

    Args:
        source: A recipe's settings; an albumentations transform for uint8 arrays `(h, w)` that
            keeps their shape; or a function of such an array. A function is called as it is, from
            several threads at once, and is reproducible only if it draws nothing at random or
            draws from the pixels alone.

    Attributes:
        draws: What it draws at random for an image: "nothing" that is known here, for a function;
            "alike" for every image, for settings; else "by image", as its pixels or size may say.

    Raises:
        InputError: `source` is none of these, or an albumentations transform was given arguments
            that it does not know.
    """

    def __init__(self, source: Augmentation | ImageFunction | albumentations.Compose) -> None:
        alike = isinstance(source, Augmentation)
        if isinstance(source, Augmentation):
            source = build_augmentation(source)
        if not callable(source):
            raise InputError(
                Fault(
                    "augmentation",
                    f"it is a {type(source).__name__}",
                    "Pass boneage.recipe.Augmentation(), for example.",
                    expected="recipe settings, an albumentations transform or a function",
                )
            )
        faults = [
            Fault(
                "augmentation",
                f"{name} knows no argument {argument!r}",
                "Mend its name.",
                expected=f"the arguments of albumentations.{name}",
            )
            for name, argument in _unknown_arguments(source)
        ]
        if faults:
            raise InputError(faults)
        self._source: Any = source
        self._is_albumentations = hasattr(source, "set_random_state")
        self.draws: Literal["nothing", "alike", "by image"] = (
            "alike" if alike else "by image" if self._is_albumentations else "nothing"
        )
        self._local = threading.local()

    def seeded(self, *words: int) -> ImageFunction:
        """Returns this thread's augmentation, its random state set from these words.

        Good until the thread calls `seeded` again.

        Args:
            words: Always the same number of them, none negative: numpy makes the same stream of
                `[3, 1]` and `[3, 1, 0]`.
        """
        if not self._is_albumentations:
            return self._apply_function
        pipeline = getattr(self._local, "pipeline", None)
        if pipeline is None:
            pipeline = self._local.pipeline = copy.deepcopy(self._source)
        generator = np.random.default_rng(words)
        # One state that all steps draw from in turn. `set_random_seed` would give every step the
        # same seed, and so the same draws: the flipped images would be the sharpened ones.
        pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))

        def apply(image: Image) -> Image:
            return self._checked(pipeline(image=image)["image"], image)

        return apply

    def _apply_function(self, image: Image) -> Image:
        return self._checked(self._source(image), image)

    @staticmethod
    def _checked(answer: Any, image: Image) -> Image:
        array = np.asarray(answer)
        if array.dtype != np.uint8 or array.shape != image.shape:
            raise InputError(
                Fault(
                    "augmentation",
                    f"it made {array.dtype} {array.shape} of uint8 {image.shape}",
                    "Let it keep shape and type, and give pixels in 0-255.",
                    expected="uint8 of the same shape",
                )
            )
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()


def _unknown_arguments(source: Any) -> list[tuple[str, str]]:
    found = [(type(source).__name__, argument) for argument in getattr(source, "invalid_args", ())]
    for step in getattr(source, "transforms", ()) or ():
        found.extend(_unknown_arguments(step))
    return found
