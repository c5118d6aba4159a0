"""Try every step of a user's augmentation once, before a training finds out by chance.

A step for colour images fails on a grey one, but only when its probability comes up.
"""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault

Image: TypeAlias = npt.NDArray[np.uint8]
# What an image may have become, by shape and type: an example, and the steps that changed it.
Forms: TypeAlias = Mapping[tuple[Any, ...], tuple[Any, tuple[str, ...]]]

# How albumentations' groups of steps use their members.
_ALL, _ONE, _SOME = ("Compose", "ReplayCompose", "Sequential"), ("OneOf", "OneOrOther"), ("SomeOf",)
_FIX = "Use what takes a uint8 grey image (h, w) and returns one of the same shape and type."


def try_steps(source: Any, image: Image) -> list[Fault]:
    """Return what is wrong with an augmentation, for an image like those that it will get.

    Every step of an albumentations pipeline runs with probability 1, on a copy with its own random
    numbers. Shape and type may change in between, but must be the original ones at the end. A
    function is called once, and leaves the global random states of numpy and Python as they were.

    Args:
        source: An albumentations transform, or a function.
        image: uint8 `(h, w)`.
    """
    faults: list[Fault] = []
    forms: Forms = {_form(image): (image, ())}
    if hasattr(source, "set_random_state"):
        forms = _try(source, forms, faults, is_certain=False)
    else:
        of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
        forms = _apply(source, source, forms, faults)
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
    for form, (_, names) in forms.items():
        if form != _form(image):
            (shape, kind), (before, _) = form, _form(image)
            what = f"{', '.join(names)} turned uint8 {before} into {kind} {shape}"
            faults.append(Fault("augmentation", what, _FIX))
    return faults


def _try(step: Any, forms: Forms, faults: list[Fault], *, is_certain: bool) -> Forms:
    """Return the forms that images may have after a step of albumentations.

    Args:
        step: The transform, or group of transforms.
        forms: The forms before it.
        faults: Failures are added to it.
        is_certain: Whether the step is applied whatever its probability is.
    """
    probability = getattr(step, "p", 1.0)
    if not probability:
        return forms
    kinds = [kind.__name__ for kind in type(step).__mro__]
    members = list(getattr(step, "transforms", ()) or ())
    after: Forms
    if any(kind in _ALL for kind in kinds):
        after = forms
        for member in members:
            after = _try(member, after, faults, is_certain=False)
    elif any(kind in _ONE for kind in kinds):
        after = {}
        for member in members:
            after = {**_try(member, forms, faults, is_certain=True), **after}
    elif any(kind in _SOME for kind in kinds):
        after = forms
        for member in members:
            after = {**_try(member, after, faults, is_certain=True), **after}
    else:
        after = _apply(_certain(step, faults), step, forms, faults)
    return after if is_certain or probability >= 1 else {**after, **forms}


def _certain(step: Any, faults: list[Fault]) -> Callable[[Image], Any]:
    """Return a copy of a transform that is always applied, as a function of an image."""
    try:
        copied = copy.deepcopy(step)
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        what = f"{_name(step)} can't be copied for each thread ({error})"
        fix = "Open files and connections inside the transform, when it is called."
        faults.append(Fault("augmentation", what, fix))
        return lambda image: image
    copied.p, copied.deterministic = 1.0, False  # ReplayCompose makes its steps deterministic
    copied.set_random_state(np.random.default_rng(0), random.Random(0))
    return lambda image: copied(image=image)["image"]


def _apply(
    function: Callable[[Image], Any], step: Any, forms: Forms, faults: list[Fault]
) -> dict[tuple[Any, ...], tuple[Any, tuple[str, ...]]]:
    after = {}
    for form, (image, names) in forms.items():
        try:
            result = np.asarray(function(image.copy()))
        except Exception as error:  # noqa: BLE001 - a user's transform may raise anything
            reason = str(error).strip().partition("\n")[0] or "no message"
            shape, kind = form
            what = f"{_name(step)} fails on a {kind} image {shape}: "
            what += f"{type(error).__name__}: {reason}"
            if function is step:
                last = traceback.extract_tb(error.__traceback__)[-1]
                what += f" (line {last.lineno} of {last.filename})"
            faults.append(Fault("augmentation", what.rstrip(". "), _FIX))
            result = image
        changed = names if _form(result) == form else (*names, _name(step))
        after[_form(result)] = (result, changed)
    return after


def _form(image: Any) -> tuple[Any, ...]:
    return image.shape, image.dtype.name


def _name(step: Any) -> str:
    return str(getattr(step, "__name__", type(step).__name__))
