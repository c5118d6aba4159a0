"""Batches of a PyDataset as `fit` gets them: through the adapter that Keras takes for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.trainers.data_adapters import get_data_adapter


def feed(dataset: keras.utils.PyDataset) -> Iterator[Any]:
    """Yields the images of each batch, float32 `(b, size, size, 1)`, without end.

    On TensorFlow through a `tf.data.Dataset`, on JAX through an iterator, each with the threads or
    processes that the dataset asks for: all that `fit` does but the training step.
    """
    adapter = get_data_adapter(dataset, shuffle=False)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    batches: Any = adapter.get_tf_dataset() if on_tensorflow else None
    while True:
        adapter.on_epoch_begin()
        try:
            for batch in batches if on_tensorflow else adapter.get_jax_iterator():
                yield batch[0][0]
        finally:
            adapter.on_epoch_end()
