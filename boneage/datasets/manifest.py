"""The manifest: one checked CSV with a row for every image, in months, F or M, and split."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.tables import read_bytes
from boneage.datasets.validation import (
    COLUMNS,
    OPTIONAL,
    SPLITS,
    Examination,
    Region,
    examine,
    image_path,
    numbers,
    parse_region,
)
from boneage.errors import Fault, InputError
from boneage.runtime.files import write_bytes

__all__ = (
    "COLUMNS",
    "OPTIONAL",
    "SPLITS",
    "Manifest",
    "assign_folds",
    "assign_splits",
    "read_manifest",
    "write_manifest",
)

_STRATUM_MONTHS = 24.0


@dataclass(frozen=True, eq=False)
class Manifest:
    """A cohort whose table has been checked.

    Attributes:
        path: The CSV file.
        table: `COLUMNS`, then what optional and further columns the file has, in the file's row
            order; ids are str, ages float64 in months.
        digest: sha256 of the file's bytes, hexadecimal.
        notes: What an importer has to say that is not a fault.
    """

    path: Path
    table: pd.DataFrame
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def image_paths(self) -> list[Path]:
        """Absolute path of every image, in row order."""
        folder = self.path.parent.resolve()
        return [image_path(folder, name) for name in self.table["image"]]

    def regions(self) -> list[Region | None]:
        """The part of each radiograph that is meant, in row order; None for the whole of it."""
        if "region" not in self.table:
            return [None] * len(self)
        return [parse_region(text) for text in self.table["region"]]

    def split(self, name: str) -> Manifest:
        """The rows of one split, as a manifest of the same file.

        Raises:
            InputError: There is no split of that name, or no image in it.
        """
        if name not in SPLITS:
            close = difflib.get_close_matches(name, SPLITS, n=1)
            raise InputError(
                Fault(
                    "split",
                    f"unknown split {name!r}",
                    f"Did you mean {close[0]!r}?" if close else "Name one of those.",
                    expected=f"one of {', '.join(SPLITS)}",
                )
            )
        rows = self.table[self.table["split"] == name].reset_index(drop=True)
        if rows.empty:
            raise InputError(
                Fault(
                    str(self.path),
                    f"no row has split {name!r}",
                    "Assign some images to it in the column split.",
                    expected="at least one",
                )
            )
        return replace(self, table=rows)

    def gender(self) -> NDArray[np.float32]:
        """float32 (n, 1), 1.0 = male."""
        return np.array(self.table["sex"] == "M", np.float32)[:, None]

    def age_months(self) -> NDArray[np.float32]:
        """float32 (n, 1), labelled bone age in months."""
        return np.array(self.table["age_months"], np.float32)[:, None]


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest and checks all of its table; images are looked for, not opened.

    Raises:
        InputError: The file can't be read, or any row of it is wrong (all faults at once).
    """
    path = Path(path)
    return _manifest(path, examine(read_bytes(path), path))


def write_manifest(table: pd.DataFrame, path: Path, *, notes: Sequence[str] = ()) -> Manifest:
    """Checks a table as `read_manifest` would, then writes it in one step.

    Args:
        table: At least `COLUMNS`; `image` relative to the folder that `path` is in.
        path: Where to; missing folders are made, an older file is replaced.
        notes: Handed on in the manifest returned.

    Raises:
        InputError: The table is wrong, or the file can't be written. Nothing is left behind.
    """
    path = Path(path)
    first = [name for name in (*COLUMNS, *OPTIONAL) if name in table]
    ordered = table[[*first, *(name for name in table if name not in first)]].copy()
    for name in ("age_months", "chronological_age_months"):
        if name in ordered:
            ordered[name] = [
                f"{value:.10g}" if isinstance(value, int | float | np.number) else value
                for value in ordered[name]
            ]
            ordered[name] = ordered[name].replace("nan", "")
    content = ordered.to_csv(index=False, lineterminator="\n").encode()
    manifest = _manifest(path, examine(content, path))
    write_bytes(path, content)
    return replace(manifest, notes=tuple(notes))


def assign_splits(
    table: pd.DataFrame, *, seed: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> pd.DataFrame:
    """Gives every row a split: all images of a patient alike, each split alike in age and sex.

    Groups are put in order of stratum (24 months of age, sex), inside it by a hash of seed and
    patient, and each goes to the split that is furthest behind its share. So the outcome does
    not depend on the order of the rows.

    Args:
        table: `image_id`, `age_months`, `sex`, and `patient_id` where there is one (an empty
            `patient_id` is taken for a patient of its own).
        seed: Another seed, another split.
        fractions: Shares of train, val and test, which sum to 1.

    Returns:
        A copy with the column `split`.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions {fractions} are not three shares that sum to 1")
    return table.assign(split=[SPLITS[place] for place in _dealt(table, fractions, seed)])


def assign_folds(table: pd.DataFrame, *, folds: int, seed: int) -> NDArray[np.int64]:
    """Gives every row one of `folds` folds of equal shares, dealt as `assign_splits` deals splits.

    Args:
        table: As `assign_splits` takes it.
        folds: How many; at least 2, and at most as many as there are patients.
        seed: Another seed, other folds.

    Returns:
        int64 (n,), 1 to `folds`: all images of a patient in one, each alike in age and sex.

    Raises:
        InputError: There are too few folds, or fewer patients than folds.
    """
    where = f"--folds {folds}"
    if folds < 2:
        raise InputError(
            Fault(where, "one part has no other to be trained on", "Take 5.", expected="2 or more")
        )
    patients = _groups(table).nunique()
    if patients < folds:
        raise InputError(
            Fault(
                where,
                f"there are {patients} patients to be dealt",
                "Take fewer folds; all images of a patient go into one.",
                expected=f"2 to {patients}"
                if patients > 1
                else "at least two patients in train and val",
            )
        )
    return _dealt(table, (1 / folds,) * folds, seed) + 1


def _groups(table: pd.DataFrame) -> pd.Series:
    """What has to stay together: the patient, or the image where none is told."""
    group = "image:" + table["image_id"].astype(str)
    if "patient_id" not in table:
        return group
    patient = table["patient_id"].fillna("").astype(str)
    return ("patient:" + patient).where(patient != "", group)


def _dealt(table: pd.DataFrame, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The place in `shares` that each row, and its whole group, goes to: int64 (n,)."""
    group = _groups(table)
    ordered = table.assign(group=group).sort_values("image_id", key=lambda ids: ids.astype(str))
    groups = ordered.groupby("group", sort=True).agg(
        age=("age_months", "mean"), sex=("sex", "first"), size=("image_id", "size")
    )
    groups["band"] = groups["age"] // _STRATUM_MONTHS
    groups["lot"] = [hashlib.sha256(f"{seed}/{key}".encode()).hexdigest() for key in groups.index]
    share = np.array(shares)
    have = np.zeros(len(share))
    chosen: dict[str, int] = {}
    for row in groups.sort_values(["sex", "band", "lot"]).itertuples():
        behind = share * (have.sum() + row.size) - have
        behind[share == 0] = -np.inf
        best = int(behind.argmax())
        have[best] += row.size
        chosen[str(row.Index)] = best
    return np.array([chosen[key] for key in group], np.int64)


def _manifest(path: Path, examination: Examination) -> Manifest:
    if examination.findings:
        raise InputError([finding.fault for finding in examination.findings])
    cells = examination.cells
    table = cells.table.copy()
    table["age_months"] = examination.ages
    if "chronological_age_months" in table:
        table["chronological_age_months"] = numbers(cells, "chronological_age_months")
    return Manifest(path, table, examination.digest)
