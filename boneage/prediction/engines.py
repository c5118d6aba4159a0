"""Engines: the libraries that compute a network's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from boneage.run import Run

if TYPE_CHECKING:
    import keras


class Engine(Protocol):
    """A trained network, ready to predict."""

    def predict(
        self, images: npt.NDArray[np.float32], gender: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Return the bone age of every image of a batch.

        Args:
            images: float32 (b, size, size, 1) in [0, 1], framed as in training.
            gender: float32 (b, 1), 1.0 = male.

        Returns:
            float64 (b,), months.
        """
        ...


class KerasEngine:
    """A Keras model, computed by the Keras backend."""

    def __init__(self, model: keras.Model) -> None:
        """Hold a model with the inputs `image` and `gender` and the output `age_months`."""
        self._model = model

    def predict(
        self, images: npt.NDArray[np.float32], gender: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Return the bone age of every image of a batch; see `Engine.predict`."""
        months = self._model.predict_on_batch((images, gender))
        return np.asarray(months, dtype=np.float64)[:, 0]


def load_engine(run: Run) -> Engine:
    """Return the engine that computes a run's best model. Keras is imported only here.

    Raises:
        InputError: The model file can't be read.
    """
    from boneage.models.saved import load_model

    return KerasEngine(load_model(run))
