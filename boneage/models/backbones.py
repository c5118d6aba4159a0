"""The backbones: what turns a picture into features, the pixels each expects, its weights.

Those of keras.applications are built as they stand there; ImageNet weights for them are read from
a file that is already on this machine, checked, and never downloaded or deleted.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import layers

from boneage.errors import Fault, InputError

# Mean and standard deviation of ImageNet's red, green and blue, of pixels in [0, 1]: what
# keras.applications calls the torch mode of its preprocessing.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsFile:
    """A file of keras.applications' ImageNet weights, without the classifier.

    Attributes:
        name: In `$KERAS_HOME/models`, where Keras itself would put it.
        algorithm: What `digest` is: `sha256`, or `md5` where keras.applications lists nothing else
            and no copy was at hand to hash anew. md5 tells a damaged or wrong file, not one that
            somebody forged; `model.weights_sha256` in the recipe does.
        digest: Of the file's bytes, hexadecimal.
        size: Of the file in bytes, where known.
    """

    name: str
    algorithm: str
    digest: str
    size: int | None = None

    def __str__(self) -> str:
        size = f", {self.size:,} bytes" if self.size else ""
        return f"{self.name} of keras.applications, {self.algorithm} {self.digest}{size}"


@dataclass(frozen=True)
class Backbone:
    """One network without a head.

    Attributes:
        build: Makes it for a square input of so many pixels a side, with random weights.
        range: What it is given: `symmetric`, grey levels in [-1, 1], or `imagenet`, each of three
            equal channels less ImageNet's mean and over its standard deviation.
        smallest: Pixels a side that it takes at least.
        weights: Its ImageNet weights; None where there are none.
    """

    build: Callable[[int], keras.Model]
    range: str = "symmetric"
    smallest: int = 32
    weights: WeightsFile | None = None

    def scaled(self, image: Any, channels: int) -> Any:
        """Brings an image (b, s, s, 1) in [0, 1] into the backbone's range and channels."""
        if self.range == "imagenet":
            image = layers.Concatenate()([image] * channels)  # (b, s, s, 3)
            scale = [1.0 / deviation for deviation in IMAGENET_DEVIATION]
            pairs = zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
            offset = [-mean / deviation for mean, deviation in pairs]
            return layers.Rescaling(scale, offset=offset)(image)
        image = layers.Rescaling(2.0, offset=-1.0)(image)  # [0, 1] to [-1, 1]
        if channels == 1:
            return image
        return layers.Concatenate()([image] * channels)  # the radiograph is grey, ImageNet is not


def _xception(image_size: int) -> keras.Model:
    """Chollet, Xception: Deep Learning with Depthwise Separable Convolutions (CVPR 2017)."""
    return keras.applications.Xception(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3)
    )


def _inception_v3(image_size: int) -> keras.Model:
    """Szegedy et al., Rethinking the Inception Architecture for Computer Vision (CVPR 2016)."""
    return keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3)
    )


def _densenet169(image_size: int) -> keras.Model:
    """Huang et al., Densely Connected Convolutional Networks (CVPR 2017)."""
    return keras.applications.DenseNet169(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3)
    )


def _convolution(
    x: Any, filters: int, kernel: int = 3, strides: int = 1, gamma: str = "ones"
) -> Any:
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, gamma_initializer=gamma)(x)


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


def _small_resnet(image_size: int) -> keras.Model:
    """What fits into a dozen megabytes and takes a GPU to train: `mini_resnet` with more of all.

    One more stage, at half the picture's resolution, where growth plates of a small picture still
    can be seen; squeeze and excitation (Hu et al., CVPR 2018); branches that begin as nothing
    (He et al., Bag of Tricks, CVPR 2019) and are left out at random (Huang et al., Deep Networks
    with Stochastic Depth, ECCV 2016).
    """
    stages = ((48, 2), (96, 2), (192, 3), (288, 2))  # filters, blocks
    number, count = 0, sum(blocks for _, blocks in stages)
    image = layers.Input((image_size, image_size, 1))
    x = layers.ReLU()(_convolution(image, 32, strides=2))  # (s/2, s/2, 32)
    for stage, (filters, blocks) in enumerate(stages):  # (s/2, s/2, 48) … (s/16, s/16, 288)
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(_convolution(x, filters, strides=strides))
            y = _excited(_convolution(y, filters, gamma="zeros"))
            number += 1
            y = layers.Dropout(0.15 * number / count, noise_shape=(None, 1, 1, 1))(y)
            if strides == 2:
                x = layers.AveragePooling2D(2, padding="same")(x)
            if not block:
                x = _convolution(x, filters, 1)
            x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(image, x, name="small_resnet")


def _excited(x: Any) -> Any:
    filters = x.shape[-1]
    weight = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weight = layers.Dense(filters // 8, activation="relu")(weight)
    return layers.Multiply()([x, layers.Dense(filters, activation="sigmoid")(weight)])


BACKBONES: dict[str, Backbone] = {
    "xception": Backbone(
        _xception,
        smallest=71,
        weights=WeightsFile(
            "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "sha256",
            "e3fa32521ed48ced4af05adc950ab24963c4a00bd42e6825f8b180c65853163c",
            83_683_744,
        ),
    ),
    "inception_v3": Backbone(
        _inception_v3,
        smallest=75,
        weights=WeightsFile(
            "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5",
            "bcbd6486424b2319ff4ef7d526e38f63",
        ),
    ),
    "densenet169": Backbone(
        _densenet169,
        range="imagenet",
        weights=WeightsFile(
            "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5",
            "b8c4d4c20dd625c148057b9ff1c1176b",
        ),
    ),
    "mini_xception": Backbone(_mini_xception),
    "mini_resnet": Backbone(_mini_resnet),
    "small_resnet": Backbone(_small_resnet),
}
"""By the name that a recipe calls them."""


def find_backbone(name: str, image_size: int) -> Backbone:
    """The backbone of a name, if it takes images of this size.

    Raises:
        InputError: There is none of that name, or it takes no image so small.
    """
    if name not in BACKBONES:
        raise InputError(
            Fault(
                "model.backbone",
                f"{name!r} is not known",
                "Choose one of these in the recipe's [model].",
                expected=f"one of {', '.join(BACKBONES)}",
            )
        )
    backbone = BACKBONES[name]
    if image_size < backbone.smallest:
        raise InputError(
            Fault(
                "image size",
                f"it is {image_size} pixels",
                "Set framing.size higher, or choose a smaller backbone.",
                expected=f"at least {backbone.smallest} for {name}",
            )
        )
    return backbone


def weights_path(name: str, weights: str, sha256: str | None) -> Path | None:
    """Where a backbone's weights are, once they have been found to be the right ones.

    Args:
        name: A key of `BACKBONES`.
        weights: `none`, `imagenet` or a path.
        sha256: What the file must hash to; if not given, it must be the ImageNet one's.

    Returns:
        The file; None for random weights.

    Raises:
        InputError: There are no ImageNet weights for it, or the file is missing or another.
    """
    if weights == "none":
        return None
    expected = BACKBONES[name].weights
    if weights == "imagenet":
        if expected is None:
            raise InputError(
                Fault(
                    "model.weights",
                    f"there are no ImageNet weights for {name!r}",
                    f"Use weights = 'none', or one of {', '.join(_with_imagenet())}.",
                    expected="'none' or the path of a weights file",
                )
            )
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        path = home / "models" / expected.name
    else:
        path = Path(weights)
    if not path.is_file():
        raise InputError(_missing_weights(path, weights, expected))
    _check_digest(path, expected, sha256)
    return path


def load_weights(network: keras.Model, path: Path) -> None:
    """Gives a backbone the weights of a file that `weights_path` has checked.

    Raises:
        InputError: They are not those of this network.
    """
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
                "Name another file in model.weights, or 'none'.",
                expected="a .h5 or .weights.h5 file of this backbone alone, without a head",
            )
        ) from None


def _check_digest(path: Path, imagenet: WeightsFile | None, sha256: str | None) -> None:
    # Keras itself would delete a file whose hash is wrong when it can't download it again.
    if sha256 is not None:
        algorithm, expected, told = "sha256", sha256, sha256
    elif imagenet is not None:
        algorithm, expected, told = imagenet.algorithm, imagenet.digest, str(imagenet)
    else:
        raise InputError(
            Fault(
                f"model.weights {str(path)!r}",
                "there is no model.weights_sha256 beside it",
                "Add it to the recipe's [model]; sha256sum FILE prints it.",
                expected="the sha256 of that file, because no published weights of this backbone are known",
            )
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    if digest != expected:
        raise InputError(
            Fault(
                str(path),
                f"its {algorithm} is {digest} ({path.stat().st_size:,} bytes)",
                "Fetch it again; for a weights file of your own, put its digest in "
                "model.weights_sha256.",
                expected=told,
            )
        )


def _missing_weights(path: Path, weights: str, expected: WeightsFile | None) -> Fault:
    if weights != "imagenet":
        return Fault(
            f"model.weights {weights!r}",
            "there is no such file",
            "Mend the path, or train from scratch with --set model.weights=none.",
            expected="'none', 'imagenet' or the path of a weights file",
        )
    return Fault(
        str(path),
        "the weights file is not there",
        f"Put it at {path}, or train from scratch with --set model.weights=none.",
        expected=str(expected),
    )


def _with_imagenet() -> list[str]:
    return [name for name, backbone in BACKBONES.items() if backbone.weights is not None]
