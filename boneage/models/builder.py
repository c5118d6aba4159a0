"""The network: a backbone, a branch for the sex (`gender`) and a head that answers in months.

Head: global average pooling of the backbone, joined with Dense(32, relu) of gender, then dense
layers, then one number. This is the head of the RSNA 2017 winner (Halabi et al., Radiology
2019;290:498-503), in the form that IvanKosik/bone-age-models gave it with Xception. With
`pooling = "flatten"`, it is the winner's own head, which keeps the position of a feature. With
`head = "distribution"`, it gives a probability for each month and answers their mean (Gao et al.,
Age Estimation Using Expectation of Label Distribution Learning, IJCAI 2018).

Scaling pixels to the backbone's range, and its answer to months, is done by layers of the model.
So no constant outside the model can be lost.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from boneage.errors import Fault, InputError
from boneage.models.backbones import find_backbone
from boneage.models.pretrained import find_weights, load_weights
from boneage.recipe import Model
from boneage.runtime.machine import check_memory
from boneage.runtime.schemas import shown

MONTHS = np.arange(241, dtype=np.float32)
"""The ages, float32 (241,), for which a distribution head gives a probability: 0 to 20 years."""

LOGITS = "age_logits"

_BYTES_BUILT = 8  # of a parameter: its value, and the random numbers it is made from


def build_model(
    backbone: str = "xception",
    image_size: int = 299,
    *,
    weights: str = "none",
    weights_sha256: str | None = None,
    drop_path: float = 0.0,
    gender: bool = True,
    gender_units: int = 32,
    gender_by: Literal["concatenate", "film"] = "concatenate",
    dense_units: Sequence[int] = (1000, 1000),
    dropout: float = 0.0,
    pooling: Literal["average", "flatten"] = "average",
    head: Literal["number", "distribution"] = "number",
    age_centre_months: float = 120.0,
    age_scale_months: float = 120.0,
    precision: str = "float32",
) -> keras.Model:
    """Build the network, not yet compiled.

    Args:
        backbone: As the key `model.backbone` of a recipe.
        image_size: Side of the square input, pixels.
        weights: Weights of the backbone. `"none"`: random. `"imagenet"`: those of
            keras.applications, read from `$KERAS_HOME/models` and never downloaded. Or the path
            of a weights file.
        weights_sha256: SHA-256 of that file. Default: it must be the ImageNet file.
        drop_path: Probability that an image skips the last residual branch in training. It grows
            linearly from 0 at the first branch.
        gender: Whether the answer may depend on the second input. A model without it takes the
            same batches.
        gender_units: Width of the gender branch.
        gender_by: How the gender branch enters. `"concatenate"`: next to the pooled features.
            `"film"`: as a scale and a shift of each of them, at first 1 and 0 (Perez et al., AAAI
            2018).
        dense_units: Widths of the dense layers after the branches are joined.
        dropout: Rate of dropout before each dense layer.
        pooling: Pooling of the backbone's feature map (h, w, features). `"average"`: the mean over
            h and w. `"flatten"`: the means of 2 x 2 positions, flattened.
        head: End of the dense layers. `"number"`: one number, scaled to months. `"distribution"`:
            a probability for each of 0 to 240 months, and their mean.
        age_centre_months: Age that the number 0 stands for.
        age_scale_months: Months per unit of the number.
        precision: A Keras dtype policy. The last layers are always float32, because bfloat16 has
            steps of a whole month at 150 months.

    Returns:
        A model from `image` float32 (b, image_size, image_size, 1) in [0, 1] and `gender` float32
        (b, 1), 1.0 = male, to `age_months` float32 (b, 1).

    Raises:
        InputError: The backbone is unknown, or a setting is out of bounds. The image is too small
            for the backbone or the pooling. The weights file is missing or has another digest. The
            head does not fit into memory.
    """
    _check_size(image_size)
    checked = Model(
        backbone=backbone,
        weights=os.fspath(weights) if isinstance(weights, os.PathLike) else weights,
        weights_sha256=weights_sha256,
        drop_path=drop_path,
        gender=gender,
        gender_units=gender_units,
        gender_by=gender_by,
        dense_units=dense_units,  # type: ignore[arg-type]
        dropout=dropout,
        pooling=pooling,
        head=head,
        age_centre_months=age_centre_months,
        age_scale_months=age_scale_months,
    )
    chosen = find_backbone(backbone, image_size, checked.drop_path)
    path = find_weights(backbone, checked.weights, weights_sha256)
    with _dtype_policy(precision):
        image = layers.Input((image_size, image_size, 1), name="image")
        gender_input = layers.Input((1,), name="gender")  # the child's sex, 1.0 = male
        network = chosen.build(image_size)
        if path is not None:
            load_weights(network, path)
        network = chosen.adapted(network, checked.drop_path)
        x = network(chosen.scaled(image, network.input_shape[-1]))  # (b, h, w, features)
        x = _pool(x, pooling)  # (b, features), or (b, h/2 * w/2 * features)
        widths = [x.shape[-1] + checked.gender_units, *checked.dense_units, len(MONTHS)]
        values = network.count_params() + sum(a * b for a, b in itertools.pairwise(widths))
        if checked.gender_by == "film":
            values += 2 * checked.gender_units * x.shape[-1]
        fix = "Set model.dense_units or model.gender_units lower, or use pooling = 'average'."
        check_memory(_BYTES_BUILT * values, "model", f"a network of {values:,} parameters", fix)
        if checked.gender:
            branch = layers.Dense(checked.gender_units, activation="relu", name="gender_branch")
            x = _joined(x, branch(gender_input), checked.gender_by)
        for units in checked.dense_units:
            if checked.dropout:
                x = layers.Dropout(checked.dropout)(x)
            x = layers.Dense(units, activation="relu")(x)
        age_months = _age_months(x, checked)
    name = re.sub(r"[^A-Za-z0-9_.]", "_", f"{backbone}_bone_age")  # TensorFlow takes no other
    model = keras.Model([image, gender_input], age_months, name=name)
    if head == "distribution":
        model.get_layer("age_months").set_weights([MONTHS[:, None]])
    return model


def _joined(features: Any, branch: Any, gender_by: str) -> Any:
    if gender_by == "concatenate":
        return layers.Concatenate()([features, branch])  # (b, features + gender_units)
    scale, shift = (
        layers.Dense(
            features.shape[-1], kernel_initializer="zeros", bias_initializer=bias, name=name
        )(branch)
        for name, bias in (("gender_scale", "ones"), ("gender_shift", "zeros"))
    )
    return layers.Add(name="by_gender")([layers.Multiply()([features, scale]), shift])


def _age_months(features: Any, settings: Model) -> Any:
    if settings.head == "distribution":
        return _mean_month(layers.Dense(len(MONTHS), dtype="float32", name=LOGITS)(features))
    scaled = layers.Dense(1, dtype="float32", name="scaled_age")(features)
    scale, centre = settings.age_scale_months, settings.age_centre_months
    return layers.Rescaling(scale, centre, dtype="float32", name="age_months")(scaled)


def _mean_month(logits: Any) -> Any:
    # Only layers of Keras, so that the saved file loads without this package.
    shares = layers.Softmax(dtype="float32", name="age_distribution")(logits)  # (b, months)
    months = layers.Dense(1, use_bias=False, trainable=False, dtype="float32", name="age_months")
    return months(shares)


def _check_size(image_size: Any) -> None:
    if not isinstance(image_size, Integral):
        fix = "Pass the side of the square images in pixels, a whole number."
        raise InputError(Fault("image_size", f"it is {shown(image_size)}", fix))


def _pool(features: Any, pooling: str) -> Any:
    if pooling == "average":
        return layers.GlobalAveragePooling2D(name="pooled")(features)
    height, width = features.shape[1:3]
    if min(height, width) < 2:
        what = f"it is 'flatten', but the backbone's feature map is only {height} x {width}"
        fix = "Set framing.size higher, or use pooling = 'average'."
        raise InputError(Fault("model.pooling", what, fix))
    return layers.Flatten(name="pooled")(layers.AveragePooling2D(2)(features))


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    # keras.applications takes no dtype, so the global policy is set and then restored.
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
