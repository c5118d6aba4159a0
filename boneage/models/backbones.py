"""The backbones: networks that turn an image into features, and the pixel range each expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from boneage.errors import Fault, InputError

# Mean and standard deviation of ImageNet's red, green and blue for pixels in [0, 1]. In
# keras.applications, this is the preprocessing mode "torch".
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network without a head.

    Attributes:
        build: Builds the network with random weights for a square input of this side in pixels.
        range: Range of the input. `symmetric`: grey levels in [-1, 1]. `imagenet`: three equal
            channels, each minus ImageNet's mean and divided by its standard deviation.
        smallest: Smallest side of the input in pixels.
    """

    build: Callable[[int], keras.Model]
    range: str = "symmetric"
    smallest: int = 32

    def scaled(self, image: Any, channels: int) -> Any:
        """Return an image (b, s, s, 1) in [0, 1] in the backbone's range and channels."""
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


def _from_applications(name: str) -> Callable[[int], keras.Model]:
    """Return a function that builds a network of keras.applications with random weights."""

    def build(image_size: int) -> keras.Model:
        shape = (image_size, image_size, 3)
        network = getattr(keras.applications, name)
        return network(include_top=False, weights=None, input_shape=shape)

    return build


def _convolution(
    x: Any, filters: int, kernel: int = 3, strides: int = 1, gamma: str = "ones"
) -> Any:
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, gamma_initializer=gamma)(x)


def _separable(x: Any, filters: int) -> Any:
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def _mini_xception(image_size: int) -> keras.Model:
    """Build a small Xception: separable residual blocks, grey input, a fortieth of the weights."""
    image = layers.Input((image_size, image_size, 1))
    x = layers.ReLU()(_convolution(image, 32, strides=2))  # (s/2, s/2, 32)
    for filters in (64, 128, 256, 256):  # (s/4, s/4, 64) … (s/32, s/32, 256)
        y = layers.ReLU()(_separable(x, filters))
        y = _separable(y, filters)
        y = layers.MaxPooling2D(3, 2, padding="same")(y)
        x = layers.ReLU()(layers.Add()([_convolution(x, filters, 1, 2), y]))
    return keras.Model(image, x, name="mini_xception")


def _mini_resnet(image_size: int) -> keras.Model:
    """Build plain 3 x 3 residual blocks, grey input: faster on a CPU than separable ones.

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
    """Build a larger `mini_resnet` of 12 megabytes, to be trained on a GPU.

    It has one more stage at half the image's resolution, where the growth plates of a small image
    can still be seen. It uses squeeze and excitation (Hu et al., CVPR 2018). Its branches start at
    zero (He et al., Bag of Tricks, CVPR 2019) and are dropped at random (Huang et al., Deep
    Networks with Stochastic Depth, ECCV 2016).
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
    # Chollet, Xception: Deep Learning with Depthwise Separable Convolutions (CVPR 2017).
    "xception": Backbone(_from_applications("Xception"), smallest=71),
    # Szegedy et al., Rethinking the Inception Architecture for Computer Vision (CVPR 2016).
    "inception_v3": Backbone(_from_applications("InceptionV3"), smallest=75),
    # Huang et al., Densely Connected Convolutional Networks (CVPR 2017).
    "densenet169": Backbone(_from_applications("DenseNet169"), range="imagenet"),
    "mini_xception": Backbone(_mini_xception),
    "mini_resnet": Backbone(_mini_resnet),
    "small_resnet": Backbone(_small_resnet),
}
"""The backbones, by their names in a recipe."""


def find_backbone(name: str, image_size: int) -> Backbone:
    """Return the backbone of a name, after a check that it takes images of this size.

    Raises:
        InputError: The name is unknown, or the images are too small.
    """
    if name not in BACKBONES:
        raise InputError(
            Fault(
                "model.backbone",
                f"{name!r} is not known",
                f"Choose one of {', '.join(BACKBONES)} in the recipe's [model].",
            )
        )
    backbone = BACKBONES[name]
    if image_size < backbone.smallest:
        raise InputError(
            Fault(
                "image size",
                f"it is {image_size} pixels, and {name} needs at least {backbone.smallest}",
                "Set framing.size higher, or choose a smaller backbone.",
            )
        )
    return backbone
