"""How Keras takes batches from a generator: in order, without Keras' and tf.data's own queues.

Keras' adapter for TensorFlow leaves prefetching to tf.data. The tuning thread of tf.data can delay
the next epoch by up to a minute. With Keras' own threads, each end of an epoch waits a tenth of a
second, and each batch passes through five threads. Keras also shuffles the order of batches, so
nobody can predict the next batch.
"""

from __future__ import annotations

import collections
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from boneage.errors import Fault, InputError


class InOrder(keras.utils.PyDataset):
    """A dataset that `fit`, `evaluate` and `predict` take in order, pass by pass.

    A pass is one iteration over all batches. It has one epoch from its first batch to its last,
    however many epochs of `fit` it lasts.

    Args:
        threads: Number of threads that make batches ahead of time. With 1, each batch is made when
            it is asked for.
        max_queue_size: Most batches that wait, besides those that the threads are making.

    Attributes:
        failure: The last exception while making a batch, as it was raised, or None. Keras raises
            it in a wrapper.
    """

    def __init__(self, threads: int = 1, max_queue_size: int = 10) -> None:
        # Keras gets no workers: it would fork them each epoch, and its queue waits.
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=max_queue_size)
        self.threads = threads
        self.failure: BaseException | None = None
        self._epoch = 0
        self._is_begun = False  # whether a pass has this epoch
        self.is_direct = False  # whether batches are taken without a pass
        self._of_thread = threading.local()

    @property
    def epoch(self) -> int:
        """Return the epoch whose batches are served. It may be set."""
        return getattr(self._of_thread, "epoch", self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._is_begun, self.is_direct = epoch, False, False

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        raise NotImplementedError

    def on_epoch_begin(self) -> None:
        """Note that an epoch of Keras runs. Keras calls this."""
        self.is_direct = True

    def on_epoch_end(self) -> None:
        """Advance the epoch, unless passes do. Call this in a training loop of your own."""
        if self.is_direct:
            self.epoch += 1

    @property
    def next_epoch(self) -> int:
        """Return the epoch of the next pass. A pass that was broken off is not repeated."""
        return self._epoch + self._is_begun

    def begin_pass(self, *, again: bool = False) -> int:
        """Return the epoch of a new pass.

        Args:
            again: Repeat the last epoch, because its pass did not count.
        """
        if not again:
            self._epoch = self.next_epoch
        self._is_begun = True
        return self._epoch

    def batch_of_pass(self, epoch: int, index: int) -> Any:
        """Return a batch of an epoch, whatever `epoch` is set to meanwhile."""
        self._of_thread.epoch = epoch
        try:
            return self[index]
        except BaseException as error:
            self.failure = error
            raise
        finally:
            del self._of_thread.epoch

    def end_pass(self, epoch: int) -> None:
        """Advance the epoch. This comes before the last batch of a pass is handed over."""
        if self._is_begun and self._epoch == epoch:
            self.epoch = epoch + 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and "_of_thread" not in self.__dict__:
            kind = type(self).__name__
            fix = "Call super().__init__(...) in __init__, before anything that uses the generator."
            raise InputError(Fault(kind, "its base class was not initialised", fix))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_of_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._of_thread = threading.local()


class InOrderAdapter(PyDatasetAdapter):
    """What Keras asks for the batches of an `InOrder`. Each `fit` or `evaluate` makes its own.

    It refers to the dataset weakly, because a model keeps the adapter of its validation after an
    exception.
    """

    def __init__(self, x: InOrder, class_weight: Any = None, shuffle: bool = False) -> None:
        super().__init__(weakref.proxy(x), class_weight=class_weight)
        self.enqueuer = None  # even if somebody has set `workers`
        self._dataset = weakref.ref(x)
        self._passes = 0
        self._served = 0  # batches of the last pass
        self._waiting: dict[tuple[int, int], Any] = {}  # batches that gave the signature
        self._pass: Iterator[Any] = iter(())
        if not len(x):
            raise self._fail("it has no batches", "Return at least 1 from __len__.")

    def on_epoch_end(self) -> None:
        """Pass the call on."""
        self.py_dataset.is_direct = False  # its passes advance its epoch
        super().on_epoch_end()

    def get_tf_dataset(self) -> Any:
        """Return a dataset of one epoch, as tensors that share the arrays' memory.

        The signature is read off the first batches, as Keras does.
        """
        import tensorflow as tf

        # Here their exception reaches the user as it is. The worker processes start, too.
        dataset = self.py_dataset
        keys = [(dataset.next_epoch, index) for index in range(min(2, len(dataset)))]
        batches = [self._make(*key) for key in keys]
        try:
            signature = data_adapter_utils.get_tensor_spec(batches)
        except (TypeError, ValueError):
            raise self._unlike(1, batches[-1], batches[0]) from None
        for index, batch in enumerate(batches):
            if not _fits(batch, signature):
                raise self._unlike(index, batch, signature)
        self._waiting = dict(zip(keys, batches, strict=True))
        self._output_signature = signature
        specs = tf.nest.flatten(signature)
        adapter = weakref.proxy(self)  # TensorFlow never forgets a function

        def next_batch(index: int) -> list[Any]:
            arrays: list[Any] = tf.nest.flatten(adapter.next_batch(is_first=index == 0))
            return arrays

        def batch_at(index: Any) -> Any:
            arrays = tf.numpy_function(next_batch, [index], [spec.dtype for spec in specs])
            for array, spec in zip(arrays, specs, strict=True):
                array.set_shape(spec.shape)
            return tf.nest.pack_sequence_as(signature, arrays)

        # Not `from_generator`: to end an iterator, it calls Python, and waits for ever where the
        # garbage collector ends it in a thread of TensorFlow.
        tensors = tf.data.Dataset.range(len(dataset)).map(batch_at)
        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = 1
        return tensors.with_options(options)

    def next_batch(self, *, is_first: bool) -> Any:
        """Return the next batch of a pass, or the first of a new pass."""
        if is_first:
            self._pass = self._get_iterator()
        return next(self._pass)

    def _get_iterator(self) -> Iterator[Any]:
        """Yield the batches of one pass."""
        dataset = self.py_dataset
        # JAX and PyTorch take one batch to build the model. That is not a pass.
        epoch = dataset.begin_pass(again=self._passes == self._served == 1)
        count = len(dataset)
        self._passes += 1
        self._served = 0
        if (epoch, 0) not in self._waiting:
            self._waiting = {}
        made = self._made(count, epoch)
        for _ in range(count):
            self._served += 1
            if self._served == count:
                dataset.end_pass(epoch)
            yield next(made)

    def _made(self, count: int, epoch: int) -> Iterator[Any]:
        dataset = self.py_dataset
        if dataset.threads == 1:
            yield from (self._make(epoch, index) for index in range(count))
            return
        most = dataset.threads + dataset.max_queue_size
        made: collections.deque[Future[Any]] = collections.deque()
        threads = ThreadPoolExecutor(dataset.threads, "batches")
        # An iterator that was broken off may be kept longer than the dataset.
        end = weakref.finalize(self._dataset(), threads.shutdown, wait=False, cancel_futures=True)
        try:
            for index in range(count):
                made.append(threads.submit(self._make, epoch, index))
                if len(made) == most:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            end()

    def _make(self, epoch: int, index: int) -> Any:
        if (epoch, index) in self._waiting:
            return self._waiting.pop((epoch, index))
        batch = _with_arrays(self.py_dataset.batch_of_pass(epoch, index))
        arrays = [part for part in keras.tree.flatten(batch) if part is not None]
        if not all(each.ndim and each.size and each.dtype.kind not in "OSUMm" for each in arrays):
            what = f"some arrays of batch {index} have no rows or no numbers: {_layout(batch)}"
            raise self._fail(what, "Return arrays of numbers with one row per image.")
        if len({len(array) for array in arrays}) > 1:
            what = f"the arrays of batch {index} have different lengths: {_layout(batch)}"
            raise self._fail(what, "Return one row per image in every array.")
        batch = self._standardize_batch(batch)
        if self._output_signature is not None and not _fits(batch, self._output_signature):
            raise self._unlike(index, batch, self._output_signature)
        return batch

    def _unlike(self, index: int, batch: Any, signature: Any) -> InputError:
        what = f"batch {index} is {_layout(batch)}, but batch 0 is {_layout(signature)}"
        fix = "Return arrays of the same structure, type and shape. Only their length may differ."
        return self._fail(what, fix)

    def _fail(self, what: str, fix: str) -> InputError:
        error = InputError(Fault(type(self._dataset()).__name__, what, fix))
        self.py_dataset.failure = error
        return error


def _adapter(kind: type[PyDatasetAdapter], x: Any, *_: Any, **__: Any) -> PyDatasetAdapter:
    is_ours = kind is PyDatasetAdapter and isinstance(x, InOrder)
    return object.__new__(InOrderAdapter if is_ours else kind)


# Keras makes an adapter of every dataset, after it has checked `y` and `sample_weight`. Nothing
# else lets a dataset choose its adapter and keeps these checks.
PyDatasetAdapter.__new__ = staticmethod(_adapter)


def _with_arrays(part: Any) -> Any:
    """Return the tuples, dicts and arrays of a batch for its lists, tensors and columns."""
    if isinstance(part, dict):
        return {name: _with_arrays(each) for name, each in part.items()}
    if isinstance(part, (list, tuple)) and not (part and all(map(np.isscalar, part))):
        parts = tuple(map(_with_arrays, part))
        return parts[:-1] if len(parts) > 1 and parts[-1] is None else parts
    if part is None or isinstance(part, np.ndarray):
        return part
    return keras.ops.convert_to_numpy(part)


def _fits(batch: Any, signature: Any) -> bool:
    """Return whether a batch has the structure, types and shapes of a signature."""
    try:
        keras.tree.assert_same_structure(batch, signature)
    except (TypeError, ValueError):
        return False
    pairs = zip(keras.tree.flatten(batch), keras.tree.flatten(signature), strict=True)
    return all(
        isinstance(array, np.ndarray)
        and array.dtype.name == spec.dtype.name
        and spec.shape.is_compatible_with(array.shape)
        for array, spec in pairs
    )


def _layout(part: Any) -> str:
    """Describe a batch or a signature without its numbers: `((float32 (8, 64, 64, 1), …), …)`."""
    if isinstance(part, dict):
        return "{" + ", ".join(f"{name}: {_layout(each)}" for name, each in part.items()) + "}"
    if isinstance(part, tuple):
        return "(" + ", ".join(map(_layout, part)) + ")"
    if not hasattr(part, "dtype"):
        return "None"
    return f"{part.dtype.name} {tuple(part.shape)}"
