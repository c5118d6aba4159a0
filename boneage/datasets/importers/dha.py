"""Import the Digital Hand Atlas (Los Angeles): radiographs of healthy children with two readings.

Race, sex and age in years are in the folder names (`ASIF/ASIF02/5131.jpg`). The readings are in a
table that the download no longer holds. The folders check the table: its units, its sexes, and
that each row belongs to the child on the radiograph. Source: Gertych et al., Comput Med Imaging
Graph 2007;31:322-331, doi:10.1016/j.compmedimag.2007.02.012.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from boneage.datasets.cells import Cells, Finding, missing_column
from boneage.datasets.importers.ages import UNITS, Ages, read_ages
from boneage.datasets.importers.columns import few, find_column, months_cells, radiograph_number
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, files_below, with_suffix
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.sex_codes import read_sexes
from boneage.datasets.splits import assign_splits
from boneage.datasets.tables import read_sheet
from boneage.datasets.validation import id_findings, patient_findings
from boneage.errors import Fault, InputError

SOURCE = "dha"
RADIOGRAPHS = 1_390
APART_MONTHS = 24.0
"""Readings further apart are named; the two readers' root mean square difference is 7.6 months
(Thodberg and Saevendahl, Acad Radiol 2010;17:1425-1432)."""

_LAYOUT = "ASIF/ASIF02/5131.jpg: race (ASI, BLK, CAU, HIS) and sex, the same with years, number"
_GROUP = re.compile(r"(ASI|BLK|CAU|HIS)([FM])(0[0-9]|1[0-8])", re.IGNORECASE)
_COLUMNS = {  # the name of each column, unless an option gives another
    "number": ("number", "image", "image_id", "id"),
    "reading-1": ("reading_1", "reading1"),
    "reading-2": ("reading_2", "reading2"),
    "chronological": ("chronological_age", "chronological", "age"),
    "sex": ("sex", "gender"),
    "patient": ("patient_id", "patient", "subject_id", "subject"),
}
_READINGS = ("reading-1", "reading-2")
_REQUIRED = ("number", *_READINGS)
_FOLDER_COLUMNS = ("path", "group", "sex", "year")
_FOLDER_SLACK_YEARS = 1.0  # a few ages are filed by the nearest year
_MOST_YEARS_OFF = 2.0  # healthy children: the median reading is nearer to the age


def import_dha(
    folder: Path,
    out: Path,
    *,
    readings: Path,
    readings_unit: str,
    seed: int = 0,
    progress: bool = True,
    number: str | None = None,
    reading_1: str | None = None,
    reading_2: str | None = None,
    chronological: str | None = None,
    sex: str | None = None,
    patient: str | None = None,
    chronological_unit: str | None = None,
    sheet: str | None = None,
) -> Manifest:
    """Write a manifest of the atlas and a table of its readings. The images stay where they are.

    The bone age is the mean of the two readings. There are no official splits: a seeded 80/10/10
    split is made, by patient, with ages and sexes alike.

    Args:
        folder: Holds the radiographs in the atlas's folders of race, sex and age.
        out: The manifest to write. It refers to the images by relative path.
        readings: The table: CSV, TSV, Excel or Parquet.
        readings_unit: `months` or `years`, or another of `ages.UNITS`.
        seed: Seed of the split.
        progress: Show progress on standard error.
        number: Column with the radiograph's number or path. None finds a column by its usual name.
        reading_1: Column with the first reading; so also `reading_2`.
        reading_2: Column with the second reading.
        chronological: Column with the time since birth; may be absent.
        sex: Column with the sex, compared with the folders; may be absent.
        patient: Column with the patient; may be absent, then every radiograph is one patient.
        chronological_unit: The unit of the time since birth; None is that of the readings.
        sheet: Worksheet of a workbook.

    Returns:
        The manifest, with the further columns `reading_1_months`, `reading_2_months` and `race`.
        Its notes name counts, and what was left out.

    Raises:
        InputError: The layout is another one, or folders or readings are wrong (all at once).
    """
    root = Path(folder).resolve()
    files = files_below(folder, progress=progress, layout=_LAYOUT)
    atlas, others, faults = _read_folders(files, root)
    names = (number, reading_1, reading_2, chronological, sex, patient)
    wanted = [name for name in names if name is not None]
    cells = read_sheet(Path(readings), key=number or "number", sheet=sheet, names=wanted)
    columns, wrong = _find_columns(cells, dict(zip(_COLUMNS, names, strict=True)))
    cells = cells.using(columns.values())
    units = {"readings-unit": readings_unit, "chronological-unit": chronological_unit}
    for option, unit in units.items():
        if unit not in (None, *UNITS):
            wrong.append(Fault(f"--{option}", f"unknown unit {unit!r}", "Pass months or years."))
    if wrong:
        raise InputError([*faults, *(finding.fault for finding in cells.findings), *wrong])
    cells = replace(cells, key=columns["number"])
    table = _join(cells, atlas)
    findings = [*cells.findings, *_id_findings(cells, table)]
    ages = _read_all_ages(cells, columns, readings_unit, chronological_unit)
    for name in _READINGS:
        table[name] = ages[name].months
        faults += _unit_faults(cells, columns[name], readings_unit, table, name)
    table["chronological"] = ages["chronological"].months if "chronological" in ages else np.nan
    findings += [finding for column in ages.values() for finding in column.findings]
    if "chronological" in ages:
        findings += _age_findings(cells, columns["chronological"], table)
    findings += _sex_findings(cells, columns, table)
    faults += [finding.fault for finding in findings]
    is_used = table[["path", "reading-1", "reading-2"]].notna().all(axis=1)
    if not is_used.any() and not faults:
        what = f"none of its {len(table):,} rows has two readings and a radiograph"
        fix = f"Does {cells.key} hold the atlas's own numbers, such as {few(atlas.index)}?"
        faults.append(Fault(cells.where, what, fix))
    faults += _patient_faults(cells, columns, table, is_used)
    if faults:
        raise InputError(faults)
    rows = _manifest_rows(table[is_used], columns, Path(out).parent.resolve())
    notes = [
        *_notes(cells, table, atlas, others),
        *(note for column in ages.values() for note in column.notes),
        *_column_notes(cells, columns),
        *_split_notes(columns, seed),
    ]
    return write_manifest(assign_splits(rows, seed=seed), Path(out), notes=notes)


def _patient_faults(
    cells: Cells, columns: dict[str, str], table: pd.DataFrame, is_used: pd.Series
) -> list[Fault]:
    """Add the patients to the table, if there is a column; return what is wrong with them."""
    if "patient" not in columns:
        return []
    table["patient_id"] = cells.table[columns["patient"]]
    sexes = table["sex"].where(is_used, "").tolist()
    found = patient_findings(cells, table["patient_id"].tolist(), sexes, [])
    return [finding.fault for finding in found]


def _read_folders(files: Sequence[Path], root: Path) -> tuple[pd.DataFrame, list[str], list[Fault]]:
    """Return the radiographs, the images outside the atlas's folders, and faults.

    The radiographs have `path`, `group` (ASIF02), `sex` and `year` by their number.
    """
    rows, others, faults = [], list[str](), list[Fault]()
    for path in with_suffix(files, IMAGE_SUFFIXES):
        group, outer = path.parent.name.upper(), path.parent.parent.name
        match = _GROUP.fullmatch(group)
        if match is None:
            others.append(str(path.relative_to(root)))
            continue
        if outer.upper() != group[:4] and path.parent != root:
            what = f"the folder {path.parent.name} is in {outer}"
            fix = f"Find out which of the two is right. The atlas has {group} in {group[:4]}."
            faults.append(Fault(str(path.relative_to(root)), what, fix))
        rows.append((radiograph_number(path.name), str(path), group, group[3], int(match[3])))
    if not rows:
        what = f"none of its {len(others):,} images is in a folder of race, sex and age"
        fix = "Name the folder that holds ASIF, ASIM, BLKF and so on."
        raise InputError(Fault(str(root), what, fix, expected=_LAYOUT))
    atlas = pd.DataFrame(rows, columns=["number", *_FOLDER_COLUMNS]).set_index("number")
    twice = atlas[atlas.index.duplicated(keep=False)].sort_index(kind="stable")
    if len(twice):
        paths = few(os.path.relpath(path, root) for path in twice["path"])
        what = f"{twice.index.nunique():,} numbers belong to several radiographs ({paths})"
        fix = "Name the folder of one copy of the atlas, or move the wrong radiographs away."
        faults.append(Fault(str(root), what, fix))
    return atlas[~atlas.index.duplicated(keep=False)], others, faults


def _find_columns(
    cells: Cells, given: Mapping[str, str | None]
) -> tuple[dict[str, str], list[Fault]]:
    """Return the table's own name of each column: as the option says, or by a usual name."""
    columns: dict[str, str] = {}
    faults: list[Fault] = []
    for option, known in _COLUMNS.items():
        name = given[option]
        usual = find_column(cells, known)
        column = usual if name is None else name if name in cells.table else None
        if column is not None:
            columns[option] = column
        elif name is not None:
            fault = missing_column(cells, name).fault
            faults.append(replace(fault, where=f"{cells.where} (--{option} {name})"))
        elif option in _REQUIRED:
            fix = f"If it has another name, pass it with --{option}."
            faults.append(replace(missing_column(cells, known[0]).fault, fix=fix))
    for column in sorted(set(columns.values())):
        shared = [f"--{option}" for option, name in columns.items() if name == column]
        if len(shared) > 1:
            what = f"column {column!r} is used for {' and '.join(shared)}"
            faults.append(Fault(cells.where, what, "Name a column of its own for each."))
    return columns, faults


def _join(cells: Cells, atlas: pd.DataFrame) -> pd.DataFrame:
    """Return the radiograph of each row: by number, and by folder if the row names a folder.

    The atlas's own list has rows with the number of another child's radiograph, in another folder
    (5260 in ASIF05, whose radiograph is 5262).
    """
    texts = cells.table[cells.key].tolist()
    table = atlas.reindex([radiograph_number(text) for text in texts]).reset_index(drop=True)
    groups = [PurePosixPath(text.replace("\\", "/")).parent.name.upper() for text in texts]
    is_elsewhere = [
        _GROUP.fullmatch(group) is not None and group != found
        for group, found in zip(groups, table["group"], strict=True)
    ]
    table.loc[is_elsewhere, list(_FOLDER_COLUMNS)] = np.nan
    return table


def _id_findings(cells: Cells, table: pd.DataFrame) -> list[Finding]:
    return id_findings(cells, cells.key, table["path"].fillna(cells.table[cells.key]).tolist())


def _read_all_ages(
    cells: Cells, columns: Mapping[str, str], readings_unit: str, chronological_unit: str | None
) -> dict[str, Ages]:
    """Read the readings and, if there is a column, the ages; any cell may be empty."""
    option = "--readings-unit"
    ages = {
        name: read_ages(cells, columns[name], readings_unit, option, may_be_empty=True)
        for name in _READINGS
    }
    if "chronological" in columns:
        unit, option = chronological_unit or readings_unit, "--chronological-unit"
        column = columns["chronological"]
        ages["chronological"] = read_ages(cells, column, unit, option, is_chronological=True)
    return ages


def _unit_faults(
    cells: Cells, column: str, unit: str, table: pd.DataFrame, name: str
) -> Iterator[Fault]:
    """Refuse a unit that puts the readings far from the age folders."""
    off = (table[name] / 12 - table["year"] - 0.5).abs().median()
    if off > _MOST_YEARS_OFF:
        what = (
            f"column {column!r} is {off:.1f} years from the age folders in the median, if it is in "
            f"{unit}"
        )
        yield Fault(cells.where, what, "Pass the other unit with --readings-unit.")


def _radiograph_name(table: pd.DataFrame, row: int) -> str:
    return f"{table['group'][row]}/{Path(table['path'][row]).name}"


def _age_findings(cells: Cells, column: str, table: pd.DataFrame) -> list[Finding]:
    """Return the ages that can't be of the child in that folder.

    A fault and not a note: the row is most likely another child's, and so are its readings.
    """
    years = table["chronological"] / 12
    outside = np.maximum(table["year"] - years, years - (table["year"] + 1))
    return cells.row_findings(
        "age-not-of-folder",
        np.flatnonzero(outside > _FOLDER_SLACK_YEARS),
        lambda row: (
            f"{column} is {cells.table[column][row]} ({years[row]:.1f} years), but "
            f"the radiograph is {_radiograph_name(table, row)}"
        ),
        expected="the age of the folder, to within a year",
        fix="Correct the row, or move the radiograph. Or pass another --chronological-unit.",
    )


def _sex_findings(cells: Cells, columns: Mapping[str, str], table: pd.DataFrame) -> list[Finding]:
    """Return the sexes that are unlike the folder's."""
    column = columns.get("sex")
    if column is None:
        return []
    texts = cells.table[column]
    sexes = pd.Series(read_sexes(column, texts.tolist()))
    return cells.row_findings(
        "unknown-sex",
        np.flatnonzero((sexes == "") & (texts != "")),
        lambda row: f"{column} is {texts[row]!r}",
        expected="M or F, or nothing",
        fix="Correct it, or rename the column to leave it out. A sex is never guessed.",
    ) + cells.row_findings(
        "sex-not-of-folder",
        np.flatnonzero((sexes != "") & table["sex"].notna() & (sexes != table["sex"])),
        lambda row: (
            f"{column} is {texts[row]!r}, but the radiograph is {_radiograph_name(table, row)}"
        ),
        expected="the sex of the folder",
        fix="Correct the row, or move the radiograph to the right folder.",
    )


def _manifest_rows(table: pd.DataFrame, columns: Mapping[str, str], base: Path) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "image_id": [f"dha-{radiograph_number(path)}" for path in table["path"]],
            "image": [os.path.relpath(path, base) for path in table["path"]],
            "age_months": (table["reading-1"] + table["reading-2"]).to_numpy() / 2,
            "sex": table["sex"].tolist(),
        }
    )
    if "patient" in columns:
        rows["patient_id"] = table["patient_id"].tolist()
    if "chronological" in columns:
        rows["chronological_age_months"] = months_cells(table["chronological"])
    rows["reading_1_months"] = months_cells(table["reading-1"])
    rows["reading_2_months"] = months_cells(table["reading-2"])
    rows["race"] = [group[:3] for group in table["group"]]
    return rows.assign(source=f"{SOURCE}, seeded split")


def _notes(
    cells: Cells, table: pd.DataFrame, atlas: pd.DataFrame, others: Sequence[str]
) -> Iterator[str]:
    keys, file = np.array(cells.keys()), Path(cells.where).name
    found, count = table["path"].notna(), table[["reading-1", "reading-2"]].notna().sum(axis=1)
    is_used = found & (count == 2)
    yield f"{is_used.sum():,} radiographs with two readings; the atlas has about {RADIOGRAPHS:,}."
    for names, what in (
        (keys[~found], f"rows of {file} have no radiograph"),
        (atlas.index[~atlas["path"].isin(table["path"])], f"radiographs have no row in {file}"),
        (keys[found & (count == 0)], "radiographs have no reading"),
        (keys[found & (count == 1)], "radiographs have one reading only"),
        (others, "images are not in a folder of race, sex and age, such as ASIF/ASIF02,"),
    ):
        if len(names):
            yield f"{len(names):,} {what} and are left out ({few(names)})."
    apart = (table["reading-1"] - table["reading-2"]).abs() > APART_MONTHS
    if len(names := keys[is_used & apart]):
        yield (
            f"{len(names):,} radiographs have readings more than {APART_MONTHS:g} months apart. "
            f"Check them for typing errors ({few(names)})."
        )


def _column_notes(cells: Cells, columns: Mapping[str, str]) -> Iterator[str]:
    unused = [str(name) for name in cells.table.columns if name not in columns.values()]
    if unused:
        yield f"Columns that are not used: {', '.join(unused)}. See the options of --help."


def _split_notes(columns: Mapping[str, str], seed: int) -> Iterator[str]:
    if "patient" not in columns:
        yield "There is no patient column: every radiograph counts as a patient of its own."
    yield (
        f"The atlas has no official split: this split is seeded (seed {seed}). Its errors are not "
        "comparable with published ones."
    )
