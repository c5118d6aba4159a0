"""What a training minimises: the error in months, or the distance of a distribution from it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from boneage.models.builder import LOGITS, MONTHS
from boneage.recipe import SPREAD_AT_BIRTH, Recipe

_MONTHS_PER_NAT = 10.0  # weight of the cross entropy in the loss of a distribution head


def compile_for_training(
    network: keras.Model, recipe: Recipe, optimizer: keras.optimizers.Optimizer
) -> keras.Model:
    """Compile the model that `fit` trains.

    For a number head, this is the network itself. For a distribution head, it is the network up
    to its logits, with shared weights. The loss is then that of Gao et al. (IJCAI 2018): the
    absolute error of the mean in months, and ten months for each nat of cross entropy with a
    normal distribution around the label. `training.spread_months` is the width of that
    distribution, s. With `training.spread_by_age`, k, the width is min(s, 2 + k * age) months: the
    atlas of Greulich and Pyle has plates every 3 months for infants, and every year later on.

    Returns:
        A compiled model with the inputs of the network. Its metric `mae` is in months.
    """
    if recipe.model.head == "number":
        error = keras.metrics.MeanAbsoluteError(name="mae")
        network.compile(optimizer=optimizer, loss="mae", metrics=[error])
        return network
    model = keras.Model(network.inputs, network.get_layer(LOGITS).output, name=network.name)
    widest, slope = np.float32(recipe.training.spread_months), recipe.training.spread_by_age

    def loss(age_months: Any, logits: Any) -> Any:
        age_months = ops.cast(age_months, "float32")
        spread = ops.minimum(widest, SPREAD_AT_BIRTH + slope * age_months) if slope else widest
        target = ops.softmax(-0.5 * ops.square((MONTHS - age_months) / spread))
        distance = -ops.sum(target * ops.log_softmax(logits), axis=-1)
        return _mean_error(age_months, logits)[:, 0] + _MONTHS_PER_NAT * distance

    mae = keras.metrics.MeanMetricWrapper(_mean_error, name="mae")
    model.compile(optimizer=optimizer, loss=loss, metrics=[mae])
    return model


def _mean_error(age_months: Any, logits: Any) -> Any:
    """Return how far the mean of each distribution is from the label, in months: (b, 1)."""
    months = ops.sum(ops.softmax(logits) * MONTHS, axis=-1, keepdims=True)
    return ops.abs(months - ops.cast(age_months, "float32"))
