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
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.importers.columns import (
    SEX_WORDS,
    few,
    fold,
    months_cells,
    radiograph_number,
)
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, files_below, with_suffix
from boneage.datasets.manifest import (
    INFANTS,
    MAX_AGE_MONTHS,
    Manifest,
    is_probably_years,
    write_manifest,
)
from boneage.datasets.splits import assign_splits
from boneage.datasets.tables import Cells, Finding, missing_column, read_sheet
from boneage.datasets.validation import chronological_findings, id_findings, numbers
from boneage.errors import Fault, InputError

SOURCE = "dha"
RADIOGRAPHS = 1_390
APART_MONTHS = 24.0
"""Readings further apart are named; the two readers' root mean square difference is 7.6 months
(Thodberg and Saevendahl, Acad Radiol 2010;17:1425-1432)."""
MONTHS_IN = {"months": 1.0, "years": 12.0}

_LAYOUT = "ASIF/ASIF02/5131.jpg: race (ASI, BLK, CAU, HIS) and sex, the same with years, number"
_GROUP = re.compile(r"(ASI|BLK|CAU|HIS)([FM])(0[0-9]|1[0-8])", re.IGNORECASE)
_NAMES = ("reading{}", "reader{}", "bone_age{}", "ba{}", "radiologist{}", "rater{}", "observer{}")
_COLUMNS = {  # what each column is usually called, without its unit
    "number": ("number", "image", "image_id", "id", "film", "film_number", "file", "filename"),
    "reading-1": (*(name.format(end) for end in ("_1", "1") for name in _NAMES), "first_reading"),
    "reading-2": (*(name.format(end) for end in ("_2", "2") for name in _NAMES), "second_reading"),
    "chronological": ("chronological_age", "chronological", "chron_age", "age"),
    "sex": ("sex", "gender"),
    "patient": ("patient_id", "patient", "subject_id", "subject"),
}
_AGES = ("reading-1", "reading-2", "chronological")
_FOLDER_COLUMNS = ("path", "group", "sex", "year")
_REQUIRED = ("number", "reading-1", "reading-2")
_UNITS = {"years": ("years", "year", "yrs", "yr", "y"), "months": ("months", "month", "mo", "m")}
_FOLDER_SLACK_YEARS = 1.0  # a few ages are filed by the nearest year
# Healthy children: their bone age is within two years of their age, and a wrong unit is far off.
_MOST_YEARS_OFF = 2.0
_CLEARLY = 2.0
_FEWEST_FOR_UNIT = 3


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
    """Write a manifest of the atlas and a table of its readings. The images stay where they are.

    The bone age is the mean of the two readings. There are no official splits: a seeded 80/10/10
    split is made, by patient, with ages and sexes alike.

    Args:
        folder: Holds the radiographs in the atlas's folders of race, sex and age.
        out: The manifest to write. It refers to the images by relative path.
        readings: The table: CSV, TSV, Excel or Parquet.
        seed: Seed of the split.
        progress: Show progress on standard error.
        number: Column with the radiograph's number or path. None finds a column by its usual name.
        reading_1: Column with the first reading; so also `reading_2`.
        reading_2: Column with the second reading.
        chronological: Column with the time since birth; may be absent.
        sex: Column with the sex, compared with the folders; may be absent.
        patient: Column with the patient; may be absent, then every radiograph is one patient.
        readings_unit: `months` or `years`; None takes the unit in the header, else the only unit
            that agrees with the age folders.
        chronological_unit: The same for the time since birth.
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
    cells = read_sheet(Path(readings), key=number or "number", sheet=sheet)
    names = (number, reading_1, reading_2, chronological, sex, patient)
    columns, wrong = _find_columns(cells, dict(zip(_COLUMNS, names, strict=True)))
    units = {"readings-unit": readings_unit, "chronological-unit": chronological_unit}
    for option, unit in units.items():
        if unit not in (None, *MONTHS_IN):
            wrong.append(Fault(f"--{option}", f"unknown unit {unit!r}", "Pass months or years."))
    if wrong:
        raise InputError([*faults, *(finding.fault for finding in cells.findings), *wrong])
    cells = replace(cells, key=columns["number"])
    table, notes = _join(cells, atlas), list[str]()
    findings = [*cells.findings, *_id_findings(cells, table)]
    for name in _AGES:
        option = "chronological-unit" if name == "chronological" else "readings-unit"
        table[name] = numbers(cells, columns.get(name, ""))
        if name in columns:
            column = _Column(cells, columns[name], option, units[option])
            findings += _convert(column, table, name, faults, notes)
    findings += _age_findings(cells, columns, table)
    findings += _sex_findings(cells, columns, table, notes)
    faults += [finding.fault for finding in findings]
    is_used = table[["path", "reading-1", "reading-2"]].notna().all(axis=1)
    if not is_used.any() and not faults:
        what = f"none of its {len(table):,} rows has two readings and a radiograph"
        fix = f"Does {cells.key} hold the atlas's own numbers, such as {few(atlas.index)}?"
        faults.append(Fault(cells.where, what, fix))
    if faults:
        raise InputError(faults)
    if "patient" in columns:
        table["patient_id"] = cells.table[columns["patient"]]
    rows = _manifest_rows(table[is_used], columns, Path(out).parent.resolve())
    notes = [*notes, *_notes(cells, table, atlas, others), *_split_notes(columns, seed)]
    return write_manifest(assign_splits(rows, seed=seed), Path(out), notes=notes)


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
    bare = {_split_unit(name)[0]: str(name) for name in reversed(list(cells.table.columns))}
    columns: dict[str, str] = {}
    faults: list[Fault] = []
    for option, known in _COLUMNS.items():
        name = given[option]
        usual = next((bare[name] for name in known if name in bare), None)
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


def _split_unit(header: object) -> tuple[str, str | None]:
    """Return a header without the unit it ends in, and that unit: `Reading 1 (yrs)` is in years."""
    stem, _, end = fold(header).rpartition("_")
    unit = next((unit for unit, written in _UNITS.items() if end in written), None)
    return (stem, unit) if stem and unit else (fold(header), None)


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


@dataclass(frozen=True)
class _Column:
    """A column of ages: its table, its name, and the option and unit that the user gave."""

    cells: Cells
    name: str
    option: str
    given: str | None


def _convert(
    column: _Column, table: pd.DataFrame, name: str, faults: list[Fault], notes: list[str]
) -> list[Finding]:
    """Convert the ages `table[name]` to months, and return what is wrong with them."""
    unit = _unit(column, table[name].to_numpy() / 12, table["year"].to_numpy(np.float64), notes)
    if isinstance(unit, Fault):
        faults.append(unit)
        table[name] = np.nan
        return []
    table[name] *= MONTHS_IN[unit]
    months, cells, header = table[name].to_numpy(), column.cells, column.name
    if name == "chronological":
        return chronological_findings(cells, header, months)
    texts = cells.table[header]
    return cells.row_findings(
        "bad-reading",
        np.flatnonzero(np.isnan(months) & (texts != "").to_numpy()),
        lambda row: f"{header} is {texts[row]!r}",
        expected=f"a number of {unit}, or nothing",
        fix="Write it with a decimal point, such as 10.5. Leave a missing reading empty.",
    ) + cells.row_findings(
        "impossible-age",
        np.flatnonzero((months < 0) | (months > MAX_AGE_MONTHS)),
        lambda row: f"{header} is {texts[row]} {unit}",
        expected=f"0 to {MAX_AGE_MONTHS / MONTHS_IN[unit]:g} {unit}",
        fix="Correct the reading, or the unit.",
    )


def _unit(
    column: _Column, values: NDArray[np.float64], year: NDArray[np.float64], notes: list[str]
) -> str | Fault:
    """Return the unit of a column: by option, by header, or as the age folders have it.

    Args:
        column: The column.
        values: float64 (n,), a twelfth of its numbers.
        year: float64 (n,), the year of each row's age folder.
        notes: Gets a note if the folders decide.
    """
    where, given, option = column.cells.where, column.given, f"--{column.option}"
    pass_it = f"Pass {option} months or {option} years."
    header = _split_unit(column.name)[1]
    if given and header and given != header:
        what = f"column {column.name!r} is in {header} by its header, and in {given} by {option}"
        return Fault(where, what, f"Omit {option}, or correct the header.")
    claimed = given or header
    distances = {unit: np.abs(values * size - year - 0.5) for unit, size in MONTHS_IN.items()}
    if np.count_nonzero(~np.isnan(distances["years"])) < _FEWEST_FOR_UNIT:
        if claimed or np.isnan(values).all() or np.isnan(year).all():
            return claimed or "months"
        what = f"too few rows have a radiograph to find the unit of column {column.name!r}"
        return Fault(where, what, pass_it)
    off = {unit: float(np.nanmedian(distance)) for unit, distance in distances.items()}
    best = min(off, key=lambda unit: off[unit])
    is_clear = off[best] < _MOST_YEARS_OFF and _CLEARLY * off[best] < max(off.values())
    measured = (
        f"its median distance from the age folders is {off['years']:.1f} years if it is in years, "
        f"and {off['months']:.1f} years if it is in months"
    )
    if claimed and is_clear and claimed != best:
        what = f"column {column.name!r} is in {claimed} by {option if given else 'its header'}, but"
        return Fault(
            where,
            f"{what} {measured}",
            f"Pass {option} {best}." if given else "Correct the header.",
        )
    if claimed is None and not is_clear:
        what = f"the unit of column {column.name!r} is not clear: {measured}"
        return Fault(where, what, pass_it)
    if claimed is None:
        notes.append(f"Column {column.name!r} is read in {best}: {measured}.")
    return claimed or best


def _years_outside_folder(table: pd.DataFrame) -> NDArray[np.float64]:
    """float64 (n,): how far each age is outside its folder's year; NaN where it isn't known."""
    born, year = table["chronological"].to_numpy() / 12, table["year"].to_numpy(np.float64)
    outside: NDArray[np.float64] = np.maximum(year - born, born - (year + 1))
    return np.maximum(outside, 0.0)


def _radiograph_name(table: pd.DataFrame, row: int) -> str:
    return f"{table['group'][row]}/{Path(table['path'][row]).name}"


def _age_findings(cells: Cells, columns: Mapping[str, str], table: pd.DataFrame) -> list[Finding]:
    """Return the ages that can't be of the child in that folder.

    A fault and not a note: the row is most likely another child's, and so are its readings.
    """
    column = columns.get("chronological", "")
    return cells.row_findings(
        "age-not-of-folder",
        np.flatnonzero(_years_outside_folder(table) > _FOLDER_SLACK_YEARS),
        lambda row: (
            f"{column} is {cells.table[column][row]} ({table['chronological'][row] / 12:.1f} "
            f"years), but the radiograph is {_radiograph_name(table, row)}"
        ),
        expected="the age of the folder, to within a year",
        fix="Correct the row, or move the radiograph to the right folder.",
    )


def _sex_findings(
    cells: Cells, columns: Mapping[str, str], table: pd.DataFrame, notes: list[str]
) -> list[Finding]:
    """Return the sexes that are unlike the folder's; codes other than words are only noted."""
    column = columns.get("sex")
    if column is None:
        return []
    texts = cells.table[column]
    sexes = texts.str.lower().map(SEX_WORDS)
    if sexes.isna().all():
        notes.append(f"Column {column!r} is not compared with the folders: it has no M or F.")
        return []
    return cells.row_findings(
        "unknown-sex",
        np.flatnonzero(sexes.isna() & (texts != "")),
        lambda row: f"{column} is {texts[row]!r}",
        expected="M or F, or nothing",
        fix="Correct it; a sex is never guessed.",
    ) + cells.row_findings(
        "sex-not-of-folder",
        np.flatnonzero(sexes.notna() & table["sex"].notna() & (sexes != table["sex"])),
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
    # The unit is certain: without this word the manifest would take such ages for years.
    infants = f"{INFANTS}, " if is_probably_years(rows["age_months"].to_numpy()) else ""
    return rows.assign(source=f"{SOURCE}, {infants}seeded split")


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
    if len(names := keys[is_used & (_years_outside_folder(table) > 0)]):
        yield f"{len(names):,} ages are up to a year outside that of their folder ({few(names)})."


def _split_notes(columns: Mapping[str, str], seed: int) -> Iterator[str]:
    if "patient" not in columns:
        yield "There is no patient column: every radiograph counts as a patient of its own."
    yield (
        f"The atlas has no official split: this split is seeded (seed {seed}). Its errors are not "
        "comparable with published ones."
    )
