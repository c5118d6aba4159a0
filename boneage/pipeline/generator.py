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

from boneage.errors import Fault, InputError
from boneage.pipeline.augmentation import Augment, ImageFunction
from boneage.pipeline.batches import Batches, Floats, aligned
from boneage.pipeline.device_shards import Share
from boneage.pipeline.keras_adapter import InOrder
from boneage.pipeline.sources import ImageSource, image_source
from boneage.pipeline.workers.pool import Workers
from boneage.pipeline.workers.prefetch import Foresight
from boneage.recipe import Augmentation, Framing

if TYPE_CHECKING:
    import albumentations

# `((image, gender), age_months)`, or as `named` and missing ages change it.
Batch: TypeAlias = tuple[Any, ...]

MOST_MONTHS = 240.0


class DataGenerator(keras.utils.PyDataset, InOrder):
    """Serves `(image, gender), age_months` to `fit`, `evaluate` and `predict`.

    | served | array |
    |---|---|
    | `image` | float32 `(b, h, w, 1)` in [0, 1]: uint8 / 255, divided after augmentation |
    | `gender` | float32 `(b, 1)`, 1.0 = male |
    | `age_months` | float32 `(b, 1)`, months |

    A batch is a pure function of (seed, epoch, index): the same with any number of workers,
    threads or processes, in any order of access, and after a resume. Every image is served
    exactly once an epoch; the last batch may be short. The epoch advances with each epoch of
    `fit` (and with each `evaluate` or `predict` on this same generator), and when `next` has
    served a last batch. A training that is resumed sets `generator.epoch` first.

    `fit` takes the batches in their order, whatever its own `shuffle` says: this generator's is the
    thorough one, and a run can be repeated. (`class_weight` is not for regression, and has no
    effect.)

    With `use_multiprocessing`, `workers` fresh processes (spawned, never forked) write batches
    into shared memory, ahead of what is asked for and on into the next epoch; nothing is copied
    on the way to TensorFlow. They start with the first batch and end with `close()`, at the end
    of `with DataGenerator(...) as generator:`, or with the generator. They need no guarded
    `__main__`, and functions and lambdas of a notebook reach them by value.

    Attributes:
        epoch: The epoch that batches are served of, from 0; may be set.
        image_ids: One for each image, in the order given; None if unknown.
        processes: How many make batches; 0 for none.
        threads: How many make batches in `fit` where no processes do.
        failure: What broke a batch off last, as it was raised: Keras wraps it; None if nothing.
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
        """Checks everything that can be checked without decoding a file.

        Args:
            images: Array `(n, h, w)`, `(n, h, w, 1)` or RGB `(n, h, w, 3)`, 0-255; or paths of
                radiographs, decoded and framed each time they are served; or a `Store` or
                `StoreView`.
            gender: `n` values: 1 or "M" for male, 0 or "F" for female.
            age_months: `n` ages in months; None serves `((image, gender),)`, for `predict`.
            batch_size: Images a batch.
            shuffle: Whether every epoch has an order of its own.
            augmentation: Recipe settings, an albumentations transform, or a function of a uint8
                `(h, w)` array (see `Augment`).
            seed: Of order and augmentation; not negative.
            image_size: Side in pixels that paths are framed to; for other images, the side that
                they are checked to have.
            framing: How paths are framed, if not as a recipe does by default.
            named: Whether to serve `{"image": ..., "gender": ...}` in place of the tuple. The ages
                stay a plain array: Keras refuses named targets for a model of one output.
            image_ids: `n` names of the images.
            workers: Threads, or processes, that `fit` makes batches with.
            use_multiprocessing: Processes in place of threads: the fast way where augmentation is
                what takes time. An array of images is copied once into memory that they share.
            max_queue_size: Batches that wait to be used, at most.

        Raises:
            InputError: What is given is no such thing; all faults at once.
        """
        faults: list[Fault] = []
        source: ImageSource | None = None
        augment: Augment | None = None
        try:
            source = image_source(images, image_size, framing)
        except InputError as error:
            faults.extend(error.faults)
        try:
            augment = None if augmentation is None else Augment(augmentation)
        except InputError as error:
            faults.extend(error.faults)
        count = None if source is None else len(source)
        self._gender = _gender(gender, count, faults)
        self._age_months = None if age_months is None else _ages(age_months, count, faults)
        known = getattr(images, "image_ids", None) if image_ids is None else image_ids
        self.image_ids: list[str] | None = None if known is None else list(known)
        if image_ids is not None:
            _check_length("image_ids", len(image_ids), count, faults)
        _check_whole_number("batch_size", batch_size, 1, faults)
        _check_whole_number("seed", seed, 0, faults)
        _check_whole_number("workers", workers, 1, faults)
        _check_whole_number("max_queue_size", max_queue_size, 1, faults)
        if faults:
            raise InputError(faults)
        assert source is not None
        # These are ours: Keras' own processes would be forked each epoch, its queue waits.
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=int(max_queue_size))
        self.processes = int(workers) if use_multiprocessing else 0
        self.threads = 1 if use_multiprocessing else int(workers)
        self.named = bool(named)
        self.epoch = 0
        self.failure: BaseException | None = None
        self._batches = Batches(source, augment, int(batch_size), bool(shuffle), int(seed))
        self._whole: DataGenerator | None = None
        self._in_epoch = False
        self._next_index = 0
        self._making: Workers | None = None
        self._foresight = Foresight(len(self._batches))

    @property
    def batch_size(self) -> int:
        """Images a batch; the last may have fewer."""
        return self._batches.batch_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, 1)` of every image."""
        return self._batches.shape(0)[1:]

    def __len__(self) -> int:
        """Batches an epoch: all images, the last batch perhaps short."""
        return len(self._batches)

    def __getitem__(self, index: SupportsIndex) -> Batch:
        """Makes the batch of this index in the present epoch; negative ones count from the end."""
        count = len(self)
        place = operator.index(index)
        if not -count <= place < count:
            raise IndexError(f"batch {place} of {count}")
        place %= count
        epoch = self.epoch  # read once: a whole batch is of one epoch
        rows = self.rows(place, epoch)
        inputs = (self._images(place, epoch), self._gender[rows])
        served = dict(zip(("image", "gender"), inputs, strict=True)) if self.named else inputs
        if self._age_months is None:
            return (served,)
        return served, self._age_months[rows]

    def __next__(self) -> Batch:
        """Returns the following batch, and after the last one the first of the next epoch."""
        batch = self[self._next_index]
        self._next_index += 1
        if self._next_index == len(self):
            self._next_index = 0
            self.epoch += 1
        return batch

    def share(self, first: int, own: int, devices: int) -> DataGenerator:
        """A generator of the rows that some of the devices have of every batch; see `Share`.

        Args:
            first: The first of those devices.
            own: How many of them, one after the other.
            devices: All of them; they divide the batch size.
        """
        generator = copy.copy(self)
        generator._batches = Share(self._batches, first, own, devices)
        generator._whole = self
        return generator

    @property
    def whole(self) -> DataGenerator:
        """What this is a share of; itself if of nothing."""
        return self if self._whole is None else self._whole

    @property
    def last_batch(self) -> tuple[int, int]:
        """Images in the last batch of an epoch, of all shares; and rows that only fill it up."""
        batches = self._batches
        if isinstance(batches, Share):
            return batches.last, batches.padding
        return batches.shape(len(batches) - 1)[0], 0

    def after(self, first: int) -> Remainder:
        """What is left of the present epoch when so many batches of it have been served."""
        return Remainder(self, first)

    def shapes(self) -> Any:
        """The shapes of what is served, in its structure, with None for the number of images."""
        inputs = ((None, *self.image_shape), (None, 1))
        served: Any = dict(zip(("image", "gender"), inputs, strict=True)) if self.named else inputs
        return (served,) if self._age_months is None else (served, (None, 1))

    def rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        """Returns which images are in a batch: int64 `(b,)`, in the order they are served."""
        return self._batches.rows(index, epoch)

    def on_epoch_begin(self) -> None:
        """Notes that an epoch runs; Keras calls it."""
        self._in_epoch = True

    def on_epoch_end(self) -> None:
        """Advances the epoch; Keras calls it, once before the first epoch too."""
        # Here and not at the beginning, because workers ask for batches before
        # `on_epoch_begin` is called, and never after this until the next epoch.
        if self._in_epoch:
            self.epoch += 1
        self._in_epoch = False

    def close(self) -> None:
        """Ends the processes, if there are any; batches are then made in this one."""
        self.processes = 0
        if self._making is not None:
            self._making.close()

    def __enter__(self) -> DataGenerator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        # TensorFlow reports what a batch raised as an error of its own, with the text in it.
        failure = self.failure
        wrapped = isinstance(error, Exception) and type(failure).__name__ in str(error)
        if failure is not None and wrapped and error is not failure:
            raise failure from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_making": None, "_foresight": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._foresight = Foresight(len(self))

    def _images(self, index: int, epoch: int) -> Floats:
        try:
            if self.processes:
                key = (epoch, index)
                if self._making is None:
                    self._making = Workers(self._batches, self.processes, self.max_queue_size)
                upcoming = self._foresight.upcoming(key, self._making.ahead)
                batch = self._making.get(key, upcoming)
                if batch is not None:
                    return batch
            batch = aligned(self._batches.shape(index))
            self._batches.fill(batch, index, epoch)
        except BaseException as error:
            self.failure = error
            raise
        return batch


class Remainder(keras.utils.PyDataset, InOrder):
    """The later batches of a generator's epoch, for a training that goes on in the middle of one.

    Attributes:
        generator: Whose they are.
        first: The first of them.
    """

    def __init__(self, generator: DataGenerator, first: int) -> None:
        super().__init__()
        self.generator = generator
        self.first = first
        self.threads = generator.threads

    def __len__(self) -> int:
        """Batches that are left."""
        return len(self.generator) - self.first

    def __getitem__(self, index: SupportsIndex) -> Batch:
        """Makes the batch that is so many after the first one."""
        return self.generator[self.first + operator.index(index)]

    def shapes(self) -> Any:
        """As the generator's."""
        return self.generator.shapes()

    def on_epoch_begin(self) -> None:
        """Tells the generator."""
        self.generator.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tells the generator."""
        self.generator.on_epoch_end()


def _column(values: Any) -> npt.NDArray[Any]:
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _check_length(name: str, length: int, count: int | None, faults: list[Fault]) -> None:
    if count is not None and length != count:
        faults.append(
            Fault(
                name,
                f"it has {length} values for {count} images",
                "Select images and values with the same rows.",
                expected=f"{count}, one for each image in the same order",
            )
        )


def _check_whole_number(name: str, value: Any, least: int, faults: list[Fault]) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        faults.append(
            Fault(
                name,
                f"it is {value!r}",
                "Mend that argument.",
                expected=f"a whole number from {least}",
            )
        )


def _check_values(
    name: str,
    values: npt.NDArray[Any],
    right: npt.NDArray[np.bool_],
    expected: str,
    fix: str,
    faults: list[Fault],
) -> None:
    wrong = np.flatnonzero(~right)
    if len(wrong):
        what = f"{len(wrong)} of {len(values)} values are wrong, the first {values[wrong[0]]!r}"
        faults.append(Fault(name, f"{what} at {wrong[0]}", fix, expected=expected))


def _gender(values: Any, count: int | None, faults: list[Fault]) -> Floats:
    column = _column(values)
    if column.ndim != 1:
        faults.append(_not_a_column("gender", column))
        return np.zeros((0, 1), np.float32)
    _check_length("gender", len(column), count, faults)
    male = np.array([value in (1, "M") for value in column.tolist()], bool)
    female = np.array([value in (0, "F") for value in column.tolist()], bool)
    _check_values(
        "gender", column, male | female, "1 or 'M' (male), 0 or 'F' (female)", "Map them.", faults
    )
    return male.astype(np.float32)[:, None]


def _ages(values: Any, count: int | None, faults: list[Fault]) -> Floats:
    try:
        column = _column(values).astype(np.float64)
    except (TypeError, ValueError):
        column = np.full(np.shape(values)[:1], np.nan)
    if column.ndim != 1:
        faults.append(_not_a_column("age_months", column))
        return np.zeros((0, 1), np.float32)
    _check_length("age_months", len(column), count, faults)
    _check_values(
        "age_months",
        column,
        (column >= 0) & (column <= MOST_MONTHS),
        f"months, 0 to {MOST_MONTHS:g}",
        "Pass bone ages in months, neither scaled nor missing.",
        faults,
    )
    return column.astype(np.float32)[:, None]


def _not_a_column(name: str, array: npt.NDArray[Any]) -> Fault:
    return Fault(name, f"its shape is {array.shape}", "Pass one column.", expected="(n,) or (n, 1)")
