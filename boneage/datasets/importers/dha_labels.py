"""The table of readings of the Digital Hand Atlas: its columns, their units, and whose they are."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.importers.columns import (
    SEX_WORDS,
    chronological_findings,
    fold,
    months_column,
    radiograph_number,
)
from boneage.datasets.importers.dha_files import Radiograph, group_of
from boneage.datasets.importers.folder import IMAGE_SUFFIXES
from boneage.datasets.tables.cells import Cells, Finding, missing_column
from boneage.datasets.tables.reader import read_sheet
from boneage.datasets.validation import MOST_MONTHS, id_findings
from boneage.errors import Fault, InputError

UNITS = ("months", "years")
REQUIRED = ("number", "reading-1", "reading-2")

# Headers as `fold` leaves them, without the unit they may end in; the first found is taken.
_READING = (
    "reading{}",
    "reader{}",
    "bone_age{}",
    "boneage{}",
    "ba{}",
    "bone_age_reading{}",
    "radiologist{}",
    "rater{}",
    "observer{}",
)
_HEADERS = {
    "number": (
        *("number", "film_number", "image_number", "film", "image", "image_id", "id", "image_name"),
        *("file", "file_name", "filename", "path", "case", "case_id", "no", "patient_id"),
    ),
    "reading-1": (*(name.format(end) for end in ("_1", "1") for name in _READING), "first_reading"),
    "reading-2": (
        *(name.format(end) for end in ("_2", "2") for name in _READING),
        "second_reading",
    ),
    "chronological": ("chronological_age", "chronological", "chron_age", "ca", "age"),
    "sex": ("sex", "gender"),
    "patient": ("patient_id", "patient", "subject_id", "subject"),
}
_UNIT_ENDS = {
    unit: unit_of
    for unit_of, written in {
        "years": ("years", "year", "yrs", "yr", "y"),
        "months": ("months", "month", "mos", "mo", "m"),
    }.items()
    for unit in written
}

# Healthy children: their bone age is within some two years of their age, and twelve times too
# large or too small is far outside. A few radiographs must say so before it counts.
_MOST_YEARS_OFF = 2.0
_CLEARLY = 2.0
_FEWEST_TO_TELL = 3


@dataclass
class Readings:
    """The table, put to the radiographs.

    Attributes:
        cells: As it was read; its key is the column with the numbers.
        numbers: Radiograph number of each row.
        radiographs: The radiograph of each row; None where there is none.
        first: float64 (n,), first reading, months; NaN where empty.
        second: float64 (n,), second reading, likewise.
        born: float64 (n,), time since birth, months, likewise.
        sexes: F, M, or nothing where the table doesn't say.
        chronological: Its column, if there is one; so also `sex` and `patient`.
        findings: What is wrong with the rows.
        notes: What there is to say that is not wrong.
    """

    cells: Cells
    numbers: list[str]
    radiographs: list[Radiograph | None]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    born: NDArray[np.float64]
    sexes: list[str]
    chronological: str | None
    sex: str | None
    patient: str | None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def complete_rows(self) -> list[int]:
        """Positions of the rows with a radiograph and both readings."""
        known = ~(np.isnan(self.first) | np.isnan(self.second))
        return [
            row
            for row, radiograph in enumerate(self.radiographs)
            if radiograph is not None and known[row]
        ]

    def place(self, row: int) -> str:
        """Folder and name of a row's radiograph."""
        radiograph = self.radiographs[row]
        return "" if radiograph is None else f"{radiograph.group}/{radiograph.path.name}"


def read_readings(
    path: Path,
    radiographs: Sequence[Radiograph],
    *,
    columns: Mapping[str, str | None],
    readings_unit: str | None,
    chronological_unit: str | None,
    sheet: str | None,
) -> Readings:
    """Reads the table and puts its rows to the radiographs.

    Args:
        path: The table.
        radiographs: All radiographs of the atlas.
        columns: Header of each of `number`, `reading-1`, `reading-2`, `chronological`, `sex` and
            `patient`; None finds it by what it is usually called.
        readings_unit: `months`, `years`, or None to tell it by header or age folders, for each of
            the two readings by itself.
        chronological_unit: The same of the time since birth.
        sheet: Worksheet of a workbook.

    Raises:
        InputError: The table can't be read, an option is wrong, a column isn't there, or its unit
            can't be told.
    """
    units = {"readings-unit": readings_unit, "chronological-unit": chronological_unit}
    faults = [
        _unknown_unit(name, unit) for name, unit in units.items() if unit not in (None, *UNITS)
    ]
    cells = read_sheet(path, key=columns.get("number") or "number", sheet=sheet)
    found = _find_columns(cells, columns, faults)
    cells = replace(cells, key=found["number"])
    numbers = [radiograph_number(text) for text in cells.table[found["number"]]]
    joined = _join(cells.table[found["number"]].tolist(), radiographs)
    values = {
        name: months_column(cells, found.get(name))
        for name in ("reading-1", "reading-2", "chronological")
    }
    table = Readings(
        cells,
        numbers,
        joined,
        values["reading-1"],
        values["reading-2"],
        values["chronological"],
        _sexes(cells, found.get("sex")),
        found.get("chronological"),
        found.get("sex"),
        found.get("patient"),
    )
    table.findings += [*cells.findings, *_id_findings(table)]
    _to_months(table, found, readings_unit, chronological_unit)
    _check_sexes(table)
    return table


def _to_months(
    table: Readings,
    found: Mapping[str, str],
    readings_unit: str | None,
    chronological_unit: str | None,
) -> None:
    """Converts each column by its own unit: the two readings may well have different ones.

    Raises:
        InputError: The unit of a column can't be told, or what tells it disagrees.
    """
    faults = []
    option = "readings-unit"
    for name, values in (("reading-1", table.first), ("reading-2", table.second)):
        column = found[name]
        unit = _unit(option, readings_unit, column, f"the readings in {column}", table, values)
        if isinstance(unit, Fault):
            faults.append(unit)
            continue
        values *= _months(unit)
        table.findings += _reading_findings(table.cells, column, values, unit)
    if (born := table.chronological) is not None:
        option, what = "chronological-unit", f"the ages since birth in {born}"
        unit = _unit(option, chronological_unit, born, what, table, table.born)
        if isinstance(unit, Fault):
            faults.append(unit)
        else:
            table.born *= _months(unit)
            table.findings += chronological_findings(table.cells, born, table.born)
    if faults:
        raise InputError(faults)


def _months(unit: str) -> float:
    return 12.0 if unit == "years" else 1.0


def _unknown_unit(option: str, unit: str | None) -> Fault:
    close = difflib.get_close_matches(str(unit), UNITS, n=1, cutoff=0.3)
    fix = f"Did you mean {close[0]!r}?" if close else "Say which of the two they are in."
    return Fault(f"--{option}", f"unknown unit {unit!r}", fix, expected="months or years")


def _bare(header: object) -> tuple[str, str | None]:
    """A header without the unit it ends in, and that unit: `Reading 1 (yrs)` is in years."""
    stem, _, end = fold(header).rpartition("_")
    return (stem, _UNIT_ENDS[end]) if stem and end in _UNIT_ENDS else (fold(header), None)


def _find_columns(
    cells: Cells, columns: Mapping[str, str | None], faults: Sequence[Fault]
) -> dict[str, str]:
    bare = {_bare(name)[0]: str(name) for name in reversed(list(cells.table.columns))}
    found: dict[str, str] = {}
    missing = [*faults]
    for option, known in _HEADERS.items():
        given = columns.get(option)
        column = next((bare[name] for name in known if name in bare), None)
        if given is not None:
            column = given if given in cells.table else None
        if column is not None:
            found[option] = column
        elif given is not None or option in REQUIRED:
            missing.append(_missing(cells, option, given))
    if found.get("patient") == found.get("number") and columns.get("patient") is None:
        found.pop("patient", None)  # the radiograph's number again, which tells nothing of patients
    if "number" not in found and any(_looks_like_data(name) for name in cells.table.columns):
        first = ", ".join(str(name) for name in cells.table.columns[:3])
        what = f"its first line is a row, not a header ({first}, …)"
        fix = "Put a line above it that names the columns, such as number,reading_1,reading_2."
        missing = [*faults, Fault(cells.where, what, fix, expected="a header")]
    twice = sorted({c for c in found.values() if list(found.values()).count(c) > 1})
    for column in twice:
        options = " and ".join(f"--{name}" for name, taken in found.items() if taken == column)
        what = f"column {column!r} is taken for {options}"
        missing.append(
            Fault(cells.where, what, "Name the right one.", expected="a column of its own for each")
        )
    if missing:
        raise InputError([*(finding.fault for finding in cells.findings), *missing])
    return found


def _missing(cells: Cells, option: str, given: str | None) -> Fault:
    fault = missing_column(cells, given or _HEADERS[option][0]).fault
    if given is not None:
        return replace(fault, where=f"{cells.where} (--{option} {given})")
    return replace(fault, fix=f"If it is called otherwise, name it with --{option}.")


def _looks_like_data(header: object) -> bool:
    return PurePosixPath(str(header)).suffix.lower() in IMAGE_SUFFIXES or str(header).isdigit()


def _join(texts: Sequence[str], radiographs: Sequence[Radiograph]) -> list[Radiograph | None]:
    """The radiograph of each row: by number, and by folder too where the row names it.

    The atlas's own list has rows with the number of another child's radiograph, in another folder
    (5260 in ASIF05, whose radiograph is 5262): there the folder keeps a reading off the wrong
    radiograph.
    """
    times = Counter(
        radiograph.number for radiograph in radiographs
    )  # a number twice is a fault of its own
    by_number = {
        radiograph.number: radiograph for radiograph in radiographs if times[radiograph.number] == 1
    }
    joined = []
    for text in texts:
        radiograph = by_number.get(radiograph_number(text))
        group = group_of(PurePosixPath(text.replace("\\", "/")).parent.name)
        joined.append(
            radiograph if radiograph is None or group in (None, radiograph.group) else None
        )
    return joined


def _id_findings(table: Readings) -> list[Finding]:
    texts = table.cells.table[table.cells.key]
    ids = [
        str(radiograph.path) if radiograph is not None else text
        for radiograph, text in zip(table.radiographs, texts, strict=True)
    ]
    return id_findings(table.cells, table.cells.key, ids)


def _reading_findings(
    cells: Cells, column: str, months: NDArray[np.float64], unit: str
) -> list[Finding]:
    texts = cells.table[column]
    return cells.row_findings(
        "bad-reading",
        np.flatnonzero(np.isnan(months) & (texts != "").to_numpy()),
        lambda row: f"{column} is {texts[row]!r}",
        f"a number of {unit}, or nothing",
        "Write it with a decimal point, such as 10.5; leave it empty where there is no reading.",
    ) + cells.row_findings(
        "impossible-age",
        np.flatnonzero((months < 0) | (months > MOST_MONTHS)),
        lambda row: f"{column} is {texts[row]} {unit}",
        f"0 to {MOST_MONTHS / _months(unit):g} {unit}",
        "Correct it, or the unit.",
    )


def _unit(
    option: str,
    given: str | None,
    column: str,
    what: str,
    table: Readings,
    values: NDArray[np.float64],
) -> str | Fault:
    """The unit of a column: by its header, as told, or as the age folders have it.

    A fault where it can't be told, or where two of these disagree.
    """
    where, either = table.cells.where, " or ".join(UNITS)
    header = _bare(column)[1]
    if given is not None and header not in (None, given):
        wrong = (
            f"{what} are in {header}, as the header says, and not in {given}, as --{option} says"
        )
        fix = f"Leave --{option} out, or correct the header."
        return Fault(where, wrong, fix, expected="one unit")
    claimed = given or header
    off = _years_off(table, values)
    if off is None:
        if claimed is not None:
            return claimed
        joined = any(radiograph is not None for radiograph in table.radiographs)
        if not joined or np.isnan(values).all():
            return UNITS[0]  # nothing to convert, and that is said instead
        few_told = f"too few of {what} are put to radiographs to tell their unit"
        return Fault(where, few_told, f"Pass --{option} to say it.", expected=either)
    best = min(UNITS, key=lambda unit: off[unit])
    clear = off[best] < _MOST_YEARS_OFF and _CLEARLY * off[best] < max(off.values())
    measured = (
        f"{off['years']:.1f} years off the age folders as years, {off['months']:.1f} as months"
    )
    if claimed is not None and (claimed == best or not clear):
        return claimed
    if claimed is not None:
        who = f"as --{option} says" if given else "as the header says"
        wrong = f"{what} would be in {claimed}, {who}, but are {measured}"
        fix = f"Pass --{option} {best}." if header is None else "Correct the header."
        return Fault(where, wrong, fix, expected=best)
    if not clear:
        untold = f"the unit of {what} can't be told: they are {measured}"
        return Fault(where, untold, f"Pass --{option} to say it.", expected=either)
    said = what[0].upper() + what[1:]
    table.notes.append(f"{said} are taken to be in {best}: they are {measured} (medians).")
    return best


def _years_off(table: Readings, values: NDArray[np.float64]) -> dict[str, float] | None:
    """Median distance from the middle of the age folder, years, for each unit."""
    middle = np.array(
        [
            np.nan if radiograph is None else radiograph.year + 0.5
            for radiograph in table.radiographs
        ]
    )
    distances = {unit: np.abs(values * _months(unit) / 12 - middle) for unit in UNITS}
    if np.count_nonzero(~np.isnan(distances["years"])) < _FEWEST_TO_TELL:
        return None
    return {unit: float(np.nanmedian(distance)) for unit, distance in distances.items()}


def _sexes(cells: Cells, column: str | None) -> list[str]:
    if column is None:
        return [""] * len(cells.table)
    return [SEX_WORDS.get(text.lower(), "") for text in cells.table[column]]


def _check_sexes(table: Readings) -> None:
    """Codes that are no sex: a fault among words that are, else a column that isn't compared."""
    if table.sex is None:
        return
    texts = table.cells.table[table.sex]
    unknown = [row for row, said in enumerate(table.sexes) if not said and texts[row]]
    if unknown and not any(table.sexes):
        example = texts[unknown[0]]
        table.notes.append(
            f"Column {table.sex} ({example!r}) is not compared with the folders' sexes: it holds "
            "neither M and F nor male and female."
        )
        return
    table.findings += table.cells.row_findings(
        "unknown-sex",
        unknown,
        lambda row: f"{table.sex} is {texts[row]!r}",
        "M or F, or nothing",
        "Correct it; a sex is never guessed.",
    )
