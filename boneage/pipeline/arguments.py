"""The checks of what a user passes to `DataGenerator`: all faults at once, no file decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Number, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from boneage.datasets.label_rules import (
    MAX_AGE_MONTHS,
    is_possible_age,
    parse_sex,
    suspect_age_unit,
)
from boneage.errors import Fault, InputError
from boneage.pipeline.augmentation import Augment, ImageFunction
from boneage.pipeline.augmentation_trial import try_steps
from boneage.pipeline.batches import Batches, Floats, Mixture
from boneage.pipeline.sources import ImageSource, TwoFramings, image_source, sample_image
from boneage.recipe import Augmentation, Framing
from boneage.runtime.machine import check_memory, check_workers
from boneage.runtime.schemas import shown

if TYPE_CHECKING:
    import albumentations

MAX_WORKERS = 256


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
        sample_weight: float32 `(n,)`, or None.
        image_ids: Names of the images, or None.
    """

    gender: Floats
    age_months: Floats | None
    sample_weight: Floats | None
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
    sample_weight: Any,
    infants: bool,
    named: bool,
    sources: Sequence[str] | None,
    balance_sources: float,
    workers: WorkerSettings,
) -> tuple[Batches, Columns]:
    """Check the arguments of `DataGenerator`, and return what it serves from.

    Raises:
        InputError: Some arguments are invalid. It names all of them.
    """
    faults: list[Fault] = []
    source: ImageSource | None = None
    augment: Augment | None = None
    flags = {"shuffle": shuffle, "infants": infants, "named": named}
    _check_flags({**flags, "use_multiprocessing": workers.use_multiprocessing}, faults)
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
        None if age_months is None else _check_ages(age_months, count, infants, faults),
        None if sample_weight is None else _check_weights(sample_weight, count, faults),
        _check_ids(images, image_ids, count, faults),
    )
    if sample_weight is not None and age_months is None:
        fix = "Pass age_months too, or leave sample_weight out."
        faults.append(Fault("sample_weight", "it weights the errors of age_months", fix))
    names = _check_sources(sources, balance_sources, shuffle, count, faults)
    _check_whole_number("seed", seed, 0, 2**64 - 1, faults)
    _check_whole_number("batch_size", batch_size, 1, 65_536, faults)
    _check_workers(workers.workers, faults)
    _check_whole_number("max_queue_size", workers.max_queue_size, 1, 1000, faults)
    if source is not None and not faults:
        _check_memory_of_batches(source.shape, int(batch_size), workers, faults)
    if getattr(augmentation, "whole_image", 0) and not isinstance(source, TwoFramings):
        fix = "Set it to 0. Trainings of a recipe prepare the whole radiographs themselves."
        what = "the whole radiographs are not known here"
        faults.append(Fault("augmentation.whole_image", what, fix))
    is_own = augment is not None and not isinstance(augmentation, Augmentation)
    if is_own and source is not None and not faults:
        faults.extend(try_steps(augmentation, sample_image(source)))
    if faults:
        raise InputError(faults)
    assert source is not None
    mixture = (
        Mixture(names, float(balance_sources), int(seed)) if names and balance_sources else None
    )
    return Batches(source, augment, int(batch_size), bool(shuffle), int(seed), mixture), columns


def _check_sources(
    sources: Any, balance: Any, shuffle: Any, count: int | None, faults: list[Fault]
) -> list[str]:
    share = math.nan if isinstance(balance, (bool, np.bool_, str)) else _number(balance)
    if not 0 <= share <= 1:
        fix = "Pass a number from 0, every image equally often, to 1, every source equally often."
        faults.append(Fault("balance_sources", f"it is {shown(balance)}", fix))
    elif share and sources is None:
        fix = "Pass the name of each image's source too."
        faults.append(Fault("balance_sources", "sources are missing", fix))
    elif share and not shuffle:
        faults.append(Fault("balance_sources", "it needs shuffle", "Pass shuffle=True."))
    if sources is None:
        return []
    names = _column(sources)
    if names.ndim != 1:
        faults.append(_not_a_column("sources", names))
        return []
    _check_length("sources", len(names), count, faults)
    texts: list[str] = names.tolist()
    are_texts = np.array([isinstance(each, str) for each in texts], bool)
    _check_values("sources", names, are_texts, "Pass a text for every image.", faults)
    return texts


def _check_ids(
    images: Any, image_ids: Sequence[str] | None, count: int | None, faults: list[Fault]
) -> list[str] | None:
    if image_ids is not None:
        names = _column(image_ids)
        if names.ndim != 1:
            faults.append(_not_a_column("image_ids", names))
            return None
        _check_length("image_ids", len(names), count, faults)
        return list(names.tolist())
    of_store: Sequence[str] | None = getattr(images, "image_ids", None)
    return None if of_store is None else list(of_store)


def _check_gender(values: Any, count: int | None, faults: list[Fault]) -> Floats:
    column = _column(values)
    if column.ndim != 1:
        faults.append(_not_a_column("gender", column))
        return np.zeros((0, 1), np.float32)
    _check_length("gender", len(column), count, faults)
    sexes = [_sex(each) for each in column.tolist()]
    male = np.array([sex in (1, "M") for sex in sexes], bool)
    female = np.array([sex in (0, "F") for sex in sexes], bool)
    fix = "Pass 1 or 'M' for male, and 0 or 'F' for female."
    _check_values("gender", column, male | female, fix, faults)
    return male.astype(np.float32)[:, None]


def _sex(value: Any) -> Any:
    if isinstance(value, str):
        return parse_sex(value)
    return value if isinstance(value, (bool, np.bool_, Number)) else None  # pd.NA has no `==`


def _check_ages(values: Any, count: int | None, infants: bool, faults: list[Fault]) -> Floats:
    given = _column(values)
    column = _check_numbers("age_months", given, count, faults)
    if column is None:
        return np.zeros((0, 1), np.float32)
    unit = "" if infants and not (column < 0).any() else suspect_age_unit(column)
    if unit:
        what = f"they run from {np.nanmin(column):.4g} to {np.nanmax(column):.4g}"
        fix = "Pass bone ages in months, not scaled."
        if not (column < 0).any():
            fix += " If all children are that young, pass infants=True."
        faults.append(Fault("age_months", f"{what}, so they are probably {unit}", fix))
    else:
        fix = f"Pass every bone age in months, from 0 to {MAX_AGE_MONTHS:g}, not scaled."
        _check_values("age_months", given, is_possible_age(column), fix, faults)
    return column.astype(np.float32)[:, None]


def _check_weights(values: Any, count: int | None, faults: list[Fault]) -> Floats:
    given = _column(values)
    column = _check_numbers("sample_weight", given, count, faults)
    if column is None:
        return np.zeros(0, np.float32)
    with np.errstate(over="ignore"):
        weights = column.astype(np.float32)
    valid = np.isfinite(weights) & (weights >= 0)
    _check_values("sample_weight", given, valid, "Pass finite weights, 0 or more.", faults)
    if valid.all() and not weights.any():
        faults.append(Fault("sample_weight", "all weights are 0", "Weight some images above 0."))
    return weights


def _check_numbers(
    name: str, column: npt.NDArray[Any], count: int | None, faults: list[Fault]
) -> npt.NDArray[np.float64] | None:
    """Return a column as float64 `(n,)`, NaN for what is no number; None if it is no column."""
    if column.ndim != 1:
        faults.append(_not_a_column(name, column))
        return None
    _check_length(name, len(column), count, faults)
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    return np.array([_number(each) for each in column.tolist()], np.float64)


def _number(value: Any) -> float:
    if not isinstance(value, (str, bytes, Real, Decimal)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _column(values: Any) -> npt.NDArray[Any]:
    """Return values as an array. Those of a list keep their types."""
    if isinstance(values, np.ma.MaskedArray):
        values = values.tolist()  # None where masked
    try:
        array = np.asarray(values)
    except ValueError:  # some are lists
        array = np.asarray(values, dtype=object)
    if array.dtype.kind in "SU" and not hasattr(values, "dtype"):
        array = np.asarray(values, dtype=object)
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
        first = shown(values.tolist()[wrong[0]])
        what = f"{len(wrong)} of {len(values)} values are invalid, the first {first}"
        faults.append(Fault(name, f"{what} at {wrong[0]}", fix))


def _check_whole_number(name: str, value: Any, least: int, most: int, faults: list[Fault]) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        fix = f"Pass a whole number, {least} to {most:,}."
        faults.append(Fault(name, f"it is {shown(value)}", fix))


def _check_flags(flags: dict[str, Any], faults: list[Fault]) -> None:
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            faults.append(Fault(name, f"it is {shown(value)}", "Pass True or False."))


def _check_memory_of_batches(
    shape: tuple[int, int, int], batch_size: int, workers: WorkerSettings, faults: list[Fault]
) -> None:
    count, height, width = shape
    waiting = min(batch_size, count) * height * width * 4
    if workers.use_multiprocessing or workers.workers > 1:
        waiting *= workers.workers + workers.max_queue_size
    fix = "Use a smaller batch_size, a shorter max_queue_size or fewer workers."
    try:
        check_memory(waiting, "batch_size", "a queue of such batches", fix)
    except InputError as error:
        faults += error.faults


def _check_workers(workers: Any, faults: list[Fault]) -> None:
    before = len(faults)
    _check_whole_number("workers", workers, 1, MAX_WORKERS, faults)
    if len(faults) == before:
        try:
            check_workers(int(workers), "workers")
        except InputError as error:
            faults += error.faults
