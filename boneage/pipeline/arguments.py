"""The checks of what a user passes to `DataGenerator`: all faults at once, no file decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.pipeline.augmentation import Augment, ImageFunction
from boneage.pipeline.batches import Batches, Floats
from boneage.pipeline.sources import ImageSource, image_source
from boneage.recipe import Augmentation, Framing

if TYPE_CHECKING:
    import albumentations

MAX_AGE_MONTHS = 240.0


@dataclass(frozen=True)
class WorkerSettings:
    """How many threads or processes make batches, and how many batches may wait.

    Attributes:
        workers: Number of threads or processes.
        use_multiprocessing: Whether they are processes.
        max_queue_size: Most batches that wait to be used.
    """

    workers: int
    use_multiprocessing: bool
    max_queue_size: int

    @property
    def processes(self) -> int:
        """Return the number of worker processes, 0 for none."""
        return self.workers if self.use_multiprocessing else 0

    @property
    def threads(self) -> int:
        """Return the number of threads that make batches in `fit`."""
        return 1 if self.use_multiprocessing else self.workers


@dataclass(frozen=True)
class Columns:
    """The labels of the images, one row per image.

    Attributes:
        gender: float32 `(n, 1)`, 1.0 = male.
        age_months: float32 `(n, 1)`, or None.
        image_ids: Names of the images, or None.
    """

    gender: Floats
    age_months: Floats | None
    image_ids: list[str] | None


def check_arguments(
    images: Any,
    gender: Any,
    age_months: Any,
    augmentation: Augmentation | ImageFunction | albumentations.Compose | None,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    image_size: int | None,
    framing: Framing | None,
    image_ids: Sequence[str] | None,
    workers: WorkerSettings,
) -> tuple[Batches, Columns]:
    """Check the arguments of `DataGenerator`, and return what it serves from.

    Raises:
        InputError: Some arguments are invalid. It names all of them.
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
    columns = Columns(
        _check_gender(gender, count, faults),
        None if age_months is None else _check_ages(age_months, count, faults),
        _check_ids(images, image_ids, count, faults),
    )
    numbers = {"batch_size": batch_size, "seed": seed}
    numbers |= {"workers": workers.workers, "max_queue_size": workers.max_queue_size}
    for name, value in numbers.items():
        _check_whole_number(name, value, 0 if name == "seed" else 1, faults)
    if faults:
        raise InputError(faults)
    assert source is not None
    return Batches(source, augment, int(batch_size), bool(shuffle), int(seed)), columns


def _check_ids(
    images: Any, image_ids: Sequence[str] | None, count: int | None, faults: list[Fault]
) -> list[str] | None:
    if image_ids is not None:
        _check_length("image_ids", len(image_ids), count, faults)
        return list(image_ids)
    of_store: Sequence[str] | None = getattr(images, "image_ids", None)
    return None if of_store is None else list(of_store)


def _check_gender(values: Any, count: int | None, faults: list[Fault]) -> Floats:
    column = _column(values)
    if column.ndim != 1:
        faults.append(_not_a_column("gender", column))
        return np.zeros((0, 1), np.float32)
    _check_length("gender", len(column), count, faults)
    male = np.array([value in (1, "M") for value in column.tolist()], bool)
    female = np.array([value in (0, "F") for value in column.tolist()], bool)
    fix = "Pass 1 or 'M' for male, and 0 or 'F' for female."
    _check_values("gender", column, male | female, fix, faults)
    return male.astype(np.float32)[:, None]


def _check_ages(values: Any, count: int | None, faults: list[Fault]) -> Floats:
    try:
        column = _column(values).astype(np.float64)
    except (TypeError, ValueError):
        column = np.full(np.shape(values)[:1], np.nan)
    if column.ndim != 1:
        faults.append(_not_a_column("age_months", column))
        return np.zeros((0, 1), np.float32)
    _check_length("age_months", len(column), count, faults)
    valid = (column >= 0) & (column <= MAX_AGE_MONTHS)
    fix = f"Pass every bone age in months, from 0 to {MAX_AGE_MONTHS:g}, not scaled."
    _check_values("age_months", column, valid, fix, faults)
    return column.astype(np.float32)[:, None]


def _column(values: Any) -> npt.NDArray[Any]:
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _not_a_column(name: str, array: npt.NDArray[Any]) -> Fault:
    return Fault(name, f"its shape is {array.shape}", "Pass one column: (n,) or (n, 1).")


def _check_length(name: str, length: int, count: int | None, faults: list[Fault]) -> None:
    if count is not None and length != count:
        what = f"it has {length} values for {count} images"
        faults.append(Fault(name, what, "Pass one value per image, in the order of the images."))


def _check_values(
    name: str,
    values: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    fix: str,
    faults: list[Fault],
) -> None:
    wrong = np.flatnonzero(~valid)
    if len(wrong):
        what = f"{len(wrong)} of {len(values)} values are invalid, the first {values[wrong[0]]!r}"
        faults.append(Fault(name, f"{what} at {wrong[0]}", fix))


def _check_whole_number(name: str, value: Any, least: int, faults: list[Fault]) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        faults.append(Fault(name, f"it is {value!r}", f"Pass a whole number, {least} or more."))
