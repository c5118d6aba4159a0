"""Estimate bone age in months from a hand radiograph and the child's sex."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from boneage.errors import InputError
    from boneage.models.builder import build_model
    from boneage.pipeline.generator import DataGenerator
    from boneage.recipe import Augmentation

__all__ = ["Augmentation", "DataGenerator", "InputError", "build_model"]

# Each name is imported when it is first asked for: Keras takes seconds to import.
_HOMES = {
    "Augmentation": "boneage.recipe",
    "DataGenerator": "boneage.pipeline.generator",
    "InputError": "boneage.errors",
    "build_model": "boneage.models.builder",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
