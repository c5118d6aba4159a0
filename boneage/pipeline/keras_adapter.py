"""How `fit` takes batches from a generator: in order, without Keras' and tf.data's own queues.

Keras wraps a PyDataset in an adapter of its own, but takes an object that is an adapter as it is.
Keras' adapter for TensorFlow leaves prefetching to tf.data. The tuning thread of tf.data can delay
the next epoch by up to a minute. With Keras' own threads, each end of an epoch waits a tenth of a
second, and each batch passes through five threads. Keras also shuffles the order of batches, so
nobody can predict the next batch.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.data_adapter import DataAdapter


class InOrder(DataAdapter):
    """Serves `self[0]`, `self[1]`, … to `fit`, `evaluate` and `predict` on every backend.

    Attributes:
        threads: Number of threads that make batches ahead of time. With 1, each batch is made when
            it is asked for.
        max_queue_size: Most batches that wait, besides those that the threads are making.
    """

    threads: int
    max_queue_size: int

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Return a batch of the present epoch."""
        raise NotImplementedError

    def _shapes(self) -> Any:
        """Return the shape of each array in a batch, with None for the number of images."""
        raise NotImplementedError

    def get_numpy_iterator(self) -> Iterator[Any]:
        """Return an iterator of one epoch, as arrays."""
        return self._one_epoch()

    def get_jax_iterator(self) -> Iterator[Any]:
        """Return an iterator of one epoch, as arrays, which JAX takes as they are."""
        return self._one_epoch()

    def get_torch_dataloader(self) -> Any:
        """Return a loader of one epoch, as tensors."""
        return data_adapter_utils.get_torch_dataloader(self._one_epoch())

    def get_tf_dataset(self) -> Any:
        """Return a dataset of one epoch, as float32 tensors that share the arrays' memory."""
        import tensorflow as tf

        def spec(shape: Any) -> Any:
            if isinstance(shape, dict):
                return {name: spec(part) for name, part in shape.items()}
            if shape and isinstance(shape[0], int | None):
                return tf.TensorSpec(shape, tf.float32)
            return tuple(spec(part) for part in shape)

        self[0]  # here its exception reaches the user as it is; and the processes start
        dataset = tf.data.Dataset.from_generator(
            self._one_epoch, output_signature=spec(self._shapes())
        )
        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        return dataset.with_options(options)

    def _one_epoch(self) -> Iterator[Any]:
        count = len(self)
        if self.threads == 1:
            yield from (self[index] for index in range(count))
            return
        made: collections.deque[Future[Any]] = collections.deque()
        threads = ThreadPoolExecutor(self.threads, "batches")
        try:
            for index in range(count):
                made.append(threads.submit(self.__getitem__, index))
                if len(made) == self.threads + self.max_queue_size:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
