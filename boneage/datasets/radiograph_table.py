"""Read from a table which radiographs to answer, with the sex and the age of each child.

A cell that is wrong is a fault of its row alone. A column that seems to be in another unit is a
fault of the table. CSV is read without pandas; Excel and Parquet need it.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.label_rules import MAX_AGE_MONTHS, image_path, is_probably_years
from boneage.datasets.number_columns import read_numbers
from boneage.datasets.sex_codes import fold, read_codes, read_sexes
from boneage.errors import Fault, InputError
from boneage.runtime.extras import install_command
from boneage.runtime.files import read_bytes

MONTHS_IN = {"months": 1.0, "years": 12.0, "decimal-years": 12.0, "days": 12 / 365.25}
"""Months in one of each unit of an age."""

_OLDEST_MONTHS = 2 * MAX_AGE_MONTHS
_CONTRADICTION_MONTHS = 13  # an age is often in completed years; one more month is slack
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
_BINARY = (b"PK\x03\x04", b"PAR1")  # Excel, Parquet
_DATES = {r"\d{4}-\d\d-\d\d": "%Y-%m-%d", r"\d{8}": "%Y%m%d", r"\d{4}\.\d\d\.\d\d": "%Y.%m.%d"}
# Names of a column, folded, for a table whose columns are not named by an option.
_USUAL = {
    "image": ("image", "radiograph", "file", "filename", "file_name", "path", "image_path"),
    "sex": ("sex", "gender", "male", "patient_sex"),
    "chronological": ("chronological_age_months",),
    "birth": ("birth_date", "date_of_birth", "birthdate", "dob", "patient_birth_date"),
    "study": ("study_date", "date_of_study", "examination_date", "exam_date"),
}


@dataclass(frozen=True)
class RadiographColumns:
    """The columns of a table of radiographs; None for a usual name, if the table has it.

    Attributes:
        image: Column with the path of each radiograph.
        sex: Column with the sex. An empty cell is an unknown sex.
        chronological: Column with the chronological age.
        birth: Column with the date of birth.
        study: Column with the date of the radiograph.
    """

    image: str | None = None
    sex: str | None = None
    chronological: str | None = None
    birth: str | None = None
    study: str | None = None


@dataclass(frozen=True, slots=True)
class RadiographRow:
    """One radiograph of a table.

    Attributes:
        image: Its path, from the present folder.
        sex: `F` or `M`; None if the cell is empty, or there is no column.
        chronological_age_months: The chronological age, if the row has it.
        fault: What is wrong with the row; None if nothing is.
    """

    image: str
    sex: str | None = None
    chronological_age_months: float | None = None
    fault: Fault | None = None


class RadiographTable:
    """The radiographs of a table, in its order."""

    def __init__(
        self,
        file: Path,
        columns: RadiographColumns,
        *,
        unit: str = "months",
        female: Sequence[str] = (),
        male: Sequence[str] = (),
        image_root: Path | None = None,
    ) -> None:
        """Read a table.

        Args:
            file: CSV, TSV or semicolon-separated text; with pandas also Excel and Parquet.
            columns: Its columns.
            unit: Unit of the chronological ages, one of `MONTHS_IN`.
            female: What the column of the sex holds for a girl. Default: F, girl, female, …
            male: What it holds for a boy.
            image_root: Folder that the paths start from. Default: that of the table.

        Raises:
            InputError: The table can't be read, a column is missing, or the ages seem to be in
                another unit.
        """
        self._file = file
        self._root = file.parent if image_root is None else image_root
        self._codes = (tuple(female), tuple(male))
        header, self._rows = _read(file)
        self._width = len(header)
        self._index, self._names = _find_columns(file, header, columns)
        if unit not in MONTHS_IN:
            close = difflib.get_close_matches(unit, MONTHS_IN, n=1, cutoff=0.3)
            fix = f"Did you mean {close[0]!r}?" if close else "Use one of these."
            expected = ", ".join(MONTHS_IN)
            raise InputError(Fault("--chronological-unit", f"unknown unit {unit!r}", fix, expected))
        self._unit = unit
        self._ages = self._read_ages()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def has_sex(self) -> bool:
        """Whether the table has a column with the sex."""
        return "sex" in self._index

    def __iter__(self) -> Iterator[RadiographRow]:
        """Yield the rows. Blank ones are left out."""
        for (number, cells), age in zip(self._rows, self._ages.tolist(), strict=True):
            where = f"{self._file}: row {number}"
            try:
                image = self._find_image(where, cells)
            except InputError as error:
                yield RadiographRow(where, fault=error.faults[0])
                continue
            try:
                sex = self._read_sex(where, self._cell(cells, "sex"))
                months = self._read_age(where, cells, age)
            except InputError as error:
                yield RadiographRow(image, fault=error.faults[0])
                continue
            yield RadiographRow(image, sex, months)

    def _cell(self, cells: Sequence[str], key: str) -> str:
        index = self._index.get(key)
        return "" if index is None or index >= len(cells) else cells[index]

    def _find_image(self, where: str, cells: Sequence[str]) -> str:
        """Return the path of a radiograph, whose suffix may be left out."""
        if len(cells) != self._width:
            fix = "Quote a value that contains the separator itself."
            expected = f"{self._width}, like the header"
            raise InputError(Fault(where, f"it has {len(cells)} fields", fix, expected))
        name = self._cell(cells, "image")
        if not name:
            what = f"{self._names['image']} is empty"
            raise InputError(Fault(where, what, "Write the path of the radiograph."))
        path = image_path(self._root, name)
        if "\\" in name and not path.exists():
            path = image_path(self._root, name.replace("\\", "/"))
        if path.suffix.lower() in _SUFFIXES or path.exists():
            return str(path)
        found = [each for suffix in _SUFFIXES if (each := Path(f"{path}{suffix}")).exists()]
        if len(found) > 1:
            what = f"{name} fits {' and '.join(each.name for each in found)}"
            raise InputError(Fault(where, what, "Write the whole name."))
        return str(found[0] if found else path)

    def _read_sex(self, where: str, text: str) -> str | None:
        if not text:
            return None
        if any(self._codes):
            (sex,) = read_codes([text], *self._codes)
            expected = " or ".join(map(repr, (*self._codes[0], *self._codes[1])))
        else:
            (sex,) = read_sexes(self._names["sex"], [text])
            expected = "F or M, or nothing if the sex is not known"
        if not sex:
            what = f"{self._names['sex']} is {text!r:.60}"
            fix = "Correct it, or name its codes with --female and --male. A sex is never guessed."
            raise InputError(Fault(where, what, fix, expected))
        return sex

    def _read_age(self, where: str, cells: Sequence[str], age: float) -> float | None:
        """Return the chronological age of a row, from its cell or from its dates."""
        text, column = self._cell(cells, "chronological"), self._names.get("chronological")
        if text and not 0 <= age <= _OLDEST_MONTHS:
            what = f"{column} is {text!r:.60}"
            most = _OLDEST_MONTHS / MONTHS_IN[self._unit]
            fix = "Correct the cell, or leave it empty. The unit is that of --chronological-unit."
            raise InputError(Fault(where, what, fix, f"{self._unit} from 0 to {most:,.0f}"))
        dated = self._age_by_dates(where, cells)
        if not text:
            return dated
        if dated is not None and abs(dated - age) > _CONTRADICTION_MONTHS:
            what = f"{column} and the dates differ by {abs(dated - age):.0f} months"
            raise InputError(Fault(where, what, "Correct the age or the dates."))
        return float(age)

    def _age_by_dates(self, where: str, cells: Sequence[str]) -> float | None:
        """Return the age in whole months: an exact one would give the birthday away."""
        born, taken = (self._read_date(where, cells, key) for key in ("birth", "study"))
        if born is None or taken is None:
            return None
        days = (taken - born).days
        months = round(days * MONTHS_IN["days"])
        if days < 0:
            what = f"the birth date is {-days:,} day{'s' * (days < -1)} after the study date"
            raise InputError(Fault(where, what, "Correct one of them. Were they exchanged?"))
        if months > _OLDEST_MONTHS:
            what = f"by its dates, the child is {months // 12} years old"
            raise InputError(Fault(where, what, "Correct the dates, or leave one of them empty."))
        return float(months)

    def _read_date(self, where: str, cells: Sequence[str], key: str) -> date | None:
        text = self._cell(cells, key).removesuffix(" 00:00:00")
        for form, layout in _DATES.items():
            if re.fullmatch(form, text):
                try:
                    return datetime.strptime(text, layout).date()
                except ValueError:  # such as the 31st of June
                    break
        if text:
            what = f"{self._names[key]} is no date like 2024-05-31"  # a birth date is not shown
            raise InputError(Fault(where, what, "Correct it, or leave it empty."))
        return None

    def _read_ages(self) -> NDArray[np.float64]:
        """Return the chronological ages in months, NaN where a cell is none.

        Raises:
            InputError: They seem to be in another unit.
        """
        texts = [self._cell(cells, "chronological") for _, cells in self._rows]
        months = read_numbers(texts, has_thousands=self._unit == "days").numbers
        months = months * MONTHS_IN[self._unit]
        known = months[np.isfinite(months)]
        is_large = 2 * np.count_nonzero(known > _OLDEST_MONTHS) > known.size
        is_small = 0 < known.max(initial=0) / MONTHS_IN["days"] <= MAX_AGE_MONTHS
        other, fix = "", ""
        if self._unit == "months" and is_probably_years(known):
            other = "years"
            fix = "If all children are so young, give their ages in days, or their dates of birth."
        elif self._unit != "days" and is_large:
            other = "days" if self._unit == "months" else "months"
        elif self._unit == "days" and is_small:
            other = "months"
        if other:
            column = self._names["chronological"]
            largest = known.max() / MONTHS_IN[self._unit]
            what = f"the largest {column} is {largest:g}, so the ages are probably in {other}"
            fix = f"Then pass --chronological-unit {other}. {fix}".strip()
            raise InputError(Fault(str(self._file), what, fix, f"ages in {self._unit}"))
        return months


def _find_columns(
    file: Path, header: Sequence[str], columns: RadiographColumns
) -> tuple[dict[str, int], dict[str, str]]:
    """Return the position and the name of each column that the table has.

    Raises:
        InputError: A column is missing, or several have its name.
    """
    found: dict[str, int] = {}
    faults = []
    for key in (each.name for each in fields(columns)):
        asked = getattr(columns, key)
        names = [asked] if asked is not None else _USUAL[key]
        places = [i for i, name in enumerate(header) if name == asked]
        for usual in names if asked is None else ():
            places = places or [i for i, name in enumerate(header) if fold(name) == usual]
        if len(places) > 1:
            what = f"the header has several columns called {header[places[0]]!r}"
            faults.append(Fault(str(file), what, "Rename or remove one of them."))
        elif places:
            found[key] = places[0]
        elif asked is not None or key == "image":
            what = f"there is no column {names[0]!r} among {', '.join(header)}"
            close = difflib.get_close_matches(names[0], header, n=1)
            fix = f"Did you mean {close[0]!r}?" if close else f"Name it with --{key}."
            faults.append(Fault(str(file), what, fix))
    if not faults and (columns.birth or columns.study) and not {"birth", "study"} <= found.keys():
        what = "an age needs the date of birth and the date of the radiograph"
        faults.append(Fault(str(file), what, "Give both --birth-date and --study-date."))
    if faults:
        raise InputError(faults)
    return found, {key: header[index] for key, index in found.items()}


def _read(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a table, and its rows with their numbers; every cell is text."""
    content = read_bytes(file)
    if content.startswith(_BINARY):
        return _read_with_pandas(file)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"byte {error.start:,} is not UTF-8 text"
        raise InputError(Fault(str(file), what, "Save it as 'CSV UTF-8'.")) from None
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        records = [(i, [cell.strip() for cell in record]) for i, record in enumerate(reader, 1)]
    except csv.Error as error:
        fix = "Check that every quotation mark is closed."
        raise InputError(Fault(str(file), f"it is not valid CSV ({error})", fix)) from None
    records = [(number, record) for number, record in records if any(record)]
    if len(records) < 2:
        what = "it has a header and no rows" if records else "it is empty"
        raise InputError(Fault(str(file), what, "Save it with a header and at least one row."))
    return records[0][1], records[1:]


def _read_with_pandas(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        from boneage.datasets.tables import read_sheet
    except ModuleNotFoundError:
        what = "it is an Excel or Parquet file, and pandas is not installed"
        fix = f"Save it as CSV, or run {install_command('pandas')}."
        raise InputError(Fault(str(file), what, fix)) from None
    cells = read_sheet(file)
    faults = [finding.fault for finding in cells.findings if finding.column is None]
    if faults:
        raise InputError(faults)
    rows = cells.table.to_numpy().tolist()
    return list(cells.table.columns), list(zip(cells.rows, rows, strict=True))
