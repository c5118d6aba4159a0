"""The project's own networks without a head: grey input, and fewer weights than Xception."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def _convolution(
    x: Any, filters: int, kernel: int = 3, strides: int = 1, gamma: str = "ones"
) -> Any:
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, gamma_initializer=gamma)(x)


def _separable(x: Any, filters: int) -> Any:
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def mini_xception(image_size: int) -> keras.Model:
    """Build a small Xception: separable residual blocks, grey input, a fortieth of the weights."""
    image = layers.Input((image_size, image_size, 1))
    x = layers.ReLU()(_convolution(image, 32, strides=2))  # (s/2, s/2, 32)
    for filters in (64, 128, 256, 256):  # (s/4, s/4, 64) … (s/32, s/32, 256)
        y = layers.ReLU()(_separable(x, filters))
        y = _separable(y, filters)
        y = layers.MaxPooling2D(3, 2, padding="same")(y)
        x = layers.ReLU()(layers.Add()([_convolution(x, filters, 1, 2), y]))
    return keras.Model(image, x, name="mini_xception")


def mini_resnet(image_size: int) -> keras.Model:
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


def small_resnet(image_size: int) -> keras.Model:
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
