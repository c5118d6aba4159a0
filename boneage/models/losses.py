"""What a training makes small: the error in months, or with it how far a distribution is off."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from boneage.models.builder import LOGITS, MONTHS
from boneage.recipe import Recipe

_WEIGHT_MONTHS = 10.0  # what a nat of the distribution's distance is worth


def trained_part(
    network: keras.Model, recipe: Recipe, optimizer: keras.optimizers.Optimizer
) -> keras.Model:
    """Compiles what is fitted: the network, or with a head of distributions what leads up to it.

    Of a distribution the loss is that of Gao et al. (IJCAI 2018): the absolute error of its mean,
    in months, and ten months for each nat of cross entropy with a normal distribution around the
    label, `training.spread_months` wide. The network shares all weights with what is returned.

    Returns:
        A compiled model of the same inputs; its metric `mae` is in months.
    """
    if recipe.model.head == "number":
        error = keras.metrics.MeanAbsoluteError(name="mae")
        network.compile(optimizer=optimizer, loss="mae", metrics=[error])
        return network
    model = keras.Model(network.inputs, network.get_layer(LOGITS).output, name=network.name)
    spread = recipe.training.spread_months

    def loss(age_months: Any, logits: Any) -> Any:
        age_months = ops.cast(age_months, "float32")
        likely = ops.softmax(-0.5 * ops.square((MONTHS - age_months) / np.float32(spread)))
        distance = -ops.sum(likely * ops.log_softmax(logits), axis=-1)
        return _error(age_months, logits)[:, 0] + _WEIGHT_MONTHS * distance

    mae = keras.metrics.MeanMetricWrapper(_error, name="mae")
    model.compile(optimizer=optimizer, loss=loss, metrics=[mae])
    return model


def _error(age_months: Any, logits: Any) -> Any:
    """Months that the mean of each distribution is off: (b, 1)."""
    months = ops.sum(ops.softmax(logits) * MONTHS, axis=-1, keepdims=True)
    return ops.abs(months - ops.cast(age_months, "float32"))
