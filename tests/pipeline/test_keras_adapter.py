"""What `fit`, `evaluate` and `predict` do with a generator: arguments, passes, subclasses, ends."""

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import psutil
import pytest

from boneage.errors import InputError
from boneage.models.builder import build_model
from boneage.models.losses import compile_for_training
from boneage.pipeline.generator import DataGenerator, EpochRemainder
from boneage.pipeline.keras_adapter import InOrderAdapter
from boneage.recipe import Augmentation, recipe_from_values

SIZE = 16
WAYS: dict[str, dict[str, Any]] = {
    "one worker": {"workers": 1},
    "threads": {"workers": 3, "max_queue_size": 2},
    "processes": {"workers": 2, "use_multiprocessing": True},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),  # Keras, of `steps_per_epoch`
    pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX"),
]


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """Leave what is imported out of garbage collections, which take a second with it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def make(count: int = 20, kind: type[DataGenerator] = DataGenerator, **changes: Any) -> Any:
    """Return a generator whose images have their row as grey level."""
    rows = np.arange(count)
    images = np.broadcast_to(rows.astype(np.uint8)[:, None, None], (count, SIZE, SIZE))
    given = {"batch_size": 4, "shuffle": True, "seed": 3, **changes}
    return kind(images, rows % 2, rows % 24 * 10, **given)


def rows_of(image: Any) -> list[int]:
    return np.rint(np.asarray(image)[:, 0, 0, 0] * 255).astype(int).tolist()


class Watcher(keras.Model):
    """A model that remembers which rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[list[int]] = []
        self.tested: list[list[int]] = []
        self.compile(loss="mae", run_eagerly=True)

    def train_step(self, data: Any) -> dict[str, Any]:
        self.trained.append(rows_of(data[0][0]))
        return {"loss": 0.0}

    def test_step(self, data: Any) -> dict[str, Any]:
        self.tested.append(rows_of(data[0][0]))
        return {"loss": 0.0}


def network(size: int = SIZE, channels: int = 1, more: int = 0) -> keras.Model:
    inputs = [keras.Input((size, size, channels), name="image"), keras.Input((1,), name="gender")]
    inputs += [keras.Input((more,))] if more else []
    pooled = keras.layers.GlobalAveragePooling2D()(inputs[0])
    joined = keras.layers.Concatenate()([pooled, *inputs[1:]])
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="ones")(joined))
    model.compile("sgd", "mae", metrics=["mae"])
    return model


def order(epochs: range, **changes: Any) -> list[list[int]]:
    generator, served = make(**changes), []
    for generator.epoch in epochs:
        served += [rows_of(batch[0][0]) for batch in generator]
    return served


# --- The epoch belongs to the pass.


@every_way
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_steps_per_epoch_cuts_no_pass(way: dict[str, Any], steps: int | None) -> None:
    model = Watcher()
    with make(**way) as generator:
        model.fit(generator, epochs=10, steps_per_epoch=steps, verbose=0)
    assert model.trained == order(range(11))[: len(model.trained)]
    for start in range(0, len(model.trained) - 4, 5):
        assert sorted(itertools.chain(*model.trained[start : start + 5])) == list(range(20))


@every_way
def test_every_fit_takes_the_next_epoch_also_after_a_pass_that_was_cut(way: dict[str, Any]) -> None:
    model = Watcher()
    with make(**way) as generator:
        model.fit(generator, epochs=1, steps_per_epoch=2, verbose=0)
        model.fit(generator, epochs=2, verbose=0)
        assert generator.epoch == 3
        generator.epoch = 7
        model.fit(generator, initial_epoch=7, epochs=8, verbose=0)
        assert generator.epoch == 8
    assert model.trained == [*order(range(1))[:2], *order(range(1, 3)), *order(range(7, 8))]


@every_way
def test_validation_steps_do_not_change_the_training_s_order(way: dict[str, Any]) -> None:
    model = Watcher()
    with make(**way) as generator:
        held_out = make(12, shuffle=False)
        settings: dict[str, Any] = {"validation_steps": 2, "steps_per_epoch": 4}
        model.fit(generator, validation_data=held_out, epochs=5, verbose=0, **settings)
    assert model.trained == order(range(3))[:14]  # Keras: 4 steps, then the fifth, then 4
    assert model.tested == order(range(1), count=12, shuffle=False)[:2] * 5


def test_a_callback_that_sets_the_epoch_does_not_change_the_present_pass() -> None:
    model, generator = Watcher(), make(workers=3)
    jump = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(generator, "epoch", 40) if batch == 1 else 0
    )
    model.fit(generator, verbose=0, callbacks=[jump])
    assert model.trained == order(range(1))
    assert generator.epoch == 40


def test_evaluate_and_predict_take_passes_too() -> None:
    model, generator = Watcher(), make()
    model.evaluate(generator, verbose=0)
    model.evaluate(generator, steps=2, verbose=0)
    model.evaluate(generator, verbose=0)
    assert model.tested == [*order(range(1)), *order(range(1, 2))[:2], *order(range(2, 3))]
    assert network().predict(generator, verbose=0).shape == (20, 1)
    assert generator.epoch == 4


def test_the_rest_of_an_epoch_is_a_pass_of_its_own() -> None:
    model, generator = Watcher(), make(workers=3)
    generator.epoch = 2
    model.fit(EpochRemainder(generator, 3), verbose=0)
    assert generator.epoch == 3
    model.fit(generator, verbose=0)
    assert model.trained == [*order(range(2, 3))[3:], *order(range(3, 4))]


def test_a_dataset_around_a_generator_passes_epochs_on() -> None:
    class Around(keras.utils.PyDataset):
        def __init__(self, inner: DataGenerator) -> None:
            super().__init__()
            self.inner = inner
            self.on_epoch_begin = inner.on_epoch_begin
            self.on_epoch_end = inner.on_epoch_end

        def __len__(self) -> int:
            return len(self.inner)

        def __getitem__(self, index: int) -> Any:
            return self.inner[index]

    model = Watcher()
    model.fit(Around(make()), epochs=3, shuffle=False, verbose=0)
    assert model.trained == order(range(3))


@pytest.mark.parametrize("count", [1, 4, 6, 20])
def test_a_loop_of_one_s_own_ends_its_epochs(count: int) -> None:
    def batches(way: str) -> Iterator[Any]:
        if way == "next":
            return (next(generator) for _ in range(len(generator)))
        numbers = range(len(generator))
        return iter(generator) if way == "iteration" else (generator[i] for i in numbers)

    expected = order(range(3), count=count)
    for way in ("iteration", "index", "next"):
        generator, served = make(count), []
        generator.on_epoch_end()  # as tutorials call it in __init__
        for _ in range(3):
            served += [rows_of(image) for (image, _), _ in batches(way)]
            generator.on_epoch_end()
        assert (served, generator.epoch) == (expected, 3)
    network().fit(generator, epochs=2, verbose=0)
    assert generator.epoch == 5


# --- What Keras refuses, and weights.


@pytest.mark.parametrize("extra", [{"y": np.ones(20)}, {"sample_weight": np.ones(20)}])
@pytest.mark.parametrize("verb", ["fit", "evaluate"])
def test_keras_refuses_what_it_refuses_with_any_dataset(verb: str, extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="should not be passed"):
        getattr(network(), verb)(make(), verbose=0, **extra)


def test_keras_refuses_targets_beside_a_validation_generator() -> None:
    with pytest.raises(ValueError, match="should not be passed"):
        network().fit(make(), validation_data=(make(), np.ones(20)), verbose=0)


def test_class_weights_count_as_with_any_dataset() -> None:
    class Plain(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            return make(shuffle=False)[index]

    losses = []
    for dataset in (Plain(), make(shuffle=False)):
        history = network().fit(dataset, class_weight={20: 5.0}, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]
    plain = network().fit(make(shuffle=False), verbose=0).history["loss"]
    assert losses[1] != plain
    with pytest.raises(ValueError, match="at the same time"):
        network().fit(make(sample_weight=np.ones(20)), class_weight={0: 1.0}, verbose=0)


@pytest.mark.parametrize(("way", "named"), [(WAYS["threads"], False), (WAYS["processes"], True)])
def test_sample_weights_weight_the_loss(way: dict[str, Any], named: bool) -> None:
    weights = np.random.default_rng(0).uniform(0, 3, 20)
    model = network()
    if named:
        names = {"image": model.inputs[0], "gender": model.inputs[1]}
        model = keras.Model(names, model.output)
        model.compile("sgd", "mae", weighted_metrics=["mae"])
    with make(sample_weight=weights, named=named, batch_size=20, **way) as generator:
        (inputs,) = make(batch_size=20, shuffle=False, named=named)[0][:1]
        errors = np.abs(np.arange(20) * 10 - model.predict_on_batch(inputs)[:, 0])
        loss = model.evaluate(generator, verbose=0)[0]
        assert loss == pytest.approx(np.mean(errors * weights), rel=1e-4)
        assert model.fit(generator, verbose=0).history["loss"] == [pytest.approx(loss, rel=1e-4)]


# --- Subclasses.


class Extended(DataGenerator):
    """Serves a third input, colour and weights."""

    def __getitem__(self, index: Any) -> Any:
        (image, gender), months = super().__getitem__(index)
        third = np.tile(months / 100, 2)
        weights = np.ones(len(months)) * (1 + self.epoch)
        return (np.repeat(image, 3, axis=-1), gender, third), months, weights


@pytest.mark.parametrize("way", [WAYS["threads"], WAYS["processes"]])
def test_a_subclass_serves_a_third_input_colour_and_weights(way: dict[str, Any]) -> None:
    with make(22, Extended, **way) as generator:
        held_out = make(7, Extended)
        history = network(channels=3, more=2).fit(
            generator, validation_data=held_out, epochs=2, verbose=0
        )
        assert all(map(np.isfinite, history.history["loss"] + history.history["val_loss"]))
        seen = [
            batch[2][0] for _ in range(2) for batch in InOrderAdapter(generator)._get_iterator()
        ]
    assert seen == [3.0] * 6 + [4.0] * 6, "epoch is that of the pass"


def test_a_subclass_adds_metadata_of_the_right_images() -> None:
    metadata = np.arange(22.0)[:, None] * 7

    class WithMetadata(DataGenerator):
        def __getitem__(self, index: Any) -> Any:
            (image, gender), months = super().__getitem__(index)
            return (image, gender, metadata[self.batch_rows(index)]), months

    for way in WAYS.values():
        with make(22, WithMetadata, **way) as generator:
            adapter = InOrderAdapter(generator)
            for _ in range(2):
                for (image, _, third), _ in adapter.get_numpy_iterator():
                    assert np.array_equal(third[:, 0], np.array(rows_of(image)) * 7)


@pytest.mark.parametrize("head", ["number", "distribution"])
def test_the_loss_of_a_recipe_takes_weights(head: Any, tiny_network: str) -> None:
    settings = {"model": {"backbone": "tiny", "head": head, "dense_units": [4]}}
    recipe = recipe_from_values({"name": "weights", **settings}, where="test")
    keras.utils.set_random_seed(0)
    built = build_model(image_size=64, **recipe.model.model_dump())
    model = compile_for_training(built, recipe, keras.optimizers.SGD(0.0))
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 256, (8, 64, 64), dtype=np.uint8), np.arange(8) % 2, np.arange(8) * 20
    weights = rng.uniform(0, 3, 8)
    alone = [
        model.evaluate(
            DataGenerator(*(each[i : i + 1] for each in columns), infants=True), verbose=0
        )
        for i in range(8)
    ]
    expected = np.mean([loss * weight for (loss, _), weight in zip(alone, weights, strict=True)])
    weighted = DataGenerator(*columns, sample_weight=weights)
    assert model.evaluate(weighted, verbose=0)[0] == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(model.fit(weighted, verbose=0).history["loss"][0])


def changed(
    change: Callable[[Any, Any, Any], Any],
) -> type[DataGenerator]:
    class Changed(DataGenerator):
        def __getitem__(self, index: Any) -> Any:
            (image, gender), months = super().__getitem__(index)
            return change(image, gender, months)

    return Changed


CHANGES: dict[str, tuple[Callable[[Any, Any, Any], Any], dict[str, int]]] = {
    "lists of everything": (lambda i, g, m: [[i, g], m], {}),
    "scaled target": (lambda i, g, m: ((i, g), m / 240), {}),
    "a flat target in float64": (lambda i, g, m: ((i, g), m[:, 0].astype(np.float64)), {}),
    "weights, None": (lambda i, g, m: ((i, g), m, None), {}),
    "weights as a list": (lambda i, g, m: ((i, g), m, [1.0] * len(m)), {}),
    "uint8": (lambda i, g, m: ((np.rint(i * 255).astype(np.uint8), g), m), {}),
    "float16": (lambda i, g, m: ((i.astype(np.float16), g), m), {}),
    "another size": (lambda i, g, m: ((i[:, ::2, ::2], g), m), {"size": 8}),
    "tensors": (lambda i, g, m: ((keras.ops.convert_to_tensor(i), g), m), {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_subclass_serves(name: str) -> None:
    change, sizes = CHANGES[name]
    with make(22, changed(change), workers=2) as generator:
        model = network(**sizes)
        history = model.fit(generator, epochs=2, verbose=0)
        assert all(map(np.isfinite, history.history["loss"]))
        assert model.predict(generator, verbose=0).shape == (22, 1)


WRONG: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "rows": (lambda i, g, m: ((i, g), m[1:]), "batch 0 have different lengths"),
    "structure": (lambda i, g, m: ((i, g), m) if len(m) == 4 else (i, m), r"batch 5 is \(float32"),
    "type": (lambda i, g, m: ((i, g), m if len(m) == 4 else m.astype(int)), "batch 5 is .*int64"),
    "shape": (lambda i, g, m: ((i[:, : 12 + len(m)], g), m), r"batch 5 is .*\(2, 14, 16, 1\)"),
    "text": (lambda i, g, m: ((i, g), m, np.array(["id"] * len(m))), "of batch 0 have no rows or"),
    "objects": (
        lambda i, g, m: ((i, g), m.astype(object)),
        "of batch 0 have no rows or no numbers",
    ),
    "one number": (lambda i, g, m: ((i, g), 3.0), r"of batch 0 have no rows .*float64 \(\)"),
    "no rows": (lambda i, g, m: ((i, g), m) if len(m) == 4 else ((i[:0], g[:0]), m[:0]), "batch 5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_batches_that_do_not_fit_are_described_without_their_pixels(name: str) -> None:
    change, message = WRONG[name]
    kind = changed(change)
    with pytest.raises(InputError, match=message) as caught, make(22, kind) as generator:
        network().fit(generator, verbose=0)
    assert len(str(caught.value)) < 400
    assert str(caught.value).startswith("Changed: ")


def test_a_dataset_without_batches_is_refused() -> None:
    class Empty(DataGenerator):
        def __len__(self) -> int:
            return 0

    with pytest.raises(InputError, match="Empty: it has no batches"):
        network().fit(make(kind=Empty), verbose=0)


def test_what_keras_tutorials_override() -> None:
    class Tutorial(DataGenerator):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.ended = 0
            self.on_epoch_end()

        def __len__(self) -> int:
            return int(np.floor(22 / self.batch_size))

        def __getitem__(self, index: Any) -> Any:
            return self.__data_generation(index)

        def __data_generation(self, index: Any) -> Any:
            return super().__getitem__(index)

        def on_epoch_end(self) -> None:
            self.ended += 1

    model = Watcher()
    generator = make(22, Tutorial, workers=3)
    model.fit(generator, epochs=2, verbose=0)
    assert model.trained == [*order(range(1), count=22)[:5], *order(range(1, 2), count=22)[:5]]
    assert generator.ended >= 3


def test_a_batch_that_gave_the_signature_is_not_made_twice() -> None:
    made: list[Any] = []

    class Noted(DataGenerator):
        def __getitem__(self, index: Any) -> Any:
            made.append((self.epoch, index))
            return super().__getitem__(index)

    Watcher().fit(make(kind=Noted), epochs=2, verbose=0)
    assert made == [(epoch, index) for epoch in range(2) for index in range(5)]


# --- The end of a generator.


def own_processes() -> set[int]:
    return {
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "SIGTERM" in " ".join(child.cmdline())
    }


@pytest.fixture
def none_left() -> Callable[[], None]:
    """Check that the processes and threads that were started meanwhile have ended."""
    before, threads = own_processes(), threading.active_count()

    def check() -> None:
        gc.collect()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            batches = [each for each in threading.enumerate() if each.name.startswith("batches")]
            if own_processes() <= before and not batches:
                return
            time.sleep(0.05)
        left = collections.Counter(each.name for each in threading.enumerate())
        raise AssertionError((own_processes() - before, threads, left))

    return check


class Break(keras.callbacks.Callback):
    """Breaks a training off."""

    def __init__(self, error: type[BaseException], *, in_validation: bool = False) -> None:
        super().__init__()
        self.error, self.in_validation = error, in_validation

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 2 and not self.in_validation:
            raise self.error

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.in_validation:
            raise self.error


def use_in_every_way(model: Any, train: Any, val: Any) -> None:
    model.fit(train, validation_data=val, epochs=2, verbose=0)
    model.fit(train, steps_per_epoch=2, verbose=0)
    model.evaluate(val, steps=2, verbose=0)
    model.predict(val, verbose=0)


PROCESSES, THREADS = WAYS["processes"], WAYS["threads"]
USES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "every way": use_in_every_way,
    "an exception in validation": lambda model, train, val: model.fit(
        train,
        validation_data=val,
        verbose=0,
        callbacks=[Break(ZeroDivisionError, in_validation=True)],
    ),
    "Ctrl-C": lambda model, train, val: model.fit(
        train, validation_data=val, verbose=0, callbacks=[Break(KeyboardInterrupt)]
    ),
}


@pytest.mark.parametrize(
    ("use", "way"), [(use, PROCESSES) for use in USES] + [("an exception in validation", THREADS)]
)
def test_workers_end_with_the_generator_while_the_model_is_kept(
    use: str, way: dict[str, Any], none_left: Callable[[], None]
) -> None:
    model = network()
    train, val = make(**way), make(**way)
    with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt):
        USES[use](model, train, val)
    del train, val
    none_left()
    assert model.count_params() > 0


def test_workers_end_when_the_name_is_bound_again(none_left: Callable[[], None]) -> None:
    before = own_processes()
    for _ in range(2):
        train = make(**PROCESSES)
        history = network().fit(train, verbose=0)
        gc.collect()
        assert len(own_processes() - before) <= 2
    del train
    none_left()
    assert history.model.count_params() > 0


def test_workers_live_as_long_as_a_callback_that_has_the_generator(
    none_left: Callable[[], None],
) -> None:
    class Holds(keras.callbacks.Callback):
        def __init__(self, generator: Any) -> None:
            super().__init__()
            self.generator = generator

    holds = Holds(make(augmentation=Augmentation(), **PROCESSES))
    model = network()
    history = model.fit(holds.generator, epochs=2, verbose=0, callbacks=[holds])
    assert holds.generator[0]
    del holds
    none_left()
    assert history.model is model


def test_the_memory_of_the_images_is_free_after_fit() -> None:
    images = np.zeros((200, 32, 32), np.uint8)
    kept = []
    for _ in range(4):
        own = images + np.uint8(7)
        generator = DataGenerator(own, np.zeros(200), np.full(200, 100.0), 50, workers=2)
        kept += [weakref.ref(own), weakref.ref(generator)]
        model = Watcher()
        model.fit(generator, steps_per_epoch=1, verbose=0)
        del own, generator, model
    end = time.monotonic() + 60  # a thread of TensorFlow ends a cut pass
    while any(each() is not None for each in kept) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.05)
    assert [each() for each in kept] == [None] * len(kept)


def test_a_pass_that_was_cut_may_be_collected_in_a_thread_of_tensorflow() -> None:
    class Collects(DataGenerator):
        def __getitem__(self, index: Any) -> Any:
            gc.collect()  # with `from_generator`, this waited for ever in the third round or so
            return super().__getitem__(index)

    gc.freeze()  # so that collecting takes little time
    gc.disable()
    try:
        for _ in range(6):
            generator = make()
            adapter = InOrderAdapter(generator)
            iterator = iter(adapter.get_tf_dataset())
            next(iterator)
            cycle: list[Any] = [iterator, adapter, generator]
            cycle.append(cycle)
            del generator, iterator, adapter, cycle
            network().fit(make(kind=Collects), verbose=0)
    finally:
        gc.enable()
