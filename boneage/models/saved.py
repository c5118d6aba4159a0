"""Read the `.keras` files that training writes."""

from __future__ import annotations

from pathlib import Path

import keras

from boneage.errors import Fault, InputError


def load_model(path: Path) -> keras.Model:
    """Return the model in a `.keras` file, ready to predict.

    Raises:
        InputError: This version of Keras can't read the file as a model.
    """
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            Fault(
                str(path),
                f"the model can't be read: {str(error).splitlines()[0]}",
                "Was the file cut short or changed? Copy it again, or train again.",
            )
        ) from None
