"""A training that runs out of memory names a batch size that may fit."""

import keras
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.pipeline.generator import DataGenerator
from boneage.recipe import read_recipe
from boneage.training.batch_memory import (
    BatchTooLargeError,
    explain_out_of_memory,
    is_out_of_memory,
)
from boneage.training.trainer import train


def error_of(name, text, base=RuntimeError):
    """An error as a backend raises it, without the backend."""
    return type(name, (base,), {})(text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (error_of("_ArrayMemoryError", "Unable to allocate 9 GiB", MemoryError), True),
        (error_of("ResourceExhaustedError", "OOM when allocating tensor"), True),
        (error_of("JaxRuntimeError", "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (error_of("JaxRuntimeError", "INTERNAL: CUDNN_STATUS_ALLOC_FAILED"), True),
        (error_of("JaxRuntimeError", "RESOURCE_EXHAUSTED: Too many open files"), False),
        (error_of("OutOfMemoryError", "CUDA out of memory. Tried to allocate"), True),
        (ValueError("out of memory"), False),
        (ExceptionGroup("several", [ValueError(), MemoryError()]), True),
    ],
)
def test_errors_of_the_backends_are_recognised(error, expected):
    assert is_out_of_memory(error) is expected
    wrapped = ValueError("a layer failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped) is expected


@pytest.mark.parametrize(
    ("batch_size", "devices", "message"),
    [
        (32, 1, r"32 images does not fit into memory. Pass --set training.batch_size=16"),
        (30, 4, r"training.batch_size=12"),
        (8, 4, r"training.batch_size=4"),
        (1, 1, r"Lower framing.size, or choose a smaller model.backbone"),
        (4, 4, r"Lower framing.size"),
    ],
)
def test_the_message_names_half_the_batch_size(batch_size, devices, message):
    with (
        pytest.raises(BatchTooLargeError, match=message),
        explain_out_of_memory(batch_size, devices),
    ):
        raise MemoryError


@pytest.mark.slow  # TensorFlow waits for ten seconds that some memory becomes free
def test_an_error_of_tensorflow_is_recognised_and_others_pass():
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten()])
    model.compile(loss="mae")
    with pytest.raises(BatchTooLargeError), explain_out_of_memory(2):
        keras.ops.ones((1 << 24, 1 << 24))
    with pytest.raises(ValueError, match="shapes"), explain_out_of_memory(32):
        raise ValueError("shapes")


@pytest.mark.slow
def test_a_training_that_runs_out_of_memory_leaves_no_folder(
    cohort, tiny_recipe, tiny_network, tmp_path, monkeypatch
):
    def run_out(self, index):
        raise MemoryError("Unable to allocate 1. PiB for an array")

    monkeypatch.setattr(DataGenerator, "__getitem__", run_out)
    recipe = read_recipe(tiny_recipe, ["model.backbone=tiny"])
    with pytest.raises(InputError, match=r"batch of 16 images does not fit.*batch_size=8"):
        train(recipe, read_manifest(cohort), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
