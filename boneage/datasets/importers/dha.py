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
    YEARS_SUSPECTED_BELOW,
    Manifest,
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
        number: Column with the radiograph's number or path; None takes a usual name, as with the
            other columns.
        reading_1: Column with the first reading.
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
    radiographs, others, faults = _find_radiographs(files, root)
    options = (number, reading_1, reading_2, chronological, sex, patient)
    table, notes = _read_table(
        Path(readings),
        radiographs,
        dict(zip(_COLUMNS, options, strict=True)),
        {"readings-unit": readings_unit, "chronological-unit": chronological_unit},
        sheet,
    )
    findings = [*table.findings, *_age_findings(table), *_sex_findings(table, notes)]
    faults += [finding.fault for finding in findings]
    used = table.complete_rows()
    if not used and not faults:
        what = f"none of its {len(table.radiographs):,} rows has two readings and a radiograph"
        fix = f"Does {table.cells.key} hold the atlas's own numbers, such as {few(radiographs)}?"
        faults.append(Fault(table.cells.where, what, fix))
    if faults:
        raise InputError(faults)
    rows = _manifest_rows(table, used, Path(out).parent.resolve())
    notes += [*_notes(table, used, radiographs, others)]
    notes.append(
        f"The atlas has no official split: this split is seeded (seed {seed}). Its errors are not "
        "comparable with published ones."
    )
    return write_manifest(assign_splits(rows, seed=seed), Path(out), notes=notes)


@dataclass(frozen=True, slots=True)
class _Radiograph:
    """One image file, and what its folder says: `group` is ASIF02, `year` whole years of age."""

    path: Path
    group: str
    sex: str
    year: int


@dataclass
class _Table:
    """The table of readings, joined to the radiographs.

    Attributes:
        cells: The table as text; its key is the column with the numbers.
        columns: The table's name of each column that it has.
        radiographs: The radiograph of each row; None where there is none.
        months: float64 (n,) of each column of ages; NaN where a cell is empty.
        findings: What is wrong with the rows.
    """

    cells: Cells
    columns: dict[str, str]
    radiographs: list[_Radiograph | None]
    months: dict[str, NDArray[np.float64]]
    findings: list[Finding]

    def complete_rows(self) -> list[int]:
        """Return the positions of the rows with a radiograph and both readings."""
        both = self.months["reading-1"] + self.months["reading-2"]
        return [
            row
            for row, radiograph in enumerate(self.radiographs)
            if radiograph and not np.isnan(both[row])
        ]

    def years(self) -> NDArray[np.float64]:
        """float64 (n,): the year of each row's age folder; NaN without a radiograph."""
        return np.array(
            [radiograph.year if radiograph else np.nan for radiograph in self.radiographs]
        )

    def name(self, row: int) -> str:
        """Return the folder and name of a row's radiograph."""
        radiograph = self.radiographs[row]
        return f"{radiograph.group}/{radiograph.path.name}" if radiograph else ""


def _find_radiographs(
    files: Sequence[Path], root: Path
) -> tuple[dict[str, _Radiograph], list[str], list[Fault]]:
    """Return the radiographs by number, the images outside the atlas's folders, and faults."""
    paths: dict[str, list[Path]] = {}
    radiographs: dict[str, _Radiograph] = {}
    others, faults = list[str](), list[Fault]()
    for path in with_suffix(files, IMAGE_SUFFIXES):
        name, outer = path.parent.name.upper(), path.parent.parent.name
        match = _GROUP.fullmatch(name)
        if match is None:
            others.append(str(path.relative_to(root)))
            continue
        if outer.upper() != name[:4] and path.parent != root:
            what = f"the folder {path.parent.name} is in {outer}"
            fix = f"Find out which of the two is right. The atlas has {name} in {name[:4]}."
            faults.append(Fault(str(path.relative_to(root)), what, fix))
        number = radiograph_number(path.name)
        paths.setdefault(number, []).append(path.relative_to(root))
        radiographs[number] = _Radiograph(path, name, name[3], int(match[3]))
    if not radiographs:
        what = f"none of its {len(others):,} images is in a folder of race, sex and age"
        fix = "Name the folder that holds ASIF, ASIM, BLKF and so on."
        raise InputError(Fault(str(root), what, fix, expected=_LAYOUT))
    twice = {number: found for number, found in paths.items() if len(found) > 1}
    if twice:
        first = few(str(path) for found in twice.values() for path in found)
        what = f"{len(twice):,} numbers belong to several radiographs ({first})"
        fix = "Name the folder of one copy of the atlas, or move the wrong radiographs away."
        faults.append(Fault(str(root), what, fix))
    joined = {number: each for number, each in radiographs.items() if number not in twice}
    return joined, others, faults


def _read_table(
    path: Path,
    radiographs: Mapping[str, _Radiograph],
    options: Mapping[str, str | None],
    units: Mapping[str, str | None],
    sheet: str | None,
) -> tuple[_Table, list[str]]:
    """Read the table, join its rows to the radiographs, and convert its ages to months.

    Raises:
        InputError: It can't be read, an option is wrong, or a column or its unit is not clear.
    """
    faults = [
        Fault(f"--{option}", f"unknown unit {unit!r}", "Pass months or years.")
        for option, unit in units.items()
        if unit not in (None, *MONTHS_IN)
    ]
    cells = read_sheet(path, key=options["number"] or "number", sheet=sheet)
    columns, missing = _find_columns(cells, options)
    faults += missing
    if faults:
        raise InputError([*(finding.fault for finding in cells.findings), *faults])
    cells = replace(cells, key=columns["number"])
    texts = cells.table[cells.key]
    joined = [_radiograph(text, radiographs) for text in texts]
    names = [str(found.path) if found else text for found, text in zip(joined, texts, strict=True)]
    findings = [*cells.findings, *id_findings(cells, cells.key, names)]
    months = {
        name: numbers(cells, columns.get(name) or "")
        for name in ("reading-1", "reading-2", "chronological")
    }
    table, notes = _Table(cells, columns, joined, months, findings), list[str]()
    for name in (name for name in months if name in columns):
        option = "chronological-unit" if name == "chronological" else "readings-unit"
        unit = _unit(table, name, option, units[option], notes)
        if isinstance(unit, Fault):
            faults.append(unit)
            continue
        months[name] *= MONTHS_IN[unit]
        findings += _month_findings(table, name, unit)
    if faults:
        raise InputError(faults)
    return table, notes


def _find_columns(
    cells: Cells, options: Mapping[str, str | None]
) -> tuple[dict[str, str], list[Fault]]:
    """Return the table's own name of each column: as the option says, or by a usual name."""
    bare = {_split_unit(name)[0]: str(name) for name in reversed(list(cells.table.columns))}
    columns: dict[str, str] = {}
    faults: list[Fault] = []
    for option, known in _COLUMNS.items():
        given = options[option]
        column = next((bare[name] for name in known if name in bare), None)
        if given is not None:
            column = given if given in cells.table else None
        if column is not None:
            columns[option] = column
        elif given is not None:
            fault = missing_column(cells, given).fault
            faults.append(replace(fault, where=f"{cells.where} (--{option} {given})"))
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


def _radiograph(text: str, radiographs: Mapping[str, _Radiograph]) -> _Radiograph | None:
    """Return the radiograph of a number; if the text names a folder too, it must be in there.

    The atlas's own list has rows with the number of another child's radiograph, in another folder
    (5260 in ASIF05, whose radiograph is 5262).
    """
    found = radiographs.get(radiograph_number(text))
    group = PurePosixPath(text.replace("\\", "/")).parent.name.upper()
    is_elsewhere = found is not None and _GROUP.fullmatch(group) and group != found.group
    return None if is_elsewhere else found


def _unit(
    table: _Table, name: str, option: str, given: str | None, notes: list[str]
) -> str | Fault:
    """Return the unit of a column: by option, by header, or as the age folders have it."""
    column, where, values = table.columns[name], table.cells.where, table.months[name]
    header = _split_unit(column)[1]
    if given and header and given != header:
        what = f"column {column!r} is in {header} by its header, and in {given} by --{option}"
        return Fault(where, what, f"Leave --{option} out, or correct the header.")
    claimed, middle = given or header, table.years() + 0.5
    distances = {unit: np.abs(values * size / 12 - middle) for unit, size in MONTHS_IN.items()}
    if np.count_nonzero(~np.isnan(distances["years"])) < _FEWEST_FOR_UNIT:
        if claimed or np.isnan(values).all() or not any(table.radiographs):
            return claimed or "months"
        what = f"too few rows have a radiograph to find the unit of column {column!r}"
        return Fault(where, what, f"Pass --{option} months or --{option} years.")
    off = {unit: float(np.nanmedian(distance)) for unit, distance in distances.items()}
    best = min(off, key=lambda unit: off[unit])
    is_clear = off[best] < _MOST_YEARS_OFF and _CLEARLY * off[best] < max(off.values())
    measured = (
        f"its median distance from the age folders is {off['years']:.1f} years if it is in years, "
        f"and {off['months']:.1f} years if it is in months"
    )
    if claimed and is_clear and claimed != best:
        source = f"by --{option}" if given else "by its header"
        what = f"column {column!r} is in {claimed} {source}, but {measured}"
        return Fault(where, what, f"Pass --{option} {best}." if given else "Correct the header.")
    if claimed is None and not is_clear:
        what = f"the unit of column {column!r} is not clear: {measured}"
        return Fault(where, what, f"Pass --{option} months or --{option} years.")
    if claimed is None:
        notes.append(f"Column {column!r} is read in {best}: {measured}.")
    return claimed or best


def _month_findings(table: _Table, name: str, unit: str) -> list[Finding]:
    cells, column, months = table.cells, table.columns[name], table.months[name]
    if name == "chronological":
        return chronological_findings(cells, column, months)
    texts = cells.table[column]
    return cells.row_findings(
        "bad-reading",
        np.flatnonzero(np.isnan(months) & (texts != "").to_numpy()),
        lambda row: f"{column} is {texts[row]!r}",
        expected=f"a number of {unit}, or nothing",
        fix="Write it with a decimal point, such as 10.5. Leave a missing reading empty.",
    ) + cells.row_findings(
        "impossible-age",
        np.flatnonzero((months < 0) | (months > MAX_AGE_MONTHS)),
        lambda row: f"{column} is {texts[row]} {unit}",
        expected=f"0 to {MAX_AGE_MONTHS / MONTHS_IN[unit]:g} {unit}",
        fix="Correct the reading, or the unit.",
    )


def _years_outside_folder(table: _Table) -> NDArray[np.float64]:
    """float64 (n,): how far each age is outside its folder's year; NaN where it isn't known."""
    born, year = table.months["chronological"] / 12, table.years()
    outside: NDArray[np.float64] = np.maximum(np.maximum(year - born, born - (year + 1)), 0.0)
    return outside


def _age_findings(table: _Table) -> list[Finding]:
    """Return the ages that can't be of the child in that folder.

    A fault and not a note: the row is most likely another child's, and so are its readings.
    """
    column = table.columns.get("chronological", "")
    return table.cells.row_findings(
        "age-not-of-folder",
        np.flatnonzero(_years_outside_folder(table) > _FOLDER_SLACK_YEARS),
        lambda row: (
            f"{column} is {table.cells.table[column][row]} "
            f"({table.months['chronological'][row] / 12:.1f} years), but the radiograph is "
            f"{table.name(row)}"
        ),
        expected="the age of the folder, to within a year",
        fix="Correct the row, or move the radiograph to the right folder.",
    )


def _sex_findings(table: _Table, notes: list[str]) -> list[Finding]:
    """Return the sexes that are unlike the folder's; other codes than words are only noted."""
    column = table.columns.get("sex")
    if column is None:
        return []
    texts = table.cells.table[column].tolist()
    sexes = [SEX_WORDS.get(text.lower(), "") for text in texts]
    if not any(sexes):
        notes.append(f"Column {column!r} is not compared with the folders: it has no M or F.")
        return []
    folders = [radiograph.sex if radiograph else "" for radiograph in table.radiographs]
    return table.cells.row_findings(
        "unknown-sex",
        [row for row, sex in enumerate(sexes) if not sex and texts[row]],
        lambda row: f"{column} is {texts[row]!r}",
        expected="M or F, or nothing",
        fix="Correct it; a sex is never guessed.",
    ) + table.cells.row_findings(
        "sex-not-of-folder",
        [row for row, sex in enumerate(sexes) if sex and folders[row] and sex != folders[row]],
        lambda row: f"{column} is {texts[row]!r}, but the radiograph is {table.name(row)}",
        expected="the sex of the folder",
        fix="Correct the row, or move the radiograph to the right folder.",
    )


def _manifest_rows(table: _Table, used: Sequence[int], base: Path) -> pd.DataFrame:
    radiographs = [radiograph for row in used if (radiograph := table.radiographs[row])]
    first, second = table.months["reading-1"][used], table.months["reading-2"][used]
    columns: dict[str, object] = {
        "image_id": [f"dha-{radiograph_number(each.path.name)}" for each in radiographs],
        "image": [os.path.relpath(each.path, base) for each in radiographs],
        "age_months": (first + second) / 2,
        "sex": [each.sex for each in radiographs],
    }
    if patient := table.columns.get("patient"):
        columns["patient_id"] = table.cells.table[patient].iloc[list(used)].tolist()
    if "chronological" in table.columns:
        columns["chronological_age_months"] = months_cells(table.months["chronological"][used])
    columns |= {
        "reading_1_months": months_cells(first),
        "reading_2_months": months_cells(second),
        "race": [each.group[:3] for each in radiographs],
    }
    rows = pd.DataFrame(columns)
    # The unit is certain: without this word the manifest would take such ages for years.
    infants = f"{INFANTS}, " if rows["age_months"].max() <= YEARS_SUSPECTED_BELOW else ""
    rows["source"] = f"{SOURCE}, {infants}seeded split"
    return rows


def _notes(
    table: _Table,
    used: Sequence[int],
    radiographs: Mapping[str, _Radiograph],
    others: Sequence[str],
) -> Iterator[str]:
    yield f"{len(used):,} radiographs with two readings; the atlas has about {RADIOGRAPHS:,}."
    keys, file = table.cells.keys(), Path(table.cells.where).name
    first, second = table.months["reading-1"], table.months["reading-2"]
    count = (~np.isnan(first)).astype(int) + ~np.isnan(second)
    joined = {row for row, radiograph in enumerate(table.radiographs) if radiograph}
    outside, apart = _years_outside_folder(table), np.abs(first - second)
    every = range(len(keys))
    used_paths = {radiograph.path for radiograph in table.radiographs if radiograph}
    unread = [number for number, each in radiographs.items() if each.path not in used_paths]
    for found, what in (
        ([keys[r] for r in every if r not in joined], f"rows of {file} have no radiograph"),
        (unread, f"radiographs have no row in {file}"),
        ([keys[r] for r in sorted(joined) if count[r] == 0], "radiographs have no reading"),
        ([keys[r] for r in sorted(joined) if count[r] == 1], "radiographs have one reading only"),
        (others, "images are not in a folder of race, sex and age, such as ASIF/ASIF02,"),
    ):
        if found:
            yield f"{len(found):,} {what} and are left out ({few(found)})."
    if rows := [keys[row] for row in used if apart[row] > APART_MONTHS]:
        yield (
            f"{len(rows):,} radiographs have readings more than {APART_MONTHS:g} months apart. "
            f"Check them for typing errors ({few(rows)})."
        )
    if rows := [keys[row] for row in used if outside[row] > 0]:
        yield f"{len(rows):,} ages are up to a year outside that of their folder ({few(rows)})."
    if "patient" not in table.columns:
        yield "There is no patient column: every radiograph counts as a patient of its own."
