"""One batch that is on the device already, again and again: a training that waits for nothing."""

from __future__ import annotations

from typing import Any

import keras


class ConstantDataset(keras.utils.PyDataset):
    """Serves the same device arrays in every step."""

    def __init__(self, batch: Any, steps: int) -> None:
        """Takes a batch of device arrays."""
        super().__init__()
        self.batch = batch
        self.steps = steps

    def __len__(self) -> int:
        """Steps an epoch."""
        return self.steps

    def __getitem__(self, index: int) -> Any:
        """Returns the one batch."""
        return self.batch


def constant_batches(batch: Any, steps: int) -> Any:
    """Makes what `fit` takes for an epoch of the same batch.

    Args:
        batch: `((image, gender), age_months)`, arrays.
        steps: Batches an epoch.

    Returns:
        On TensorFlow a `tf.data.Dataset` that repeats one tensor, through no Python, and put on the
        GPU ahead of time where there is one; else a dataset of device arrays.
    """
    (image, gender), age_months = batch
    if keras.backend.backend() != "tensorflow":
        arrays = [keras.ops.convert_to_tensor(array) for array in (image, gender, age_months)]
        return ConstantDataset(((arrays[0], arrays[1]), arrays[2]), steps)
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False  # its thread may hold up the end of an epoch
    repeated = tf.data.Dataset.from_tensors(batch).repeat(steps).with_options(options)
    if tf.config.list_physical_devices("GPU"):
        return repeated.apply(tf.data.experimental.prefetch_to_device("/GPU:0", 4))
    return repeated
