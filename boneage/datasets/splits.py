"""Assign images to splits or folds: whole patients, with similar ages and sexes in each part."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.cell_text import number_key, whole_number
from boneage.datasets.label_rules import SPLITS
from boneage.errors import Fault, InputError

_STRATUM_MONTHS = 24.0


def assign_splits(
    table: pd.DataFrame, *, seed: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> pd.DataFrame:
    """Assign every row to a split, stratified by age and sex and grouped by patient.

    Patients are sorted by stratum (sex, 24 months of age), then by a hash of seed and patient. Each
    goes to the split that is furthest below its fraction. So the order of the rows has no effect.

    Args:
        table: `image_id`, `age_months`, `sex`, and `patient_id` if patients are known. An image
            with an empty `patient_id` counts as a patient of its own.
        seed: Another seed gives another split.
        fractions: Fractions of train, val and test, which sum to 1.

    Returns:
        A copy with the column `split`.

    Raises:
        ValueError: The fractions are negative or do not sum to 1.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions {fractions} are not three fractions that sum to 1")
    return table.assign(split=[SPLITS[part] for part in _assign_parts(table, fractions, seed)])


def assign_folds(table: pd.DataFrame, *, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign every row to one of `folds` folds of equal size, as `assign_splits` does.

    Args:
        table: As for `assign_splits`.
        folds: At least 2, and at most the number of patients.
        seed: Another seed gives other folds.

    Returns:
        int64 (n,), 1 to `folds`; all images of a patient are in one fold.

    Raises:
        InputError: There are too few folds, or fewer patients than folds.
    """
    where = f"--folds {folds}"
    if folds < 2:
        what = "cross-validation needs at least 2 folds"
        raise InputError(Fault(where, what, "Use 5 folds."))
    patients = count_patients(table)
    if patients < folds:
        what = f"there are {patients} patients in train and val"
        fix = "Use fewer folds: all images of a patient go into one fold."
        raise InputError(Fault(where, what, fix))
    return _assign_parts(table, (1 / folds,) * folds, seed) + 1


def count_patients(table: pd.DataFrame) -> int:
    """Return the number of patients; an image with no `patient_id` is a patient of its own."""
    return int(_patients(table).nunique())


def _patients(table: pd.DataFrame) -> pd.Series:
    """Return the patient of each row, or the image where the patient is unknown.

    A patient that is 1 here and 001 there has the first of these names.
    """
    image = "image:" + table["image_id"].astype(str)
    if "patient_id" not in table:
        return image
    patient = table["patient_id"].fillna("").astype(str).map(whole_number)
    patient = patient.groupby(patient.map(number_key)).transform("min")
    return ("patient:" + patient).where(patient != "", image)


def _assign_parts(table: pd.DataFrame, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Return the index in `shares` of the part that each row goes to: int64 (n,)."""
    patient = _patients(table)
    ordered = table.assign(group=patient).sort_values("image_id", key=lambda ids: ids.astype(str))
    groups = ordered.groupby("group", sort=True).agg(
        age=("age_months", "mean"), sex=("sex", "first"), size=("image_id", "size")
    )
    groups["band"] = groups["age"] // _STRATUM_MONTHS
    groups["hash"] = [hashlib.sha256(f"{seed}/{key}".encode()).hexdigest() for key in groups.index]
    share = np.array(shares)
    sizes = np.zeros(len(share))
    chosen: dict[str, int] = {}
    for row in groups.sort_values(["sex", "band", "hash"]).itertuples():
        shortfall = share * (sizes.sum() + row.size) - sizes
        shortfall[share == 0] = -np.inf
        part = int(shortfall.argmax())
        sizes[part] += row.size
        chosen[str(row.Index)] = part
    return np.array([chosen[key] for key in patient], np.int64)
