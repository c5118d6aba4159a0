"""tf.data: images decoded once and cached in memory, augmented by Keras' preprocessing layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from boneage.recipe import Augmentation
from experiments.throughput.benchmark.contenders import Setting

DISTINCT = 2_048  # cached images, as many as the rows of the store


def batches(setting: Setting) -> Iterator[Any]:
    """Yield images, float32 `(b, size, size, 1)` in [0, 1]."""
    names = [setting.pictures[i % len(setting.pictures)] for i in range(DISTINCT)]
    policy = _layers(Augmentation(), setting.seed)

    def decode(name: Any) -> Any:
        image = tf.io.decode_png(tf.io.read_file(name), channels=1)
        return tf.ensure_shape(image, (setting.size, setting.size, 1))

    def augment(images: Any) -> Any:
        images = tf.cast(images, tf.float32) / 255.0
        for layer in policy:
            images = layer(images, training=True)
        return tf.clip_by_value(images, 0.0, 1.0)

    cached = tf.data.Dataset.from_tensor_slices(names)
    cached = cached.map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
    for _ in cached:  # one pass fills the cache
        pass
    column = np.zeros((setting.batch, 1), np.float32)
    served = (
        cached.shuffle(DISTINCT, seed=setting.seed)
        .repeat()
        .batch(setting.batch, drop_remainder=True)
        .map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .map(lambda images: ((images, column), column))
        .prefetch(tf.data.AUTOTUNE)
    )
    for (images, _), _ in served:
        yield images


def _layers(settings: Augmentation, seed: int) -> list[keras.layers.Layer]:
    """Return Keras' nearest layers to the policy, without gamma and optical distortion."""
    turn = settings.rotate_degrees / 360.0
    low, high = settings.scale
    fill = {"fill_mode": "constant", "fill_value": 0.0, "interpolation": "bilinear"}
    return [
        keras.layers.RandomTranslation(settings.shift, settings.shift, seed=seed, **fill),
        keras.layers.RandomZoom((low - 1.0, high - 1.0), seed=seed + 1, **fill),
        keras.layers.RandomRotation(turn, seed=seed + 2, **fill),
        keras.layers.RandomFlip("horizontal", seed=seed + 3),
        keras.layers.RandomBrightness(0.2, value_range=(0.0, 1.0), seed=seed + 4),
        keras.layers.RandomContrast(0.2, value_range=(0.0, 1.0), seed=seed + 5),
        keras.layers.RandomSharpness(0.5, value_range=(0.0, 1.0), seed=seed + 6),
    ]
