"""Bone age in months from a hand radiograph and the sex, with an honest error beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from boneage.models.builder import build_model
    from boneage.pipeline.generator import DataGenerator

__all__ = ["DataGenerator", "build_model"]


def __getattr__(name: str) -> Any:
    # Keras takes seconds to import; `boneage --help` answers at once because nobody asks for it.
    if name == "DataGenerator":
        from boneage.pipeline.generator import DataGenerator

        return DataGenerator
    if name == "build_model":
        from boneage.models.builder import build_model

        return build_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
