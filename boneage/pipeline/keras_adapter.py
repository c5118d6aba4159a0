"""How `fit` takes batches from a dataset of ours: in order, and through nothing that waits.

Keras wraps a PyDataset in an adapter of its own, and takes an object that is an adapter as it is.
Its own for TensorFlow leaves prefetching to tf.data, whose tuning thread may sleep on when an
epoch's iterator is to go: the next epoch then waits for it, a minute at most. With threads of its
own in place of that, it waits a tenth of a second at every end, and hands each batch through five
of them. And it shuffles the order of batches, so that nobody knows which one is next.
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
        threads: That make batches ahead of time; 1 makes each when it is asked for.
        max_queue_size: Batches that are asked for ahead of time with several, besides theirs.
    """

    threads: int
    max_queue_size: int

    def __len__(self) -> int:
        """Batches an epoch."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        """Makes a batch of the present epoch."""
        raise NotImplementedError

    def shapes(self) -> Any:
        """The shape of each array in a batch, None for the number of images; all are float32."""
        raise NotImplementedError

    def get_numpy_iterator(self) -> Iterator[Any]:
        """One epoch, as arrays."""
        return self._one_epoch()

    def get_jax_iterator(self) -> Iterator[Any]:
        """One epoch, as arrays: JAX takes them so."""
        return self._one_epoch()

    def get_torch_dataloader(self) -> Any:
        """One epoch, as tensors."""
        return data_adapter_utils.get_torch_dataloader(self._one_epoch())

    def get_tf_dataset(self) -> Any:
        """One epoch each time that it is gone through, as tensors that share the arrays' memory."""
        import tensorflow as tf

        def spec(shape: Any) -> Any:
            if isinstance(shape, dict):
                return {name: spec(part) for name, part in shape.items()}
            if shape and isinstance(shape[0], int | None):
                return tf.TensorSpec(shape, tf.float32)
            return tuple(spec(part) for part in shape)

        self[0]  # here, where what it raises reaches the user as it is, and processes may start
        dataset = tf.data.Dataset.from_generator(
            self._one_epoch, output_signature=spec(self.shapes())
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
