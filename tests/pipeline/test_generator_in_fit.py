"""What Keras really trains on: the generator's batches, in its order, in every epoch."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest

from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.keras_adapter import InOrderAdapter
from boneage.recipe import Augmentation

SIZE = 16
WAYS = {
    "in the main thread": {"workers": 1},
    "4 threads, short queue": {"workers": 4, "max_queue_size": 1},
    "2 processes": {"workers": 2, "use_multiprocessing": True},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

pytestmark = pytest.mark.slow


def make(count: int = 23, **changes: Any) -> DataGenerator:
    images = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)
    given: dict[str, Any] = {
        "batch_size": 4,
        "shuffle": True,
        "augmentation": Augmentation(),
        "seed": 3,
    }
    gender, age_months = np.arange(count) % 2, np.arange(count) * 10
    return DataGenerator(images, gender, age_months, **{**given, **changes})


def as_bytes(batch: Any) -> bytes:
    (image, gender), age_months = batch
    return b"".join(np.asarray(array).tobytes() for array in (image, gender, age_months))


def expected(epochs: range, generator: DataGenerator | None = None) -> list[bytes]:
    generator = make() if generator is None else generator
    served = []
    for generator.epoch in epochs:
        served += [as_bytes(batch) for batch in generator]
    return served


class Recorder(keras.Model):
    """A model that remembers what it was trained and evaluated on."""

    trained: list[bytes]
    tested: list[bytes]

    def train_step(self, data: Any) -> dict[str, Any]:
        self.trained.append(as_bytes(data))
        return {"loss": 0.0}

    def test_step(self, data: Any) -> dict[str, Any]:
        self.tested.append(as_bytes(data))
        return {"loss": 0.0}


def network(kind: type[keras.Model] = keras.Model) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 1), name="image")
    gender = keras.Input((1,), name="gender")
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(image), gender])
    return kind([image, gender], keras.layers.Dense(1, name="age_months")(joined))


def recorder() -> Recorder:
    model: Recorder = network(Recorder)
    model.trained, model.tested = [], []
    model.compile(loss="mae", run_eagerly=True)
    return model


@every_way
def test_fit_trains_on_the_batches_of_every_epoch(way: dict[str, Any]) -> None:
    model, train, held_out = recorder(), make(**way), make(7, shuffle=False, augmentation=None)
    model.fit(train, validation_data=held_out, epochs=3, shuffle=False, verbose=0)
    assert model.trained == expected(range(3))
    assert train.epoch == 3

    # Validation, evaluation and prediction leave the training's epochs alone.
    plain = expected(range(1), make(7, shuffle=False, augmentation=None))
    assert model.tested == plain * 3
    model.evaluate(held_out, verbose=0)
    model.predict(held_out, verbose=0)
    model.fit(train, validation_data=held_out, epochs=2, shuffle=False, verbose=0)
    assert model.trained == expected(range(5))


def test_a_resumed_fit_continues_where_the_first_ended() -> None:
    model, train = recorder(), make(workers=4)
    train.epoch = 2
    model.fit(train, initial_epoch=2, epochs=4, shuffle=False, verbose=0)
    assert model.trained == expected(range(2, 4))


def test_fit_s_own_shuffle_changes_nothing() -> None:
    model, train = recorder(), make(workers=4)
    before = random.getstate()
    model.fit(train, epochs=2, verbose=0)
    assert random.getstate() == before
    assert model.trained == expected(range(2))


def test_an_epoch_ends_without_a_wait() -> None:
    # As Keras' own adapter has it, tf.data's tuning or a queue holds up the end of each.
    train = make()
    adapter = InOrderAdapter(train)
    dataset = adapter.get_tf_dataset()
    assert not dataset.options().autotune.enabled
    assert [as_bytes(batch) for batch in dataset] == expected(range(1))


def test_batches_are_handed_over_without_a_copy() -> None:
    served = []

    class Noted(DataGenerator):
        def __getitem__(self, index: Any) -> Any:
            served.append(super().__getitem__(index))
            return served[-1]

    images = np.zeros((4, 64, 64), np.uint8)
    noted = Noted(images, ["F"] * 4, [100.0] * 4, 4)
    adapter = InOrderAdapter(noted)
    for batch in adapter.get_tf_dataset():
        served[-1][0][0][0, 0, 0, 0] = 0.5
        assert float(batch[0][0][0, 0, 0, 0]) == 0.5


def test_an_epoch_that_was_broken_off_is_not_repeated() -> None:
    model, train = recorder(), make()

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(train, epochs=2, shuffle=False, verbose=0, callbacks=[Stop()])
    model.fit(train, epochs=1, shuffle=False, verbose=0)
    assert model.trained == expected(range(1))[:3] + expected(range(1, 2))


@pytest.mark.parametrize(("inputs", "named"), [("list", False), ("list", True), ("dict", True)])
def test_plain_fit_evaluate_and_predict(inputs: str, named: bool) -> None:
    model = network()
    if inputs == "dict":
        model = keras.Model({tensor.name: tensor for tensor in model.inputs}, model.output)
    model.compile(loss="mae", metrics=["mae"])
    history = model.fit(make(named=named), validation_data=make(7, named=named), verbose=0)
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae"}
    assert model.evaluate(make(7, named=named), verbose=0)[0] > 0
    assert model.predict(make(7, named=named), verbose=0).shape == (7, 1)
    without_ages = DataGenerator(np.full((7, SIZE, SIZE), 9, np.uint8), ["M"] * 7, named=named)
    assert model.predict(without_ages, verbose=0).shape == (7, 1)


def test_prediction_keeps_the_order() -> None:
    levels = np.arange(23, dtype=np.uint8)
    images = np.repeat(levels, SIZE * SIZE).reshape(-1, SIZE, SIZE)
    image = keras.Input((SIZE, SIZE, 1), name="image")
    gender = keras.Input((1,), name="gender")
    brightness = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model([image, gender], keras.layers.Add()([brightness, gender]))
    generator = DataGenerator(images, levels % 2, batch_size=4, workers=4)
    answer = model.predict(generator, verbose=0)[:, 0]
    assert np.allclose(answer, levels / 255 + levels % 2)


@pytest.mark.parametrize("way", [WAYS["in the main thread"], WAYS["4 threads, short queue"]])
def test_an_error_in_an_augmentation_reaches_the_user(way: dict[str, Any]) -> None:
    called: list[Any] = []

    def fail(image: Any) -> Any:
        called.append(image)
        if len(called) > 1:  # it is tried once when the generator is made
            raise ZeroDivisionError("what the user did")
        return image

    model = recorder()
    with pytest.raises(ZeroDivisionError, match="what the user did"):
        model.fit(make(augmentation=fail, **way), verbose=0)
