"""The network: a backbone and the gender branch of the lineage, answering in months.

Head: global average pooling of the backbone, joined with Dense(32, relu) of gender, then dense
layers, then one number. It is the winner of the RSNA 2017 challenge's (Halabi et al., Radiology
2019;290:498-503) in the form that IvanKosik/bone-age-models gave it around Xception; with
`pooling = "flatten"` it is the winner's own, which keeps where in the picture a feature was. With
`head = "distribution"` it ends in a probability for every month, and answers their mean (Gao et
al., Age Estimation Using Expectation of Label Distribution Learning, IJCAI 2018).

Everything that turns pixels into the backbone's range, and its answer into months, is a layer of
the model, so nothing outside it holds a constant that could be lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from boneage.errors import Fault, InputError
from boneage.models.backbones import find_backbone, load_weights, weights_path

MONTHS = np.arange(241, dtype=np.float32)
"""The ages, float32 (241,), that a head of distributions has a probability for: 0 to 20 years."""

LOGITS = "age_logits"


def build_model(
    backbone: str = "xception",
    image_size: int = 299,
    *,
    weights: str = "none",
    weights_sha256: str | None = None,
    gender: bool = True,
    gender_units: int = 32,
    dense_units: Sequence[int] = (1000, 1000),
    dropout: float = 0.0,
    pooling: Literal["average", "flatten"] = "average",
    head: Literal["number", "distribution"] = "number",
    age_centre_months: float = 120.0,
    age_scale_months: float = 120.0,
    precision: str = "float32",
) -> keras.Model:
    """Builds the network, not yet compiled.

    Args:
        backbone: A key of `BACKBONES`.
        image_size: Side of the square input, pixels.
        weights: `"none"` for random ones, `"imagenet"` (of keras.applications; read from
            `$KERAS_HOME/models`, never downloaded) or the path of a weights file for the backbone.
        weights_sha256: What that file must hash to; by default it must be the ImageNet one.
        gender: Whether the answer may depend on the second input. The input stays either way, so
            a model without it takes the same batches.
        gender_units: Width of the gender branch.
        dense_units: Widths of the dense layers after the two are joined.
        dropout: Share dropped before each of those.
        pooling: What becomes of the backbone's feature map (h, w, features): `"average"`, its mean
            over h and w; or `"flatten"`, the means of 2 x 2 places, all of them side by side.
        head: What the dense layers end in: `"number"`, one of them, scaled to months; or
            `"distribution"`, a probability for each of `MONTHS`, and the mean of these.
        age_centre_months: What the 0 of a number means.
        age_scale_months: What one unit of a number is worth.
        precision: A Keras dtype policy; the last layers are float32 whatever it is, because at
            150 months bfloat16 steps by a whole month.

    Returns:
        A model from `image` float32 (b, image_size, image_size, 1) in [0, 1] and `gender` float32
        (b, 1), 1.0 = male, to `age_months` float32 (b, 1).

    Raises:
        InputError: Unknown backbone, an image too small for it or for the pooling, or a weights
            file that is missing or not the right one.
    """
    chosen = find_backbone(backbone, image_size)
    path = weights_path(backbone, weights, weights_sha256)
    with _dtype_policy(precision):
        image = layers.Input((image_size, image_size, 1), name="image")
        gender_input = layers.Input((1,), name="gender")
        network = chosen.build(image_size)
        if path is not None:
            load_weights(network, path)
        x = network(chosen.scaled(image, network.input_shape[-1]))  # (b, h, w, features)
        x = _pooled(x, pooling)  # (b, features), or (b, h/2 * w/2 * features)
        if gender:
            branch = layers.Dense(gender_units, activation="relu", name="gender_branch")
            x = layers.Concatenate()([x, branch(gender_input)])  # (b, features + gender_units)
        for units in dense_units:
            if dropout:
                x = layers.Dropout(dropout)(x)
            x = layers.Dense(units, activation="relu")(x)
        if head == "distribution":
            age_months = _mean_month(layers.Dense(len(MONTHS), dtype="float32", name=LOGITS)(x))
        else:
            x = layers.Dense(1, dtype="float32", name="scaled_age")(x)
            age_months = layers.Rescaling(
                age_scale_months, offset=age_centre_months, dtype="float32", name="age_months"
            )(x)
    model = keras.Model([image, gender_input], age_months, name=f"{backbone}_bone_age")
    if head == "distribution":
        model.get_layer("age_months").set_weights([MONTHS[:, None]])
    return model


def _mean_month(logits: Any) -> Any:
    # Layers of Keras' own only: whoever loads the file needs nothing of this project.
    shares = layers.Softmax(dtype="float32", name="age_distribution")(logits)  # (b, months)
    months = layers.Dense(1, use_bias=False, trainable=False, dtype="float32", name="age_months")
    return months(shares)


def _pooled(features: Any, pooling: str) -> Any:
    if pooling == "average":
        return layers.GlobalAveragePooling2D(name="pooled")(features)
    height, width = features.shape[1:3]
    if min(height, width) < 2:
        raise InputError(
            Fault(
                "model.pooling",
                f"it is 'flatten', and the backbone's feature map is {height} x {width}",
                "Set framing.size higher, or pooling = 'average'.",
                expected="at least 2 x 2 places to average",
            )
        )
    return layers.Flatten(name="pooled")(layers.AveragePooling2D(2)(features))


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    # keras.applications takes no dtype of its own; the caller's policy is given back untouched.
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
