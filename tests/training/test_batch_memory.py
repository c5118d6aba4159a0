from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.models.builder import build_model
from boneage.recipe import read_recipe
from boneage.training import batch_memory as capacity
from boneage.training.batch_memory import (
    HIGHEST,
    LOWEST,
    batch_that_fits,
    check_batch,
    memory_fault,
    needed_bytes,
    out_of_memory,
    within_memory,
    zeros_step,
)
from boneage.training.trainer import train

RESULTS = Path(__file__).parents[2] / "experiments/capacity/results/cpu.json"
GB = 10**9


def compiled(optimizer: Any = "adam", **settings: Any) -> keras.Model:
    model = build_model("mini_xception", 64, dense_units=(16,), **settings)
    model.compile(optimizer=optimizer, loss="mae")
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A small compiled network. Read only."""
    return compiled()


def exhausted(text: str = "OOM when allocating tensor with shape[4096,50,50,64]") -> Exception:
    error: Exception = tf.errors.ResourceExhaustedError(None, None, text)
    return error


# --- The estimate.


def test_the_need_grows_by_the_same_for_every_image(model: keras.Model) -> None:
    one, two, ten = (needed_bytes(model, batch) for batch in (1, 2, 10))
    assert ten - one == 9 * (two - one) > 0


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        (keras.optimizers.SGD(), 0),
        (keras.optimizers.Adam(), 2),
        (keras.optimizers.AdamW(use_ema=True), 3),
        (keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 9)), 2),
    ],
)
def test_what_the_optimizer_keeps_of_each_weight_is_counted(optimizer: Any, kept: int) -> None:
    model = compiled(optimizer)
    without = needed_bytes(compiled(keras.optimizers.SGD()), 1)
    trained = sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables)
    assert needed_bytes(model, 1) - without == kept * trained


def test_an_optimizer_that_is_built_needs_what_it_was_expected_to() -> None:
    model = compiled()
    before = needed_bytes(model, 8)
    model.optimizer.build(model.trainable_variables)
    assert needed_bytes(model, 8) == pytest.approx(before, abs=100)  # its counter and its rate


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_takes_less_for_an_image(model: keras.Model, precision: str) -> None:
    half = compiled(precision=precision)
    for one in (1, 100):
        assert needed_bytes(half, one) < needed_bytes(model, one)


def test_every_step_that_was_measured_took_what_the_estimate_allows() -> None:
    rows = json.loads(RESULTS.read_text())["rows"]
    assert len(rows) > 10
    for row in rows:
        assert LOWEST < row["measured_mb"] / row["estimated_mb"] < HIGHEST, row["name"]


@pytest.mark.parametrize("backbone", ["mini_xception", "mini_resnet"])
def test_the_estimates_beside_the_measurements_are_those_of_today(backbone: str) -> None:
    rows = json.loads(RESULTS.read_text())["rows"]
    rows = [r for r in rows if (r["backbone"], r["precision"]) == (backbone, "float32")]
    assert rows
    model = build_model(backbone, rows[0]["size"])
    model.compile(optimizer="adam", loss="mae", metrics=["mae"])
    for row in rows:
        assert needed_bytes(model, row["batch"]) / 1e6 == pytest.approx(row["estimated_mb"], 1e-3)


# --- Before a training.


def with_memory(monkeypatch: pytest.MonkeyPatch, there: float | None) -> None:
    monkeypatch.setattr(capacity, "available_bytes", lambda: there)


def test_a_batch_that_clearly_does_not_fit_is_refused_with_one_that_does(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 2 * GB)
    with pytest.raises(InputError) as caught:
        check_batch(model, 4096)
    (fault,) = caught.value.faults
    needed = f"{needed_bytes(model, 4096) / GB:.0f}"
    fits = int(fault.expected.removeprefix("at most "))
    assert str(fault) == (
        f"training.batch_size: a batch of 4096 needs about {needed} GB, and 2 GB are there; "
        f"expected at most {fits}. Pass --set training.batch_size={fits}."
    )
    assert fits % 8 == 0
    assert (
        HIGHEST * needed_bytes(model, fits) <= 2.01 * GB < HIGHEST * needed_bytes(model, fits + 9)
    )
    check_batch(model, fits)


def test_a_batch_that_may_fit_is_not_refused(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, (LOWEST + 0.01) * needed_bytes(model, 512))
    check_batch(model, 512)
    with_memory(monkeypatch, (LOWEST - 0.01) * needed_bytes(model, 512))
    with pytest.raises(InputError, match="a batch of 512 needs about"):
        check_batch(model, 512)


def test_nothing_is_refused_where_nothing_tells_what_memory_there_is(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, None)
    check_batch(model, 10**9)


def test_where_not_even_one_image_fits_no_batch_is_named(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 1e7)
    with pytest.raises(InputError) as caught:
        check_batch(model, 8)
    assert str(caught.value).endswith(
        " GB are there; expected a smaller network, or smaller pictures. "
        "Lower framing.size, or choose a smaller model.backbone."
    )


def test_devices_share_a_batch() -> None:
    need = capacity.Need(fixed=100, per_image=10, held=0, devices=4)
    assert need.bytes(8) == 120
    assert need.bytes(9) == 130
    assert need.batch(129) == 8
    assert need.batch(1e4) == 990 * 4
    assert need.batch(109) == 0


def test_this_machine_has_memory(model: keras.Model) -> None:
    there = capacity.available_bytes()
    assert there is None or there > GB // 10
    check_batch(model, 2)


# --- When it ran out.


def named(name: str, text: str, base: type[Exception] = RuntimeError) -> Exception:
    """An error of a library that need not be installed here, as it calls and words it."""
    error: Exception = type(name, (base,), {})(text)
    return error


def chained(error: BaseException) -> Exception:
    try:
        try:
            raise error
        except type(error) as cause:
            raise ValueError("the batch can't be made") from cause
    except ValueError as outer:
        return outer


ALLOCATING = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 68719476736 bytes."


@pytest.mark.parametrize(
    "error",
    [
        exhausted(),
        tf.errors.InternalError(None, None, "CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
        named("JaxRuntimeError", ALLOCATING),
        named("XlaRuntimeError", ALLOCATING),
        named("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 GiB."),
        chained(exhausted()),
        chained(MemoryError()),
        ExceptionGroup("workers", [ValueError("x"), MemoryError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_library_raises_without_memory_is_known(error: Exception) -> None:
    assert out_of_memory(error)


def test_what_numpy_raises_without_memory_is_known() -> None:
    with pytest.raises(MemoryError) as caught:
        np.ones(2**55, "uint8")
    assert out_of_memory(caught.value)


def test_what_jax_raises_without_memory_is_known() -> None:
    numpy = pytest.importorskip("jax.numpy")
    with pytest.raises(RuntimeError) as caught:
        numpy.zeros(2**50, "uint8").block_until_ready()
    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        None,
        exhausted("run/events.out; No space left on device"),
        exhausted("open; Too many open files"),
        OSError(28, "No space left on device"),
        tf.errors.InvalidArgumentError(None, None, "out of memory bank"),
        named("JaxRuntimeError", "INVALID_ARGUMENT: shapes differ"),
        ValueError("memory"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_taken_for_it(error: BaseException | None) -> None:
    assert not out_of_memory(error)


class Device:
    """Something that makes steps of at most so many images."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.tried: list[int] = []

    def step(self, batch_size: int) -> None:
        self.tried.append(batch_size)
        if batch_size > self.most:
            raise exhausted()


@pytest.mark.parametrize(
    ("batch", "most", "fits", "tried"),
    [
        (1024, 300, 256, [512, 256, 384]),
        (1024, 400, 384, [512, 256, 384]),
        (1024, 900, 768, [512, 768]),
        (9, 1, 1, [4, 2, 1]),
        (9, 0, None, [4, 2, 1]),
        (1, 0, None, []),
    ],
)
def test_the_batch_that_fits_is_found_by_halving_and_one_step_back(
    batch: int, most: int, fits: int | None, tried: list[int]
) -> None:
    device = Device(most)
    assert batch_that_fits(device.step, batch) == fits
    assert device.tried == tried


def test_another_error_of_a_trial_is_not_hidden() -> None:
    def step(batch_size: int) -> None:
        raise ValueError(f"{batch_size} is odd")

    with pytest.raises(ValueError, match="512 is odd"):
        batch_that_fits(step, 1024)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_trial_is_a_step_of_training_and_on_jax_that_of_a_copy(
    backend: str, tiny_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    model = build_model("tiny", 64, dense_units=(16,))
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mae")
    before = [np.array(weight) for weight in model.get_weights()]
    zeros_step(model)(2)
    after = model.get_weights()
    same = all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert same == (backend == "jax")


def test_the_error_says_which_batch_was_tried_and_fits(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "zeros_step", lambda _: Device(300).step)
    assert str(memory_fault(exhausted(), model, 1024)) == (
        "training.batch_size: a batch of 1024 does not fit into memory; "
        "expected at most 256, which was tried. Pass --set training.batch_size=256."
    )


def test_where_no_batch_fits_the_error_says_so(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "zeros_step", lambda _: Device(0).step)
    for batch in (1, 8):
        told = str(memory_fault(exhausted(), model, batch))
        assert told.startswith(f"training.batch_size: a batch of {batch} does not fit into memory;")
        assert told.endswith("Lower framing.size, or choose a smaller model.backbone.")


def test_where_a_trial_could_end_the_process_none_is_made(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(300)
    monkeypatch.setattr(capacity, "zeros_step", lambda _: device.step)
    monkeypatch.setattr(capacity, "address_space_bytes", lambda: GB)
    told = str(memory_fault(exhausted(), model, 1024))
    assert told.endswith("expected a smaller one, perhaps 512. Pass --set training.batch_size=512.")
    assert not device.tried


def test_a_training_that_runs_out_of_memory_ends_with_what_to_do(
    model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "zeros_step", lambda _: Device(300).step)
    told = pytest.raises(InputError, match="expected at most 256, which was tried")
    with told, within_memory(model, 1024):
        raise chained(exhausted())


def test_other_errors_of_a_training_come_as_they_are(model: keras.Model) -> None:
    with pytest.raises(OSError, match="No space left"), within_memory(model, 1024):
        raise OSError(28, "No space left on device")
    with within_memory(model, 1024):
        pass


# --- In a training.


def test_a_training_that_can_not_fit_makes_no_run_folder(
    cohort: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, GB / 4)
    recipe = read_recipe(tiny_recipe, ["training.batch_size=4096"])
    told = r"a batch of 48 needs about .* expected at most \d\. Pass --set training.batch_size="
    with pytest.raises(InputError, match=told):  # of as many radiographs as there are
        train(recipe, read_manifest(cohort), tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_training_whose_first_batch_does_not_fit_leaves_no_run_folder(
    cohort: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(model: keras.Model, *_: Any, **__: Any) -> None:
        assert (tmp_path / "run/recipe.json").exists()
        raise exhausted()

    monkeypatch.setattr(keras.Model, "fit", fit)
    monkeypatch.setattr(capacity, "zeros_step", lambda _: Device(4).step)
    told = "a batch of 16 does not fit into memory; expected at most 4, which was tried"
    with pytest.raises(InputError, match=told):
        train(read_recipe(tiny_recipe), read_manifest(cohort), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
