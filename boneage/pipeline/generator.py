"""The dataset that Keras trains from: images, gender and ages, batch by batch."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.pipeline.arguments import WorkerSettings, check_arguments
from boneage.pipeline.augmentation import ImageFunction
from boneage.pipeline.batches import Batches, DeviceShard, Floats, aligned
from boneage.pipeline.keras_adapter import InOrder
from boneage.pipeline.workers.pool import PrefetchPlan, Workers
from boneage.recipe import Augmentation, Framing
from boneage.runtime.schemas import shown

if TYPE_CHECKING:
    import albumentations

# `((image, gender), age_months)`. `named=True` makes the first a dict. Without ages it is alone.
Batch: TypeAlias = tuple[Any, ...]


class DataGenerator(InOrder):
    """Serves `(image, gender), age_months` to `fit`, `evaluate` and `predict`.

    | served | array |
    |---|---|
    | `image` | float32 `(b, h, w, 1)` in [0, 1]: uint8 / 255, divided after augmentation |
    | `gender` | float32 `(b, 1)`, 1.0 = male |
    | `age_months` | float32 `(b, 1)`, months |
    | `sample_weight` | float32 `(b,)`, a third element, only if weights are given |

    A batch is a pure function of (seed, epoch, index). It is the same with any number of workers,
    threads or processes, in any order of access, and after a resume. Every image is served
    exactly once per pass, which is one iteration over all batches. The last batch may be short.
    With `balance_sources`, images of a small source are served more often.
    A pass has one epoch, however many epochs of `fit` it lasts with `steps_per_epoch`. Each pass
    of `fit`, `evaluate` or `predict` on this generator has the next epoch, and so has `next` after
    a last batch. A loop of your own calls `on_epoch_end()` after its last batch. A pass that was
    broken off is not repeated. To resume a training, set `generator.epoch` first.

    `fit` takes the batches in order and ignores its own `shuffle`. Use the generator's `shuffle`,
    which also shuffles within batches and can be repeated.

    With `use_multiprocessing`, `workers` new processes (spawned, never forked) write batches into
    shared memory ahead of time, also for the next epoch. TensorFlow reads that memory without a
    copy. The processes start with the first batch. They end with `close()`, at the end of
    `with DataGenerator(...) as generator:`, or with the generator. Scripts need no
    `if __name__ == "__main__"`, and an augmentation may be a function or lambda of a notebook.

    A subclass may override `__getitem__` and serve other inputs, channels, sizes, types, targets
    or weights. It calls `super().__getitem__(index)`. Keras learns their shapes from the first
    batches. `self.epoch` is then the epoch of the batch, also in threads, and
    `self.batch_rows(index)` says which images it has.

    Attributes:
        image_ids: Names of the images, or None.
        processes: Number of processes that make batches, 0 for none.
        threads: Number of threads that make batches in `fit`.
    """

    def __init__(
        self,
        images: Any,
        gender: Any,
        age_months: Any = None,
        batch_size: int = 32,
        shuffle: bool = False,
        augmentation: Augmentation | ImageFunction | albumentations.Compose | None = None,
        seed: int = 0,
        *,
        image_size: int | None = None,
        framing: Framing | None = None,
        named: bool = False,
        image_ids: Sequence[str] | None = None,
        sample_weight: Any = None,
        infants: bool = False,
        sources: Sequence[str] | None = None,
        balance_sources: float = 0.0,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        """Check the arguments, without decoding a file.

        Args:
            images: Array `(n, h, w)`, `(n, h, w, 1)` or RGB `(n, h, w, 3)`, 0-255; or paths of
                radiographs, decoded and framed each time they are served; or a `Store` or
                `StoreView`, as `boneage.pipeline.store.prepare` returns it.
            gender: The sex of the children, `n` values: 1 or "M" for male, 0 or "F" for female.
            age_months: `n` ages in months. None serves `((image, gender),)`, for `predict`.
            batch_size: Images per batch.
            shuffle: Whether each epoch has its own order.
            augmentation: Recipe settings, an albumentations transform, or a function of a uint8
                `(h, w)` array that keeps its shape. A transform or function is tried once on an
                image. Several threads call a function at the same time.
            seed: Seed of order and augmentation, 0 or more.
            image_size: Side of the framed image in pixels, for paths. For other images, the side
                that they must have.
            framing: How paths are framed. Default: as a recipe does.
            named: Whether to serve `{"image": ..., "gender": ...}` instead of the tuple. The ages
                stay an array: Keras refuses named targets for a model with one output.
            image_ids: `n` names of the images. Default: those of the store.
            sample_weight: `n` weights, finite and 0 or more, which Keras multiplies each image's
                loss by. Default: none.
            infants: Whether all children may be under two. Otherwise such ages are refused,
                because they are probably in years or scaled.
            sources: `n` names of the sources that the images are from.
            balance_sources: 0 serves every image equally often, 1 every source, and between them
                a source with n images as often as n to the power of 1 - `balance_sources` says.
                An epoch keeps its number of images. It needs `shuffle`.
            workers: Number of threads or processes that make batches for `fit`.
            use_multiprocessing: Use processes instead of threads. This is faster where
                augmentation takes most of the time. The processes share one copy of the images.
            max_queue_size: Largest number of finished batches that wait to be used.

        Raises:
            InputError: Some arguments are invalid. It names all of them.
        """
        settings = WorkerSettings(workers, use_multiprocessing, max_queue_size)
        self._batches, columns = check_arguments(
            images,
            gender,
            age_months,
            augmentation,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            image_size=image_size,
            framing=framing,
            image_ids=image_ids,
            sample_weight=sample_weight,
            infants=infants,
            named=named,
            sources=sources,
            balance_sources=balance_sources,
            workers=settings,
        )
        super().__init__(int(settings.threads), int(max_queue_size))
        self._columns = columns
        self.image_ids = columns.image_ids
        self.processes = int(settings.processes)
        self.named = bool(named)
        self._next_index = 0
        self._pool: Workers | None = None
        self._plan: PrefetchPlan | None = None

    @property
    def batch_size(self) -> int:
        """Return the images per batch. The last batch may have fewer."""
        return self._batches.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        if size != self._batches.batch_size:  # tutorials set what they have passed
            what = f"it is {self._batches.batch_size}, and can't be changed to {shown(size)}"
            raise InputError(Fault("batch_size", what, "Pass it to super().__init__."))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape `(h, w, 1)` of every image."""
        return self._batches.shape(0)[1:]

    @property
    def process_ids(self) -> list[int]:
        """Return the ids of the worker processes that are ready. They take a second to start."""
        return [] if self._pool is None else self._pool.process_ids

    def __len__(self) -> int:
        """Return the number of batches per epoch, the last one perhaps short."""
        return len(self._batches)

    def __getitem__(self, index: SupportsIndex) -> Batch:
        """Return the batch of an index in the present epoch, as the class describes it.

        Args:
            index: Index of the batch, counted from the end if negative.
        """
        number = self._number(index)
        epoch = self.epoch  # read once, so that the whole batch is of one epoch
        rows = self._batches.rows(number, epoch)
        columns, image = self._columns, self._images(number, epoch)
        gender = columns.gender[rows]
        inputs = {"image": image, "gender": gender} if self.named else (image, gender)
        if columns.age_months is None:
            return (inputs,)
        if columns.sample_weight is None:
            return inputs, columns.age_months[rows]
        return inputs, columns.age_months[rows], columns.sample_weight[rows]

    def batch_rows(self, index: SupportsIndex) -> npt.NDArray[np.int64]:
        """Return which images a batch of the present epoch has: int64 `(b,)`, from 0.

        A subclass finds the rows of its own columns with it.

        Args:
            index: Index of the batch, counted from the end if negative.
        """
        return self._batches.rows(self._number(index), self.epoch).copy()

    def __next__(self) -> Batch:
        """Return the following batch. After the last one comes the first of the next epoch."""
        batch = self[self._next_index]
        self._next_index += 1
        if self._next_index == len(self):
            self._next_index = 0
            self.epoch += 1
        return batch

    def close(self) -> None:
        """End the worker processes, if any. Later batches are made in this process."""
        self.processes = 0
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> DataGenerator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        # TensorFlow reports the exception of a batch as an error of its own that quotes the text.
        failure = self.failure
        wrapped = isinstance(error, Exception) and type(failure).__name__ in str(error)
        if failure is not None and wrapped and error is not failure:
            raise failure from error

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_pool": None, "_plan": None}

    def _number(self, index: SupportsIndex) -> int:
        count = len(self._batches)
        number = operator.index(index)
        if not -count <= number < count:
            raise IndexError(f"batch {number} of {count}")
        # Keras takes the batches 0 and 1 of a dataset around this one, to learn their shapes.
        if not hasattr(self._of_thread, "epoch") and number > min(1, len(self) - 2):
            self.is_direct = True
        return number % count

    def _images(self, index: int, epoch: int) -> Floats:
        if self.processes:
            key = (epoch, index)
            if self._pool is None:
                self._plan = PrefetchPlan(min(len(self), len(self._batches)))
                self._pool = Workers(self._batches, self.processes, self.max_queue_size)
            assert self._plan is not None
            batch = self._pool.get(key, self._plan.upcoming(key, self._pool.ahead))
            if batch is not None:
                return batch
        batch = aligned(self._batches.shape(index))
        self._batches.fill(batch, index, epoch)
        return batch


# For `boneage.training` only. These functions are not part of the public class.


def shard_for_devices(
    generator: DataGenerator, first: int, own: int, devices: int
) -> DataGenerator:
    """Return a generator of some devices' rows of every batch (see `DeviceShard`).

    Args:
        generator: Serves whole batches.
        first: Index of the first of these devices.
        own: Number of these devices, which follow one another.
        devices: Number of all devices. It divides the batch size.
    """
    shard = copy.copy(generator)
    shard._batches = DeviceShard(generator._batches, first, own, devices)
    return shard


def last_batch_counts(generator: DataGenerator) -> tuple[int, int]:
    """Return how many images an epoch's last batch has, on all devices, and how much padding."""
    batches = generator._batches
    if isinstance(batches, DeviceShard):
        return batches.last, batches.padding
    return batches.shape(len(batches) - 1)[0], 0


def whole_batch_rows(generator: DataGenerator, index: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the rows of a batch's images, of all devices: int64 `(b,)`, as they are served."""
    batches = generator._batches
    whole: Batches = batches.whole if isinstance(batches, DeviceShard) else batches
    return whole.rows(index, epoch)


class EpochRemainder(InOrder):
    """The later batches of a generator's epoch, to resume a training in the middle of an epoch.

    Args:
        generator: Serves the batches.
        first: Index of the first batch to serve.
    """

    def __init__(self, generator: DataGenerator, first: int) -> None:
        super().__init__(generator.threads, generator.max_queue_size)
        self.generator = generator
        self.first = first

    def __len__(self) -> int:
        """Return the number of batches that remain."""
        return len(self.generator) - self.first

    def __getitem__(self, index: SupportsIndex) -> Batch:
        """Return a batch, counted from the first that remains."""
        return self.generator[self.first + operator.index(index)]

    @property
    def next_epoch(self) -> int:
        """Return the generator's."""
        return self.generator.next_epoch

    def begin_pass(self, *, again: bool = False) -> int:
        """Begin a pass of the generator."""
        return self.generator.begin_pass(again=again)

    def batch_of_pass(self, epoch: int, index: int) -> Batch:
        """Return a batch, counted from the first that remains, of an epoch."""
        batch: Batch = self.generator.batch_of_pass(epoch, self.first + index)
        return batch

    def end_pass(self, epoch: int) -> None:
        """End the pass of the generator."""
        self.generator.end_pass(epoch)
