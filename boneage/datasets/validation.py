"""Check tables of images and labels: find everything that is wrong with a manifest."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.cell_text import number_key
from boneage.datasets.cells import Cells, Finding, missing_column
from boneage.datasets.label_rules import (
    COLUMNS,
    INFANTS,
    MAX_AGE_MONTHS,
    OPTIONAL_COLUMNS,
    SEXES,
    SPLITS,
    image_path,
    is_possible_age,
    parse_region,
    suspect_age_unit,
)
from boneage.datasets.number_columns import read_numbers
from boneage.datasets.tables import read_cells
from boneage.errors import Fault

_SYNONYMS = {
    "image_id": ("id", "case_id", "filename"),
    "image": ("image_path", "path", "file", "filename"),
    "age_months": ("boneage", "bone_age", "age", "boneage_months", "bone_age_months"),
    "sex": ("gender", "male"),
    "split": ("subset", "set", "partition", "fold"),
}
_LONGEST_QUOTE = 200
_PATIENT_NAMES = ("patient", "patient_name", "subject", "subject_id", "patientid")
_ONE_SEX = ("one sex for each patient", "Correct the sex, or the patient.")
_IN_YEARS = (
    "Are the ages in years? Import the table with --age-unit years. "
    f"If all children are that young, write {INFANTS} in the column source of every row."
)


@dataclass(frozen=True)
class ManifestValidation:
    """A manifest file as far as it can be read, and everything wrong with it.

    Attributes:
        cells: The table as text.
        ages: float64 (n,), NaN where the cell is no number or there is no such column.
        chronological_ages: Likewise.
        findings: Every fault of the table, missing image files included.
        digest: sha256 of the bytes.
    """

    cells: Cells
    ages: NDArray[np.float64]
    chronological_ages: NDArray[np.float64]
    findings: tuple[Finding, ...]
    digest: str

    @property
    def has_possible_age(self) -> NDArray[np.bool_]:
        """Return for each row whether its bone age is possible; summaries leave out the others."""
        return is_possible_age(self.ages)


def validate_manifest(content: bytes, path: Path) -> ManifestValidation:
    """Find everything wrong with the bytes of a manifest that is, or will be, at `path`.

    Raises:
        InputError: The bytes are not a readable table.
    """
    cells = read_cells(content, str(path), names=COLUMNS)
    folder = path.parent.resolve()
    ages = numbers(cells, "age_months")
    chronological_ages = numbers(cells, "chronological_age_months")
    sources = _texts(cells, "source")
    are_infants = bool(sources) and all(re.search(rf"\b{INFANTS}\b", text) for text in sources)
    findings = (
        *cells.findings,
        *_column_findings(cells),
        *id_findings(cells, "image_id"),
        *_image_findings(cells, folder),
        *age_findings(cells, "age_months", ages),
        *([] if are_infants else years_findings(cells, "age_months", ages, _IN_YEARS)),
        *chronological_findings(cells, "chronological_age_months", chronological_ages),
        *_region_findings(cells),
        *choice_findings(cells, "sex", SEXES, "unknown-sex", "Write F for female, M for male."),
        *choice_findings(cells, "split", SPLITS, "unknown-split", "Use one of the three."),
        *patient_findings(cells, *(_texts(cells, n) for n in ("patient_id", "sex", "split"))),
        *_shared_image_findings(cells, folder),
    )
    return ManifestValidation(
        cells, ages, chronological_ages, findings, hashlib.sha256(content).hexdigest()
    )


def is_file(path: Path) -> bool:
    """Return whether a file exists; False too for a path that no file system would accept."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name of 5,000 letters, or with a NUL in it
        return False


def numbers(cells: Cells, column: str) -> NDArray[np.float64]:
    """Return a text column as float64 (n,); NaN where there is no finite number or no column."""
    if column not in cells.table:
        return np.full(len(cells.table), np.nan)
    return read_numbers(cells.table[column].tolist()).numbers


def expected_months(cells: Cells, column: str) -> str:
    """Return what a cell of a column of months should hold, in the form of that column."""
    return f"a number of months {read_numbers(cells.table[column].tolist()).form}".rstrip()


def age_findings(cells: Cells, column: str, ages: NDArray[np.float64]) -> list[Finding]:
    """Return the cells that are no bone age in months: no number, or outside 0 to 240."""
    if column not in cells.table or not len(ages):
        return []
    texts = cells.table[column]
    findings = cells.row_findings(
        "bad-age",
        np.flatnonzero(np.isnan(ages)),
        lambda row: describe_cell(column, texts[row]),
        expected_months(cells, column),
        "Write months as a number. An image without an age can't be used.",
    )
    return findings + cells.row_findings(
        "impossible-age",
        np.flatnonzero(~np.isnan(ages) & ~is_possible_age(ages)),
        lambda row: f"{column} is {texts[row]}",
        f"months from 0 to {MAX_AGE_MONTHS:g}",
        "Correct the label or its unit.",
    )


def years_findings(
    cells: Cells,
    column: str,
    ages: NDArray[np.float64],
    fix: str = "Are the ages in years? Pass --age-unit years.",
) -> list[Finding]:
    """Return a fault if a column of months probably holds years."""
    unit = suspect_age_unit(ages)
    if column not in cells.table or not unit:
        return []
    median = np.nanmedian(ages)
    if unit != "in years":
        fix = f"The ages are probably {unit}. Write months."
    return cells.row_findings(
        "years-as-months",
        [int(np.nanargmax(ages))],
        lambda row: (
            f"{column} is {cells.table[column][row]}, the largest of the column, and the median "
            f"is {median:.4g}"
        ),
        "months",
        fix,
    )


def chronological_findings(cells: Cells, column: str, months: NDArray[np.float64]) -> list[Finding]:
    """Return the cells that are no chronological age in months; a cell may be empty.

    Args:
        cells: The table.
        column: The column of the ages; it may be missing.
        months: float64 (n,), NaN where a cell is no number.
    """
    if column not in cells.table:
        return []
    texts = cells.table[column]
    wrong = (texts.to_numpy() != "") & ~((months >= 0) & (months <= 2 * MAX_AGE_MONTHS))
    return cells.row_findings(
        "bad-chronological-age",
        np.flatnonzero(wrong),
        lambda row: f"{column} is {texts[row]!r}",
        f"months from 0 to {2 * MAX_AGE_MONTHS:g}, or nothing",
        "Correct it, or leave it empty.",
    )


def describe_cell(column: str, text: str) -> str:
    """Return what a cell holds, as a clause of a message."""
    if len(text) > _LONGEST_QUOTE:
        text = f"{text[:_LONGEST_QUOTE]}…"
    return f"{column} is {text!r}" if text else f"{column} is empty"


def _texts(cells: Cells, column: str) -> list[str]:
    return [str(text) for text in cells.table.get(column, [])]


def _column_findings(cells: Cells) -> list[Finding]:
    findings = [
        missing_column(cells, name, _SYNONYMS)
        for name in (*COLUMNS, *(n for n in OPTIONAL_COLUMNS if n in cells.unusable))
        if name not in cells.table
    ]
    for column in cells.table.columns:
        name = re.sub(r"[^a-z0-9]+", "_", str(column).lower())
        close = difflib.get_close_matches(name, OPTIONAL_COLUMNS, n=1, cutoff=0.85)
        if name in _PATIENT_NAMES and "patient_id" not in cells.table:
            close = ["patient_id"]
        if close and column not in OPTIONAL_COLUMNS:  # a misspelt patient_id would go unchecked
            fix = f"Did you mean {close[0]!r}? Otherwise give it a less similar name."
            fault = Fault(cells.where, f"unknown column {column!r}", fix)
            findings.append(Finding("unknown-column", fault))
    return findings


def id_findings(cells: Cells, column: str, ids: Sequence[str] | None = None) -> list[Finding]:
    """Return the images without a name, and the names that are used twice.

    Args:
        cells: The table.
        column: The column of the names.
        ids: The names to compare, when they are not those of the column.
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
        "",
        "Give every image a name of its own.",
    )
    return findings + cells.row_findings(
        "duplicate-id",
        np.flatnonzero(names.duplicated() & (names != "")),
        lambda row: f"{column} {texts[row]} is already in row {first[names[row]]}",
        "",
        "Remove or rename one of the rows.",
    )


def _image_findings(cells: Cells, folder: Path) -> list[Finding]:
    if "image" not in cells.table:
        return []
    images = cells.table["image"]
    findings = cells.row_findings(
        "empty-image",
        np.flatnonzero(images == ""),
        lambda row: "image is empty",
        "",
        "Write the image's path, relative to the manifest.",
    )
    missing = [
        row for row, name in enumerate(images) if name and not is_file(image_path(folder, name))
    ]
    return findings + cells.row_findings(
        "missing-file",
        missing,
        lambda row: f"there is no image {images[row]}",
        "",
        f"Paths start from {folder}. Put the file there, or correct the column image.",
    )


def rows_by_image(cells: Cells, folder: Path) -> dict[Path, list[int]]:
    """Return the positions of the rows of each image, however its path is written."""
    rows_of: dict[Path, list[int]] = {}
    for row, name in enumerate(cells.table.get("image", [])):
        if name:
            rows_of.setdefault(image_path(folder, name), []).append(row)
    return rows_of


def _shared_image_findings(cells: Cells, folder: Path) -> list[Finding]:
    paths = [image_path(folder, name) if name else None for name in _texts(cells, "image")]
    first_of = rows_that_differ(paths, _texts(cells, "split"))
    return cells.row_findings(
        "image-in-two-splits",
        first_of,
        lambda row: (
            f"image {cells.table['image'][row]} is also in row {cells.rows[first_of[row]]}, "
            "in another split"
        ),
        "",
        "Keep one of the rows.",
    )


def _region_findings(cells: Cells) -> list[Finding]:
    if "region" not in cells.table:
        return []
    texts = cells.table["region"]
    return cells.row_findings(
        "bad-region",
        [row for row, text in enumerate(texts) if text and parse_region(text) is None],
        lambda row: f"region is {texts[row]!r}",
        "left top right bottom in pixels, such as '0 0 900 1200'",
        "Correct it, or leave it empty for the whole radiograph.",
    )


def choice_findings(
    cells: Cells, column: str, choices: Sequence[str], code: str, fix: str
) -> list[Finding]:
    """Return the cells of a column whose value is not allowed."""
    if column not in cells.table:
        return []
    values = cells.table[column]
    return cells.row_findings(
        code,
        np.flatnonzero(~values.isin(choices)),
        lambda row: describe_cell(column, values[row]),
        f"{', '.join(choices[:-1])} or {choices[-1]}",
        fix,
    )


def patient_findings(
    cells: Cells, patients: Sequence[str], sexes: Sequence[str], splits: Sequence[str]
) -> list[Finding]:
    """Return the patients that have two sexes, or images in more than one split.

    Args:
        cells: The table.
        patients: The patient of each row, empty where it is unknown; nothing for no such column.
        sexes: F, M or another text for each row; likewise.
        splits: The split of each row; likewise.
    """
    same = [number_key(patient) for patient in patients]  # 1.0 and 001 are patient 1
    known = [sex if sex in SEXES else "" for sex in sexes]
    findings = []
    for code, values, what, expected, fix in (
        ("patient-in-two-splits", splits, "in ", "", "Move all images of a patient to one split."),
        ("patient-with-two-sexes", known, "", *_ONE_SEX),
    ):
        whats = {
            row: f"patient {patients[row]} is {what}{values[row]} here and {what}{values[first]} "
            f"in row {cells.rows[first]}"
            for row, first in rows_that_differ(same, values).items()
        }
        findings += cells.row_findings(code, whats, whats.__getitem__, expected, fix)
    return findings


def rows_that_differ(patients: Sequence[Hashable], values: Sequence[str]) -> dict[int, int]:
    """Return each row whose value is not that of its patient's first row, and that first row.

    Rows without a patient or a value are left out.
    """
    first: dict[Hashable, int] = {}
    differing = {}
    for row, (patient, value) in enumerate(zip(patients, values, strict=False)):
        if patient and value:
            earlier = first.setdefault(patient, row)
            if values[earlier] != value:
                differing[row] = earlier
    return differing
