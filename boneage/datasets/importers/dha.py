"""The Digital Hand Atlas (Los Angeles), radiographs of healthy children, to a manifest.

Race, sex and age in years stand in the folders (`ASIF/ASIF02/5131.jpg`), the two readings of each
radiograph in a table that the download no longer holds. The folders check what the table says: its
unit, its sexes, and that a reading is of the child whose radiograph it is put to. Source: Gertych
et al., Comput Med Imaging Graph 2007;31:322-331, doi:10.1016/j.compmedimag.2007.02.012.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.importers.columns import few, months_cells
from boneage.datasets.importers.dha_files import LAYOUT, Radiograph, find_radiographs
from boneage.datasets.importers.dha_labels import Readings, read_readings
from boneage.datasets.importers.folder import files_below
from boneage.datasets.manifest import Manifest, assign_splits, write_manifest
from boneage.datasets.tables.cells import Finding
from boneage.datasets.validation import INFANTS, YEARS_LOOK
from boneage.errors import Fault, InputError

SOURCE = "dha"
RADIOGRAPHS = 1_390
APART_MONTHS = 24.0
"""Readings further apart are named; the two readers' root mean square difference is 7.6 months
(Thodberg and Saevendahl, Acad Radiol 2010;17:1425-1432)."""

_FOLDER_SLACK_YEARS = 1.0  # ages are filed by whole years, here and there by the nearest one


def import_dha(
    folder: Path,
    out: Path,
    *,
    readings: Path,
    seed: int = 0,
    progress: bool = True,
    number: str | None = None,
    reading_1: str | None = None,
    reading_2: str | None = None,
    chronological: str | None = None,
    sex: str | None = None,
    patient: str | None = None,
    readings_unit: str | None = None,
    chronological_unit: str | None = None,
    sheet: str | None = None,
) -> Manifest:
    """Makes a manifest of the atlas and a table of its readings; images stay where they are.

    The bone age is the mean of the two readings. There are no official splits: a seeded 80/10/10
    split is made, by patient, alike in age and sex, and the source says so.

    Args:
        folder: Holds the radiographs in folders of race, sex and age, at any depth.
        out: The manifest to write; refers to the images by relative path.
        readings: The table: CSV, TSV, Excel or Parquet.
        seed: Of the split.
        progress: Show progress on standard error.
        number: Column with each radiograph's number, or its path with folders; None finds it by
            what it is usually called, as with the other columns.
        reading_1: Column with the first reading.
        reading_2: Column with the second reading.
        chronological: Column with the time since birth; may be absent.
        sex: Column with the sex, compared with the folders; may be absent.
        patient: Column that tells patients apart; may be absent, then every radiograph is one.
        readings_unit: `months` or `years`; None takes what the header says, or else what alone
            agrees with the age folders, for each of the two readings by itself.
        chronological_unit: The same of the time since birth.
        sheet: Worksheet of a workbook.

    Returns:
        The manifest, with `reading_1_months`, `reading_2_months` and `race` as further columns,
        and notes on counts and on what was left out.

    Raises:
        InputError: There is no such layout, or radiographs or readings are wrong (all at once).
    """
    root = Path(folder).resolve()
    files = files_below(folder, progress=progress, layout=LAYOUT)
    radiographs, others, faults = find_radiographs(files, root)
    table = read_readings(
        Path(readings),
        radiographs,
        columns={
            "number": number,
            "reading-1": reading_1,
            "reading-2": reading_2,
            "chronological": chronological,
            "sex": sex,
            "patient": patient,
        },
        readings_unit=readings_unit,
        chronological_unit=chronological_unit,
        sheet=sheet,
    )
    findings = [*table.findings, *_age_folder_findings(table), *_sex_findings(table)]
    faults += [finding.fault for finding in findings]
    used = table.complete_rows()
    if not used and not faults:
        faults.append(_nothing_joined(table, radiographs))
    if faults:
        raise InputError(faults)
    manifest_table = _manifest_table(table, used, Path(out).parent.resolve())
    source = [SOURCE]
    if manifest_table["age_months"].max() <= YEARS_LOOK:
        source.append(INFANTS)  # the unit is certain, and the manifest would take it for years
    source.append("seeded split")
    manifest_table["source"] = ", ".join(source)
    notes = [*_notes(table, used, radiographs, others), _split_note(seed)]
    return write_manifest(assign_splits(manifest_table, seed=seed), Path(out), notes=notes)


def _manifest_table(table: Readings, used: Sequence[int], base: Path) -> pd.DataFrame:
    radiographs = [table.radiographs[row] for row in used]
    first, second = table.first[used], table.second[used]
    columns: dict[str, object] = {
        "image_id": [f"dha-{radiograph.number}" for radiograph in radiographs if radiograph],
        "image": [
            os.path.relpath(radiograph.path, base) for radiograph in radiographs if radiograph
        ],
        "age_months": (first + second) / 2,
        "sex": [radiograph.sex for radiograph in radiographs if radiograph],
    }
    if table.patient is not None:
        columns["patient_id"] = table.cells.table[table.patient].iloc[list(used)].tolist()
    if table.chronological is not None:
        columns["chronological_age_months"] = months_cells(table.born[used])
    columns |= {
        "reading_1_months": months_cells(first),
        "reading_2_months": months_cells(second),
        "race": [radiograph.race for radiograph in radiographs if radiograph],
    }
    return pd.DataFrame(columns)


def _age_folder_findings(table: Readings) -> list[Finding]:
    """Times since birth that can't be of the child in that folder.

    A fault and not a note: where the two disagree by more than a year, the row is most likely
    another child's, and then its readings are wrong for this radiograph without looking wrong.
    """
    if table.chronological is None:
        return []
    column, texts = table.chronological, table.cells.table[table.chronological]
    beyond = _years_beyond_folder(table)
    return table.cells.row_findings(
        "age-not-of-folder",
        np.flatnonzero(beyond > _FOLDER_SLACK_YEARS),
        lambda row: (
            f"{column} is {texts[row]} ({table.born[row] / 12:.1f} years), and the radiograph is "
            + str(table.place(row))
        ),
        "the age of the radiograph's folder, to within a year",
        "Is it the row of another radiograph, or the radiograph in the wrong folder? Correct one of them.",
    )


def _years_beyond_folder(table: Readings) -> NDArray[np.float64]:
    """float64 (n,): how far outside its folder's year each age is; NaN where it isn't known."""
    year = np.array(
        [np.nan if radiograph is None else radiograph.year for radiograph in table.radiographs]
    )
    born = table.born / 12
    beyond: NDArray[np.float64] = np.maximum(year - born, born - (year + 1))
    return np.maximum(beyond, 0.0)


def _sex_findings(table: Readings) -> list[Finding]:
    if table.sex is None:
        return []
    column, texts = table.sex, table.cells.table[table.sex]
    unlike = [
        row
        for row, (radiograph, said) in enumerate(zip(table.radiographs, table.sexes, strict=True))
        if radiograph is not None and said and said != radiograph.sex
    ]
    return table.cells.row_findings(
        "sex-not-of-folder",
        unlike,
        lambda row: f"{column} is {texts[row]!r}, and the radiograph is {table.place(row)}",
        "the sex of the radiograph's folder",
        "Is it the row of another radiograph, or the radiograph in the wrong folder? Correct one of them.",
    )


def _nothing_joined(table: Readings, radiographs: Sequence[Radiograph]) -> Fault:
    rows = few(table.numbers)
    return Fault(
        table.cells.where,
        f"none of its {len(table.numbers):,} rows has two readings and a radiograph ({rows})",
        f"Is {table.cells.key} the column with the numbers, and is it the atlas's own numbering?",
        expected=f"the numbers of the radiographs, such as {few(radiograph.number for radiograph in radiographs)}",
    )


def _notes(
    table: Readings, used: Sequence[int], radiographs: Sequence[Radiograph], others: Sequence[str]
) -> Iterator[str]:
    yield f"{len(used):,} radiographs with two readings; the atlas has about {RADIOGRAPHS:,} radiographs."
    yield from table.notes
    keys = table.cells.keys()
    names = Path(table.cells.where).name
    if absent := [
        keys[row] for row, radiograph in enumerate(table.radiographs) if radiograph is None
    ]:
        yield f"{len(absent):,} rows of {names} have no radiograph and are left out ({few(absent)})."
    here = {radiograph.path for radiograph in table.radiographs if radiograph is not None}
    if unread := [radiograph.number for radiograph in radiographs if radiograph.path not in here]:
        yield f"{len(unread):,} radiographs have no row in {names} and are left out ({few(unread)})."
    joined = [row for row, radiograph in enumerate(table.radiographs) if radiograph is not None]
    known = ~np.isnan(np.stack([table.first, table.second]))
    for count, what in ((0, "no reading"), (1, "one reading only")):
        if rows := [keys[row] for row in joined if known[:, row].sum() == count]:
            yield f"{len(rows):,} radiographs have {what} and are left out ({few(rows)})."
    apart = np.abs(table.first - table.second)
    if rows := [keys[row] for row in used if apart[row] > APART_MONTHS]:
        yield (
            f"{len(rows):,} radiographs have readings more than {APART_MONTHS:g} months apart: look "
            f"whether one is mistyped ({few(rows)})."
        )
    beyond = _years_beyond_folder(table)
    if rows := [keys[row] for row in used if beyond[row] > 0]:
        yield f"{len(rows):,} ages are up to a year outside that of their folder ({few(rows)})."
    if table.patient is None:
        yield "No column tells patients apart: every radiograph counts as a patient of its own."
    if others:
        yield (
            f"{len(others):,} images are not in a folder of race, sex and age, such as ASIF02, and "
            f"are left out ({few(others)})."
        )


def _split_note(seed: int) -> str:
    return (
        f"The atlas has no official split: this one is seeded (seed {seed}), and errors on it "
        "don't compare with published ones."
    )
