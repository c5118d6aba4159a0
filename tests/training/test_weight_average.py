"""Averaged weights: with the moving statistics that fit them, and put back exactly."""

import keras
import numpy as np
import pytest
from keras import layers

from boneage.training.weight_average import WeightAverage, copies

pytestmark = pytest.mark.slow

MOMENTUM = 0.98


@pytest.fixture
def data():
    images = np.random.default_rng(0).random((128, 8, 8, 1), np.float32)
    return images, 100 * images.mean(axis=(1, 2))


def compiled(rate=1e-2, momentum=0.9):
    keras.utils.set_random_seed(0)
    x = image = layers.Input((8, 8, 1))
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(x))
    model = keras.Model(image, layers.Dense(1)(layers.GlobalAveragePooling2D()(x)))
    adam = keras.optimizers.Adam(rate, use_ema=True, ema_momentum=MOMENTUM)
    model.compile(optimizer=adam, loss="mae")
    return model


def statistics(model):
    return [weight for weight in model.weights if "moving_" in weight.name]


def test_every_moving_statistic_is_averaged_like_a_weight(data):
    model = compiled()
    average = WeightAverage(model, statistics=True)
    expected = None
    for start in range(0, 128, 16):
        model.train_on_batch(*(array[start : start + 16] for array in data))
        now = copies(model.weights)
        expected = now if expected is None else expected
        pairs = zip(expected, now, strict=True)
        expected = [MOMENTUM * old + (1 - MOMENTUM) * new for old, new in pairs]
    average.swap_in()
    assert len(statistics(model)) == 4
    for ours, theirs in zip(copies(model.weights), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    average.restore()
    for ours, theirs in zip(copies(model.weights), now, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_averaged_model_is_one_with_reestimated_statistics_to_a_hundredth(data):
    images, target = data[0], data[1] / 10
    trained = compiled()
    trained.fit(images, target, batch_size=32, epochs=60, verbose=0)
    differences = {}
    for averages in (True, False):
        model = compiled()
        model.set_weights(trained.get_weights())
        average = WeightAverage(model, statistics=averages)
        model.fit(images, target, batch_size=32, epochs=50, verbose=0)
        average.swap_in()
        answers = model.predict(images, verbose=0)
        again = compiled(momentum=0.0)  # the statistics of one batch
        again.set_weights(model.get_weights())
        again(images, training=True)
        reestimated = again.predict(images, verbose=0)
        difference = np.linalg.norm(answers - reestimated) / np.linalg.norm(reestimated)
        differences[averages] = difference
    assert differences[True] < 1e-2
    assert differences[True] < differences[False] / 3


def test_without_statistics_they_stay_those_of_the_last_weights(data):
    model = compiled()
    variables = len(model.optimizer.variables)
    average = WeightAverage(model, statistics=False)
    model.train_on_batch(*data)
    model.train_on_batch(*data)
    before = copies(statistics(model))
    weights = copies(model.trainable_weights)
    average.swap_in()
    for ours, theirs in zip(copies(statistics(model)), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any(
        (a != b).any() for a, b in zip(copies(model.trainable_weights), weights, strict=True)
    )
    assert len(model.optimizer.variables) == variables + 3 * len(weights), "as older checkpoints"


def test_a_constant_and_a_seed_are_not_averaged(data):
    image = layers.Input((8, 8, 1))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(image))
    fixed = layers.Dense(1, trainable=False, name="age_months")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(1)(fixed))
    adam = keras.optimizers.Adam(use_ema=True, ema_momentum=MOMENTUM)
    model.compile(optimizer=adam, loss="mae")
    WeightAverage(model, statistics=True)
    names = [each.path for each in adam.variables if each.path.endswith("_average")]
    assert sum("moving_" in name for name in names) == 2
    assert len(names) == 2 + len(model.trainable_weights)
