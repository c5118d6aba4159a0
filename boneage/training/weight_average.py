"""Average weights over the training steps, for the validation and the best model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


class WeightAverage:
    """The averages of a compiled model's weights, which `swap_in` puts into the model.

    Keras' optimizers average the trainable weights. Averaged weights give other activations than
    the last ones, so BatchNorm's moving statistics don't fit them. With `statistics`, the training
    step averages these too, with the same momentum. The averages are variables of the optimizer,
    so that a checkpoint holds them.

    Args:
        model: A compiled model, before its first step. Its optimizer averages weights.
        statistics: Whether the moving statistics are averaged.
    """

    def __init__(self, model: keras.Model, *, statistics: bool) -> None:
        optimizer = model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
        self._model, self._optimizer = model, optimizer
        self._statistics: list[keras.Variable] = []
        self._averages: list[keras.Variable] = []
        self._raw: list[np.ndarray] | None = None  # while the averages are in the model
        if statistics:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            constant = model.non_trainable_weights
            self._statistics = [each for each in constant if each.name.startswith("moving_")]
            self._averages = optimizer.add_optimizer_variables(self._statistics, "average")
            own = self._jax_step if keras.backend.backend() == "jax" else self._step
            model.train_step = own(model.train_step)

    def swap_in(self) -> None:
        """Put the averages into the model."""
        # Keras' SwapEMAWeights swaps by adding and subtracting, which is not exact.
        weights = self._weights()
        averages = copies([*self._optimizer._model_variables_moving_average, *self._averages])
        self._raw = copies(weights)
        for weight, average in zip(weights, averages, strict=True):
            weight.assign(average)

    def restore(self) -> None:
        """Put the weights back that the averages replaced, if they did."""
        if self._raw is not None:
            for weight, array in zip(self._weights(), self._raw, strict=True):
                weight.assign(array)
            self._raw = None

    def _weights(self) -> list[keras.Variable]:
        if keras.backend.backend() == "jax":  # the variables have no value during `fit`
            self._model.jax_state_sync()
        return [*self._model.trainable_variables, *self._statistics]

    def _averaged(self, average: Any, value: Any, steps: Any) -> Any:
        """Return an average after one more step, as Keras' optimizer averages weights."""
        rate = ops.where(steps <= 1, 1.0, 1.0 - self._optimizer.ema_momentum)
        return average + ops.cast(rate, average.dtype) * (value - average)

    def _step(self, step: Any) -> Any:
        def own_step(data: Any) -> Any:
            logs = step(data)
            for average, value in zip(self._averages, self._statistics, strict=True):
                average.assign(self._averaged(average, value, self._optimizer.iterations))
            return logs

        return own_step

    def _jax_step(self, step: Any) -> Any:
        """Return the step on JAX, which takes and returns the values of all variables."""
        model = self._model

        def own_step(state: Any, data: Any) -> Any:
            logs, (trainable, others, optimizer, metrics) = step(state, data)
            place = {id(each): i for i, each in enumerate(model.optimizer.variables)}
            source = {id(each): i for i, each in enumerate(model.non_trainable_variables)}
            optimizer = list(optimizer)
            steps = optimizer[place[id(self._optimizer.iterations)]]
            for average, value in zip(self._averages, self._statistics, strict=True):
                at = place[id(average)]
                now = others[source[id(value)]]
                optimizer[at] = self._averaged(optimizer[at], now, steps)
            return logs, (trainable, others, optimizer, metrics)

        return own_step


def copies(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Return the values of variables. JAX reuses the memory of a step's weights in the next."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]
