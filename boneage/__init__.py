"""Estimate bone age in months from a hand radiograph and the child's sex."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from boneage.errors import InputError
    from boneage.models.builder import build_model
    from boneage.pipeline.generator import DataGenerator
    from boneage.prediction.predict import load
    from boneage.recipe import Augmentation

__all__ = ["Augmentation", "DataGenerator", "InputError", "build_model", "load"]

# Each name is imported when it is first used: Keras takes seconds to import.
_HOMES = {
    "Augmentation": "boneage.recipe",
    "DataGenerator": "boneage.pipeline.generator",
    "InputError": "boneage.errors",
    "build_model": "boneage.models.builder",
    "load": "boneage.prediction.predict",
}


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def _imported_late(name: str) -> property:
    def value(package: types.ModuleType) -> Any:
        try:
            return getattr(importlib.import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            from boneage.runtime.extras import describe_missing

            missing = describe_missing(error)
            if missing is None:
                raise
            raise ModuleNotFoundError(f"boneage.{name}: {missing}", name=error.name) from None

    return property(value)


# Properties, because completion with the tab key fetches every other attribute, but no property.
sys.modules[__name__].__class__ = type(
    "Package", (types.ModuleType,), {name: _imported_late(name) for name in _HOMES}
)
