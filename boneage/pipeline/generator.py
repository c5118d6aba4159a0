"""The dataset that Keras trains from: images, gender and ages, batch by batch."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from boneage.pipeline.arguments import WorkerSettings, check_arguments
from boneage.pipeline.augmentation import ImageFunction
from boneage.pipeline.batches import Batches, DeviceShard, Floats, aligned
from boneage.pipeline.keras_adapter import InOrder
from boneage.pipeline.workers.pool import PrefetchPlan, Workers
from boneage.recipe import Augmentation, Framing

if TYPE_CHECKING:
    import albumentations

# `((image, gender), age_months)`. `named=True` makes the first a dict. Without ages it is alone.
Batch: TypeAlias = tuple[Any, ...]


class DataGenerator(keras.utils.PyDataset, InOrder):
    """Serves `(image, gender), age_months` to `fit`, `evaluate` and `predict`.

    | served | array |
    |---|---|
    | `image` | float32 `(b, h, w, 1)` in [0, 1]: uint8 / 255, divided after augmentation |
    | `gender` | float32 `(b, 1)`, 1.0 = male |
    | `age_months` | float32 `(b, 1)`, months |

    A batch is a pure function of (seed, epoch, index). It is the same with any number of workers,
    threads or processes, in any order of access, and after a resume. Every image is served
    exactly once per epoch. The last batch may be short. The epoch advances with each epoch of
    `fit`, with each `evaluate` or `predict` on this generator, and when `next` has served a last
    batch. To resume a training, set `generator.epoch` first.

    `fit` takes the batches in order and ignores its own `shuffle`. Use the generator's `shuffle`,
    which also shuffles within batches and can be repeated. `class_weight` has no effect, because
    it does not apply to regression.

    With `use_multiprocessing`, `workers` new processes (spawned, never forked) write batches into
    shared memory ahead of time, also for the next epoch. TensorFlow reads that memory without a
    copy. The processes start with the first batch. They end with `close()`, at the end of
    `with DataGenerator(...) as generator:`, or with the generator. Scripts need no
    `if __name__ == "__main__"`, and an augmentation may be a function or lambda of a notebook.

    Attributes:
        epoch: Epoch whose batches are served, from 0. It may be set.
        image_ids: Names of the images, or None.
        processes: Number of processes that make batches, 0 for none.
        threads: Number of threads that make batches in `fit`.
        failure: The last exception while making a batch, as it was raised, or None. Keras raises
            it in a wrapper.
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
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        """Check the arguments, without decoding a file.

        Args:
            images: Array `(n, h, w)`, `(n, h, w, 1)` or RGB `(n, h, w, 3)`, 0-255; or paths of
                radiographs, decoded and framed each time they are served; or a `Store` or
                `StoreView`.
            gender: The sex of the children, `n` values: 1 or "M" for male, 0 or "F" for female.
            age_months: `n` ages in months. None serves `((image, gender),)`, for `predict`.
            batch_size: Images per batch.
            shuffle: Whether each epoch has its own order.
            augmentation: Recipe settings, an albumentations transform, or a function of a uint8
                `(h, w)` array (see `Augment`).
            seed: Seed of order and augmentation, 0 or more.
            image_size: Side of the framed image in pixels, for paths. For other images, the side
                that they must have.
            framing: How paths are framed. Default: as a recipe does.
            named: Whether to serve `{"image": ..., "gender": ...}` instead of the tuple. The ages
                stay an array: Keras refuses named targets for a model with one output.
            image_ids: `n` names of the images. Default: those of the store.
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
            workers=settings,
        )
        # Keras gets no workers: it would fork them each epoch, and its queue waits.
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=int(max_queue_size))
        self._gender, self._age_months = columns.gender, columns.age_months
        self.image_ids = columns.image_ids
        self.processes, self.threads = int(settings.processes), int(settings.threads)
        self.named = bool(named)
        self.epoch = 0
        self.failure: BaseException | None = None
        self._in_epoch = False
        self._next_index = 0
        self._pool: Workers | None = None
        self._plan = PrefetchPlan(len(self._batches))

    @property
    def batch_size(self) -> int:
        """Return the images per batch. The last batch may have fewer."""
        return self._batches.batch_size

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
        """Return the batch of an index in the present epoch, counted from the end if negative."""
        count = len(self)
        number = operator.index(index)
        if not -count <= number < count:
            raise IndexError(f"batch {number} of {count}")
        number %= count
        epoch = self.epoch  # read once, so that the whole batch is of one epoch
        rows = self._batches.rows(number, epoch)
        inputs = self._in_structure(self._images(number, epoch), self._gender[rows])
        return (inputs,) if self._age_months is None else (inputs, self._age_months[rows])

    def __next__(self) -> Batch:
        """Return the following batch. After the last one comes the first of the next epoch."""
        batch = self[self._next_index]
        self._next_index += 1
        if self._next_index == len(self):
            self._next_index = 0
            self.epoch += 1
        return batch

    def on_epoch_begin(self) -> None:
        """Note that an epoch runs. Keras calls this."""
        self._in_epoch = True

    def on_epoch_end(self) -> None:
        """Advance the epoch. Keras calls this, once before the first epoch too."""
        # The epoch advances here and not at the beginning: workers ask for batches before
        # `on_epoch_begin` is called, and never between this call and the next epoch.
        if self._in_epoch:
            self.epoch += 1
        self._in_epoch = False

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
        return {**self.__dict__, "_pool": None, "_plan": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plan = PrefetchPlan(len(self))

    def _shapes(self) -> Any:
        inputs = self._in_structure((None, *self.image_shape), (None, 1))
        return (inputs,) if self._age_months is None else (inputs, (None, 1))

    def _in_structure(self, image: Any, gender: Any) -> Any:
        return {"image": image, "gender": gender} if self.named else (image, gender)

    def _images(self, index: int, epoch: int) -> Floats:
        try:
            if self.processes:
                key = (epoch, index)
                if self._pool is None:
                    self._pool = Workers(self._batches, self.processes, self.max_queue_size)
                batch = self._pool.get(key, self._plan.upcoming(key, self._pool.ahead))
                if batch is not None:
                    return batch
            batch = aligned(self._batches.shape(index))
            self._batches.fill(batch, index, epoch)
        except BaseException as error:
            self.failure = error
            raise
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


class EpochRemainder(keras.utils.PyDataset, InOrder):
    """The later batches of a generator's epoch, to resume a training in the middle of an epoch.

    Args:
        generator: Serves the batches.
        first: Index of the first batch to serve.
    """

    def __init__(self, generator: DataGenerator, first: int) -> None:
        super().__init__()
        self.generator = generator
        self.first = first
        self.threads = generator.threads

    def __len__(self) -> int:
        """Return the number of batches that remain."""
        return len(self.generator) - self.first

    def __getitem__(self, index: SupportsIndex) -> Batch:
        """Return a batch, counted from the first that remains."""
        return self.generator[self.first + operator.index(index)]

    def on_epoch_begin(self) -> None:
        """Pass the call on to the generator."""
        self.generator.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Pass the call on to the generator."""
        self.generator.on_epoch_end()

    def _shapes(self) -> Any:
        return self.generator._shapes()
