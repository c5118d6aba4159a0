"""The network: a backbone and the gender branch of the lineage, answering in months.

Head: global average pooling of the backbone, joined with Dense(32, relu) of gender, then dense
layers, then one number. It is the winner of the RSNA 2017 challenge's (Halabi et al., Radiology
2019;290:498-503) in the form that IvanKosik/bone-age-models gave it around Xception.

Everything that turns pixels into the backbone's range, and its answer into months, is a layer of
the model, so nothing outside it holds a constant that could be lost.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from boneage.errors import Fault, InputError
from boneage.provenance import file_digest

XCEPTION_IMAGENET_FILE = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
XCEPTION_IMAGENET_SHA256 = "e3fa32521ed48ced4af05adc950ab24963c4a00bd42e6825f8b180c65853163c"
XCEPTION_IMAGENET_BYTES = 83_683_744
XCEPTION_SMALLEST = 71  # pixels; keras.applications refuses less


def _xception(image_size: int) -> keras.Model:
    """Chollet, Xception: Deep Learning with Depthwise Separable Convolutions (CVPR 2017)."""
    return keras.applications.Xception(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3)
    )


def _convolution(x: Any, filters: int, kernel: int = 3, strides: int = 1) -> Any:
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def _separable(x: Any, filters: int) -> Any:
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def _mini_xception(image_size: int) -> keras.Model:
    """Xception's entry flow at a fortieth of its size: separable residual blocks, grey input."""
    image = layers.Input((image_size, image_size, 1))
    x = layers.ReLU()(_convolution(image, 32, strides=2))  # (s/2, s/2, 32)
    for filters in (64, 128, 256, 256):  # (s/4, s/4, 64) … (s/32, s/32, 256)
        y = layers.ReLU()(_separable(x, filters))
        y = _separable(y, filters)
        y = layers.MaxPooling2D(3, 2, padding="same")(y)
        x = layers.ReLU()(layers.Add()([_convolution(x, filters, 1, 2), y]))
    return keras.Model(image, x, name="mini_xception")


def _mini_resnet(image_size: int) -> keras.Model:
    """Plain 3 x 3 residual blocks, grey input: more capacity a CPU minute than separable ones.

    He et al., Deep Residual Learning for Image Recognition (CVPR 2016), with the shortcut of
    ResNet-D (He et al., Bag of Tricks, CVPR 2019): pool, then project.
    """
    image = layers.Input((image_size, image_size, 1))
    x = layers.ReLU()(_convolution(image, 32, strides=2))  # (s/2, s/2, 32)
    for filters in (64, 128, 256):  # (s/4, s/4, 64), (s/8, s/8, 128), (s/16, s/16, 256)
        for strides in (2, 1):
            y = layers.ReLU()(_convolution(x, filters, strides=strides))
            y = _convolution(y, filters)
            if strides == 2:
                x = _convolution(layers.AveragePooling2D(2, padding="same")(x), filters, 1)
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(image, x, name="mini_resnet")


BACKBONES: dict[str, Callable[[int], keras.Model]] = {
    "xception": _xception,
    "mini_xception": _mini_xception,
    "mini_resnet": _mini_resnet,
}


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
    age_centre_months: float = 120.0,
    age_scale_months: float = 120.0,
    precision: str = "float32",
) -> keras.Model:
    """Builds the network, not yet compiled.

    Args:
        backbone: A key of `BACKBONES`.
        image_size: Side of the square input, pixels.
        weights: `"none"` for random ones, `"imagenet"` (Xception only; read from
            `$KERAS_HOME/models`, never downloaded) or the path of a weights file for the backbone.
        weights_sha256: What a file named by path must hash to; by default the ImageNet file's.
        gender: Whether the answer may depend on the second input. The input stays either way, so
            a model without it takes the same batches.
        gender_units: Width of the gender branch.
        dense_units: Widths of the dense layers after the two are joined.
        dropout: Share dropped before each of those.
        age_centre_months: What the network's 0 means.
        age_scale_months: What one unit of the network's answer is worth.
        precision: A Keras dtype policy; the last layers are float32 whatever it is, because at
            150 months bfloat16 steps by a whole month.

    Returns:
        A model from `image` float32 (b, image_size, image_size, 1) in [0, 1] and `gender` float32
        (b, 1), 1.0 = male, to `age_months` float32 (b, 1).

    Raises:
        InputError: Unknown backbone, or a weights file that is missing or not the right one.
    """
    if backbone not in BACKBONES:
        raise InputError(
            Fault(
                "model.backbone",
                f"{backbone!r} is not known",
                f"one of {', '.join(BACKBONES)}",
                "Choose one of these in the recipe's [model].",
            )
        )
    if backbone == "xception" and image_size < XCEPTION_SMALLEST:
        raise InputError(
            Fault(
                "image size",
                f"it is {image_size} pixels",
                f"at least {XCEPTION_SMALLEST} for xception",
                "Set framing.size higher, or choose a smaller backbone.",
            )
        )
    path = _weights_path(backbone, weights, weights_sha256)
    with _dtype_policy(precision):
        image = layers.Input((image_size, image_size, 1), name="image")
        gender_input = layers.Input((1,), name="gender")
        network = BACKBONES[backbone](image_size)
        if path is not None:
            _load_weights(network, path)
        x = layers.Rescaling(2.0, offset=-1.0)(image)  # [0, 1] to [-1, 1], Xception's range
        if network.input_shape[-1] == 3:
            x = layers.Concatenate()([x, x, x])  # (b, s, s, 3): the film is grey, ImageNet is not
        x = layers.GlobalAveragePooling2D(name="pooled")(network(x))  # (b, features)
        if gender:
            branch = layers.Dense(gender_units, activation="relu", name="gender_branch")
            x = layers.Concatenate()([x, branch(gender_input)])  # (b, features + gender_units)
        for units in dense_units:
            if dropout:
                x = layers.Dropout(dropout)(x)
            x = layers.Dense(units, activation="relu")(x)
        x = layers.Dense(1, dtype="float32", name="scaled_age")(x)
        age_months = layers.Rescaling(
            age_scale_months, offset=age_centre_months, dtype="float32", name="age_months"
        )(x)
    return keras.Model([image, gender_input], age_months, name=f"{backbone}_bone_age")


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    # keras.applications takes no dtype of its own; the caller's policy is given back untouched.
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _load_weights(network: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers for which the file has nothing, and leaves them random.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(str(path))
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise InputError(
            Fault(
                str(path),
                f"its weights don't fit {network.name}: {str(error).splitlines()[0]}",
                "a .h5 or .weights.h5 file of this backbone alone, without a head",
                "Name another file in model.weights, or 'none'.",
            )
        ) from None


def _weights_path(backbone: str, weights: str, sha256: str | None) -> Path | None:
    if weights == "none":
        return None
    if weights == "imagenet":
        if backbone != "xception":
            raise InputError(
                Fault(
                    "model.weights",
                    f"there are no ImageNet weights for {backbone!r}",
                    "'none' or the path of a weights file",
                    "Use backbone = 'xception', or weights = 'none'.",
                )
            )
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        path = home / "models" / XCEPTION_IMAGENET_FILE
    else:
        path = Path(weights)
    if not path.is_file():
        raise InputError(_missing_weights(path, weights))
    # Keras itself would delete a file whose hash is wrong when it can't download it again.
    digest = file_digest(path)
    if digest != (sha256 or XCEPTION_IMAGENET_SHA256):
        raise InputError(
            Fault(
                str(path),
                f"its sha256 is {digest} ({path.stat().st_size:,} bytes)",
                sha256
                or f"{XCEPTION_IMAGENET_SHA256} ({XCEPTION_IMAGENET_FILE}, "
                f"{XCEPTION_IMAGENET_BYTES:,} bytes)",
                "Fetch it again; for a weights file of your own, put its digest in "
                "model.weights_sha256.",
            )
        )
    return path


def _missing_weights(path: Path, weights: str) -> Fault:
    if weights != "imagenet":
        return Fault(
            f"model.weights {weights!r}",
            "there is no such file",
            "'none', 'imagenet' or the path of a weights file",
            "Mend the path, or train from scratch with --set model.weights=none.",
        )
    return Fault(
        str(path),
        "the weights file is not there",
        f"{XCEPTION_IMAGENET_FILE} of keras.applications, sha256 {XCEPTION_IMAGENET_SHA256}, "
        f"{XCEPTION_IMAGENET_BYTES:,} bytes",
        f"Put it at {path}, or train from scratch with --set model.weights=none.",
    )
