"""Training-time augmentation of uint8 grey images, reproducible in any thread or process."""

from __future__ import annotations

import copy
import functools
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
# The second argument, by default 1.0, is the image's gain: see `Framed.gain`.
SeededFunction: TypeAlias = Callable[..., Image]


def build_augmentation(settings: Augmentation) -> albumentations.Compose:
    """Return the albumentations pipeline of a recipe's settings.

    It has one transform, which makes all changes in one pass (see `fused_transform`). Their order
    is: resampling; blur; noise; JPEG; shift, scale and rotation; flips; optical distortion; gamma;
    brightness and contrast; sharpening; erasing. Pixels from outside the image are black, as in a
    framed radiograph.

    Args:
        settings: Extents and probabilities.

    Returns:
        A pipeline for uint8 arrays `(h, w)`. It is empty if every setting is off.
    """
    # Without this variable, importing albumentations asks a server for its newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    from boneage.pipeline.fused_transform import RandomVariation, degrades

    is_moved = settings.shift > 0 or settings.scale != (1.0, 1.0) or settings.rotate_degrees > 0
    chances = (
        settings.affine if is_moved else 0,
        settings.horizontal_flip,
        settings.vertical_flip,
        settings.optical_distortion,
        settings.gamma,
        settings.brightness_contrast,
        settings.sharpen,
        settings.erase,
        degrades(settings),
    )
    # Strict: otherwise a misspelt argument only gives a warning.
    return albumentations.Compose([RandomVariation(settings)] if any(chances) else [], strict=True)


class Augment:
    """An augmentation that gives the same images for the same seed in any thread or process.

    An albumentations pipeline holds its random state, so threads that share a pipeline disturb
    each other. Each thread therefore gets its own copy, and each batch sets that copy's state.

    Args:
        source: Recipe settings; or an albumentations transform for uint8 arrays `(h, w)` that
            keeps their shape; or a function of such an array. Several threads call a function at
            the same time. It is reproducible only if it draws nothing at random, or computes its
            random numbers from the pixels.

    Attributes:
        draws: How many random numbers an image takes. "alike": as many for every image (settings).
            "by image": perhaps more for some images (albumentations). "nothing": none from the
            seeded stream (functions).
        uses_gain: Whether `seeded`'s function uses the gain of an image (settings with noise).

    Raises:
        InputError: `source` is none of these, or an albumentations transform got an unknown
            argument.
    """

    def __init__(self, source: Augmentation | ImageFunction | albumentations.Compose) -> None:
        is_settings = isinstance(source, Augmentation)
        self.uses_gain = isinstance(source, Augmentation) and source.noise > 0
        if isinstance(source, Augmentation):
            source = build_augmentation(source)
        if not callable(source) or isinstance(source, type):
            is_class = isinstance(source, type)
            what = f"the class {source.__name__}" if is_class else f"a {type(source).__name__}"
            fix = "Pass settings such as Augmentation(), an albumentations transform or a function."
            raise InputError(Fault("augmentation", f"it is {what}", fix))
        fix = "Correct the name. See the documentation of albumentations."
        faults = [
            Fault("augmentation", f"{name} has no argument {argument!r}", fix + f"{name}.")
            for name, argument in _unknown_arguments(source)
        ]
        if faults:
            raise InputError(faults)
        self._source: Any = source
        self._is_albumentations = hasattr(source, "set_random_state")
        self.draws: Literal["nothing", "alike", "by image"] = (
            "alike" if is_settings else "by image" if self._is_albumentations else "nothing"
        )
        self._local = threading.local()

    def seeded(self, *words: int) -> SeededFunction:
        """Return this thread's augmentation, with its random state set from these numbers.

        It is valid until the thread calls `seeded` again. Its arguments are an image and, for
        noise, the levels of that image for one level of its radiograph (default: 1.0).

        Args:
            words: Not negative, and always the same number of words: numpy makes the same random
                stream from `[3, 1]` and `[3, 1, 0]`.
        """
        if not self._is_albumentations:
            return functools.partial(self._apply, self._source)
        pipeline = getattr(self._local, "pipeline", None)
        if pipeline is None:
            pipeline = self._local.pipeline = copy.deepcopy(self._source)
        generator = np.random.default_rng(words)
        # All steps draw from one state in turn. `set_random_seed` would give every step the same
        # seed and so the same numbers: exactly the flipped images would be sharpened.
        pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))

        return functools.partial(self._apply, lambda image: pipeline(image=image)["image"])

    def _apply(self, function: ImageFunction, image: Image, gain: float = 1.0) -> Image:
        if self.uses_gain:
            self._local.pipeline.transforms[0].gain = gain
        given = image if self.draws == "alike" else image.copy()  # a user's step may write to it
        array = np.asarray(function(given))
        if array.dtype != np.uint8 or array.shape != image.shape:
            what = f"it turned uint8 {image.shape} into {array.dtype} {array.shape}"
            fix = "Return a uint8 array of the same shape, with pixels in 0-255."
            raise InputError(Fault("augmentation", what, fix))
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
