"""Every rule a manifest keeps, and everything that is wrong with one."""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.tables import Cells, Finding, missing_column, read_cells
from boneage.errors import Fault

COLUMNS = ("image_id", "image", "age_months", "sex", "split")
OPTIONAL = ("patient_id", "chronological_age_months", "region", "source")
SPLITS = ("train", "val", "test")
SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people write for the three, in lower case."""
SEXES = ("F", "M")
MOST_MONTHS = 240.0
"""Largest bone age accepted; the oldest labels of RSNA and RHPE are 228 and 240 months."""
YEARS_LOOK = 25.0
"""A column of ages that never passes this is taken for years, and refused as months."""
INFANTS = "infants"
"""The word in `source` by which a cohort says that all its children are that young."""

Region = tuple[int, int, int, int]
"""Part of a radiograph in pixels: left, top, right, bottom; the last two are the first ones outside."""

_MOST_DIGITS = 7  # of a number of a region: no picture is that wide, and no number endless
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SYNONYMS = {
    "image_id": ("id", "case_id", "filename"),
    "image": ("image_path", "path", "file", "filename"),
    "age_months": ("boneage", "bone_age", "age", "boneage_months", "bone_age_months"),
    "sex": ("gender", "male"),
    "split": ("subset", "set", "partition", "fold"),
}
_PATIENT_NAMES = ("patient", "patient_name", "subject", "subject_id", "patientid")


@dataclass(frozen=True)
class Examination:
    """A manifest file as far as it can be read, and everything wrong with it.

    Attributes:
        cells: The table as text.
        ages: float64 (n,), NaN where the cell is no number or there is no such column.
        findings: Every fault of the table, missing image files included.
        digest: sha256 of the bytes.
    """

    cells: Cells
    ages: NDArray[np.float64]
    findings: tuple[Finding, ...]
    digest: str

    @property
    def possible(self) -> NDArray[np.bool_]:
        """Bool (n,): whose age can be one: what sums up ages leaves out the others."""
        return np.asarray((self.ages >= 0) & (self.ages <= MOST_MONTHS))


def examine(content: bytes, path: Path) -> Examination:
    """Finds everything wrong with the bytes of a manifest that stands, or will, at `path`.

    Raises:
        InputError: They are no table at all.
    """
    cells = read_cells(content, str(path))
    folder = path.parent.resolve()
    ages = numbers(cells, "age_months")
    findings = (
        *cells.findings,
        *_column_findings(cells),
        *id_findings(cells, "image_id"),
        *_image_findings(cells, folder),
        *age_findings(cells, "age_months", ages),
        *([] if _only_infants(cells) else years_findings(cells, "age_months", ages)),
        *_chronological_findings(cells),
        *_region_findings(cells),
        *choice_findings(cells, "sex", SEXES, "unknown-sex", "Write F for female, M for male."),
        *choice_findings(cells, "split", SPLITS, "unknown-split", "Name one of the three."),
        *patient_findings(cells),
        *_shared_image_findings(cells, folder),
    )
    return Examination(cells, ages, findings, hashlib.sha256(content).hexdigest())


def image_path(folder: Path, name: str) -> Path:
    """Where an `image` of a manifest in `folder` (absolute, links resolved) is.

    `..` is taken out of the path, so that it holds while `folder` itself is still to be made.
    """
    return Path(os.path.normpath(folder / name))


def is_file(path: Path) -> bool:
    """Whether a file is there; False too for a path that no file system would take."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name of 5,000 letters, or with a NUL in it
        return False


def numbers(cells: Cells, column: str) -> NDArray[np.float64]:
    """float64 (n,) of a text column; NaN where a cell is no finite number, or no such column."""
    if column not in cells.table:
        return np.full(len(cells.table), np.nan)
    values = [float(c) if _NUMBER.fullmatch(c) else math.nan for c in cells.table[column]]
    array = np.array(values, np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def age_findings(cells: Cells, column: str, ages: NDArray[np.float64]) -> list[Finding]:
    """Ages that are no months: not a number, or outside 0 to 240."""
    if column not in cells.table or not len(ages):
        return []
    texts = cells.table[column]
    findings = cells.row_findings(
        "bad-age",
        np.flatnonzero(np.isnan(ages)),
        lambda row: f"{column} is {texts[row]!r}" if texts[row] else f"{column} is empty",
        "a number of months",
        "Write months with a decimal point; an image without an age can't be used.",
    )
    return findings + cells.row_findings(
        "impossible-age",
        np.flatnonzero((ages < 0) | (ages > MOST_MONTHS)),
        lambda row: f"{column} is {texts[row]}",
        f"months from 0 to {MOST_MONTHS:g}",
        "Correct the label, or the unit.",
    )


def years_findings(
    cells: Cells,
    column: str,
    ages: NDArray[np.float64],
    fix: str = "Is it in years? Pass --age-unit years.",
) -> list[Finding]:
    """A whole column of years where months belong, told by its largest age."""
    known = np.where(np.isnan(ages), -np.inf, ages)
    if column not in cells.table or not 0 < known.max(initial=-np.inf) <= YEARS_LOOK:
        return []
    return cells.row_findings(
        "years-as-months",
        [int(known.argmax())],
        lambda row: f"{column} is {cells.table[column][row]}, the largest of all",
        f"months, and this column's median is {np.nanmedian(ages):.4g}",
        fix,
    )


def _only_infants(cells: Cells) -> bool:
    return "source" in cells.table and bool(
        cells.table["source"].str.contains(rf"\b{INFANTS}\b").all()
    )


def _column_findings(cells: Cells) -> list[Finding]:
    findings = [
        missing_column(cells, name, _SYNONYMS) for name in COLUMNS if name not in cells.table
    ]
    for column in cells.table.columns:
        name = re.sub(r"[^a-z0-9]+", "_", str(column).lower())
        close = difflib.get_close_matches(name, OPTIONAL, n=1, cutoff=0.85)
        if name in _PATIENT_NAMES and "patient_id" not in cells.table:
            close = ["patient_id"]
        if close and column not in OPTIONAL:  # a patient_id misspelt would go unchecked
            findings.append(
                Finding(
                    "unknown-column",
                    Fault(
                        cells.where,
                        f"unknown column {column!r}",
                        f"Did you mean {close[0]!r}?",
                        expected=f"{close[0]!r}, or a quite different name",
                    ),
                )
            )
    return findings


def id_findings(cells: Cells, column: str, ids: Sequence[str] | None = None) -> list[Finding]:
    """Images without a name, and names that stand twice.

    Args:
        cells: The table.
        column: Where the names are.
        ids: The names as they are compared, when that is not as they are written.
    """
    if column not in cells.table:
        return []
    texts = cells.table[column]
    names = texts if ids is None else pd.Series(ids, dtype=str)
    first = dict(zip(reversed(names.tolist()), reversed(cells.rows), strict=True))
    findings = cells.row_findings(
        "empty-id",
        np.flatnonzero(names == ""),
        lambda row: f"{column} is empty",
        "a name of its own for every image",
        "Fill it in.",
    )
    return findings + cells.row_findings(
        "duplicate-id",
        np.flatnonzero(names.duplicated() & (names != "")),
        lambda row: f"{column} {texts[row]} stands in row {first[names[row]]} already",
        f"each {column} once",
        "Remove one of the rows, or rename it.",
    )


def _image_findings(cells: Cells, folder: Path) -> list[Finding]:
    if "image" not in cells.table:
        return []
    images = cells.table["image"]
    findings = cells.row_findings(
        "empty-image",
        np.flatnonzero(images == ""),
        lambda row: "image is empty",
        "the image's path, relative to the manifest",
        "Fill it in.",
    )
    absent = [
        row for row, name in enumerate(images) if name and not is_file(image_path(folder, name))
    ]
    return findings + cells.row_findings(
        "missing-file",
        absent,
        lambda row: f"there is no image {images[row]}",
        f"a file of that path, relative to {folder}",
        "Put the file there, or correct the column image.",
    )


def rows_by_image(cells: Cells, folder: Path) -> dict[Path, list[int]]:
    """Positions in the table of the rows of each image, however its path is spelt."""
    rows_of: dict[Path, list[int]] = {}
    for row, name in enumerate(cells.table.get("image", [])):
        if name:
            rows_of.setdefault(image_path(folder, name), []).append(row)
    return rows_of


def _shared_image_findings(cells: Cells, folder: Path) -> list[Finding]:
    if "split" not in cells.table:
        return []
    splits = cells.table["split"]
    first_of = {
        row: first
        for first, *rest in rows_by_image(cells, folder).values()
        for row in rest
        if splits[row] != splits[first]
    }
    return cells.row_findings(
        "image-in-two-splits",
        sorted(first_of),
        lambda row: (
            f"image {cells.table['image'][row]} is that of row {cells.rows[first_of[row]]} too"
        ),
        "each image in one split",
        "Keep one of the rows.",
    )


def _chronological_findings(cells: Cells) -> list[Finding]:
    column = "chronological_age_months"
    if column not in cells.table:
        return []
    ages, texts = numbers(cells, column), cells.table[column]
    wrong = (texts.to_numpy() != "") & ~((ages >= 0) & (ages <= 2 * MOST_MONTHS))
    return cells.row_findings(
        "bad-chronological-age",
        np.flatnonzero(wrong),
        lambda row: f"{column} is {texts[row]!r}",
        f"months from 0 to {2 * MOST_MONTHS:g}, or nothing",
        "Correct it, or leave it empty.",
    )


def parse_region(text: str) -> Region | None:
    """The four numbers of a `region` cell, or None when it is not four that enclose anything."""
    parts = text.split(" ")
    if len(parts) != 4 or not all(
        len(part) <= _MOST_DIGITS and part.isascii() and part.isdigit() for part in parts
    ):
        return None
    left, top, right, bottom = map(int, parts)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _region_findings(cells: Cells) -> list[Finding]:
    column = "region"
    if column not in cells.table:
        return []
    texts = cells.table[column]
    return cells.row_findings(
        "bad-region",
        [row for row, text in enumerate(texts) if text and parse_region(text) is None],
        lambda row: f"{column} is {texts[row]!r}",
        "left top right bottom in pixels, as in '0 0 900 1200', or nothing for the whole film",
        "Correct it, or leave it empty.",
    )


def choice_findings(
    cells: Cells, column: str, choices: Sequence[str], code: str, fix: str
) -> list[Finding]:
    """Cells of a column that are none of the few values it may hold."""
    if column not in cells.table:
        return []
    values = cells.table[column]
    return cells.row_findings(
        code,
        np.flatnonzero(~values.isin(choices)),
        lambda row: f"{column} is {values[row]!r}" if values[row] else f"{column} is empty",
        f"{', '.join(choices[:-1])} or {choices[-1]}",
        fix,
    )


def patient_findings(cells: Cells) -> list[Finding]:
    """Patients with images in more than one split."""
    if not {"patient_id", "split"} <= set(cells.table.columns):
        return []
    table = cells.table[cells.table["patient_id"] != ""]
    splits = table.groupby("patient_id", sort=False)["split"].agg(lambda s: sorted(set(s)))
    shared = splits[splits.map(len) > 1]
    first = table.drop_duplicates("patient_id").set_index("patient_id")
    row_of = dict(zip(first.index, table.index[~table["patient_id"].duplicated()], strict=True))
    patient_at = {int(row_of[patient]): patient for patient in shared.index}
    return cells.row_findings(
        "patient-in-two-splits",
        patient_at,
        lambda row: f"patient {patient_at[row]} is in {' and '.join(shared[patient_at[row]])}",
        "all images of a patient in one split",
        "Move them to one split.",
    )
