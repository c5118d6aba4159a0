"""Excel workbooks (.xlsx): their worksheets as text, each cell as a person would write it.

openpyxl trusts the file it is given: a row said to be the ten-billionth makes it count there, cells
out of order are lost. So every part of the archive is looked through before it is asked.
"""

from __future__ import annotations

import datetime
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from boneage.datasets.tables.cells import Finding
from boneage.errors import Fault, InputError

MOST_BYTES = 64 << 20
"""Largest workbook read, in bytes of its file."""
MOST_UNPACKED_BYTES = 128 << 20
"""Most bytes that its parts may say they have when unpacked; zipfile stops at what they say."""
MOST_CELLS = 200_000
"""Most cells, such as 12,500 rows of 16 columns: openpyxl takes up to 4 s for them on one core."""
MOST_STRINGS = 100_000
"""Most different texts, which Excel keeps in a list of their own."""
MOST_ROWS = 250_000
"""Most rows that are written down, empty ones too."""
MOST_ELEMENTS = 1_200_000
"""Most elements of its XML: a cell has up to four."""
MOST_OTHER_ELEMENTS = 30_000
"""Most elements that are no cell and no text (styles, links, merges): openpyxl is slow there."""

_MOST_ENTRIES = 2_000
_STRIDE = 1 << 17  # bytes that no text of a cell has in a row: Excel ends it at 32,767 letters
_LAST_ROW, _LAST_COLUMN = 1_048_576, 16_384  # as far as Excel goes
_AS_CSV = "Save the sheet as 'CSV UTF-8' and name that file."
_ERRORS = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A")
_FEW = 5

_TAG = re.compile(rb"<(?:[\w.-]+:)?(row|c)\b([^<>]*)")
_CHEAP = re.compile(rb"<(?:[\w.-]+:)?(?:c|v|row|f|is|t|si)[\s/>]")
_STRING = re.compile(rb"<(?:[\w.-]+:)?si[\s/>]")
_REFERENCE = re.compile(rb"""\sr\s*=\s*["']([^"']*)["']""")
_MERGED = re.compile(
    rb"""<(?:[\w.-]+:)?mergeCell\s[^<>]*?ref\s*=\s*["']([A-Z]+)(\d+):([A-Z]+)(\d+)"""
)
# A formula's cell without its result; one that gave an empty text has the type "str".
_NO_RESULT = re.compile(
    rb"<(?:[\w.-]+:)?c\b([^<>]*)>\s*<(?:[\w.-]+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</[^<>]*f>)"
    rb"\s*(?:<(?:[\w.-]+:)?v\s*/>|<(?:[\w.-]+:)?v>\s*</[^<>]*v>)?\s*</[^<>]*c>"
)
_TEXT_TYPE = re.compile(rb"""\st\s*=\s*["']str["']""")
_CELL = re.compile(rb"([A-Z]{1,3})([0-9]{1,7})")

# What a workbook that is not as it should be makes openpyxl raise: it checks nothing it reads.
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,  # XML's ParseError is one
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass
class Worksheet:
    """One worksheet.

    Attributes:
        name: As its tab says.
        hidden: Whether its tab is hidden.
        rows: The rows from the first on, empty ones too, each as long as it has cells.
        findings: Cells that hold no value one could use.
        merged: Merged ranges below each other or side by side: (first row, last row, `A2:A5`).
    """

    name: str
    hidden: bool = False
    rows: list[list[str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    merged: list[tuple[int, int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    cells: int = 0
    rows: int = 0
    elements: int = 0
    strings: int = 0
    others: int = 0
    no_result: tuple[str, ...] = ()
    merged: tuple[tuple[int, int, str], ...] = ()


def read_workbook(content: bytes, where: str) -> list[Worksheet]:
    """Reads all worksheets of an .xlsx file.

    Args:
        content: The file's bytes.
        where: The file, as messages name it.

    Raises:
        InputError: It is no workbook, a broken one, one made to do harm, or too large.
    """
    parts = _look_through(content, where)
    # Recorded, not hidden: what it warns of is either no matter here (fonts, print settings) or
    # comes back as an error value, which is a finding.
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        try:
            return list(_worksheets(content, where, parts))
        except _BROKEN as error:
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            raise _broken(where, f"it can't be read as a workbook ({reason})") from None


def _broken(where: str, what: str) -> InputError:
    return InputError(Fault(where, what, _AS_CSV, expected="a workbook as Excel saves it"))


def _too_large(where: str, what: str, most: str) -> InputError:
    return InputError(Fault(where, what, _AS_CSV, expected=most))


def _look_through(content: bytes, where: str) -> dict[str, _Part]:
    if len(content) > MOST_BYTES:
        size = f"it has {len(content):,} bytes"
        raise _too_large(where, size, f"a workbook of at most {MOST_BYTES:,}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_kind({entry.filename for entry in entries}, where)
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > MOST_UNPACKED_BYTES or len(entries) > _MOST_ENTRIES:
                what = f"its {len(entries):,} parts have {unpacked:,} bytes when unpacked"
                most = f"at most {MOST_UNPACKED_BYTES:,} bytes in {_MOST_ENTRIES:,} parts"
                raise _too_large(where, what, most)
            parts: dict[str, _Part] = {}
            for entry in entries:
                parts[entry.filename] = _look_at(archive.read(entry), entry.filename, where)
                _check_counts(parts, where)
    except _BROKEN as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise _broken(where, f"its archive is broken ({reason})") from None
    return parts


def _check_kind(names: set[str], where: str) -> None:
    if "xl/workbook.bin" in names:
        kind = "an Excel binary workbook (.xlsb)"
    elif "content.xml" in names and "mimetype" in names:
        kind = "an OpenDocument file (.ods)"
    elif any(name.startswith("Index/") for name in names):
        kind = "an Apple Numbers file"
    elif "[Content_Types].xml" not in names or any(name.startswith("word/") for name in names):
        kind = "an archive without a workbook in it"
    else:
        return
    raise InputError(
        Fault(
            where,
            f"it is {kind}",
            "Open it and save it as .xlsx or as 'CSV UTF-8'.",
            expected="CSV, TSV, Excel (.xlsx) or Parquet",
        )
    )


def _check_counts(parts: dict[str, _Part], where: str) -> None:
    for name, most, noun in (
        ("cells", MOST_CELLS, "cells"),
        ("rows", MOST_ROWS, "rows"),
        ("elements", MOST_ELEMENTS, "elements"),
        ("strings", MOST_STRINGS, "different texts"),
        ("others", MOST_OTHER_ELEMENTS, "elements beside cells and texts (styles, links, shapes)"),
    ):
        count = sum(getattr(part, name) for part in parts.values())
        if count > most:
            raise _too_large(where, f"it has {count:,} {noun} or more", f"at most {most:,}")


def _look_at(part: bytes, name: str, where: str) -> _Part:
    """Counts what is in one part, and refuses what would lead openpyxl astray."""
    if not name.lower().endswith((".xml", ".rels")) and part[:64].lstrip()[:1] != b"<":
        return _Part()  # a picture or a macro, which is never opened
    if part[:2] in (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<"):
        raise _broken(where, f"{name} is not UTF-8")
    if b"<!DOCTYPE" in part or b"<!ENTITY" in part:  # Excel writes none; entities can explode
        raise _broken(where, f"{name} declares XML entities")
    for start in range(0, len(part), _STRIDE):
        if part.find(b"<", start, start + _STRIDE) < 0:
            raise _too_large(where, f"{name} has a text of {_STRIDE:,} bytes or more", "less")
    elements = part.count(b"<") - part.count(b"</")
    cheap = sum(1 for _ in _CHEAP.finditer(part))
    strings = sum(1 for _ in _STRING.finditer(part))
    rows, cells = _check_order(part, name, where)
    merged = tuple(
        (int(first), int(last), f"{a.decode()}{int(first)}:{b.decode()}{int(last)}")
        for a, first, b, last in _MERGED.findall(part)
    )
    no_result = tuple(
        reference[1].decode("ascii", "replace")
        for attributes in _NO_RESULT.findall(part)
        if not _TEXT_TYPE.search(attributes) and (reference := _REFERENCE.search(attributes))
    )
    return _Part(cells, rows, elements, strings, elements - cheap, no_result, merged)


def _check_order(part: bytes, name: str, where: str) -> tuple[int, int]:
    """The rows and the cells of a worksheet's grid, which must stand in order."""
    row = column = rows = cells = 0
    for tag in _TAG.finditer(part):
        is_row = tag[1] == b"row"
        rows += is_row
        found = _REFERENCE.search(tag[2])
        if found is None:
            row, column = (row + 1, 0) if is_row else (row, column + 1)
        elif is_row and found[1].isdigit() and row < int(found[1][:9]) <= _LAST_ROW:
            row, column = int(found[1]), 0
        elif not is_row and (cell := _CELL.fullmatch(found[1])) and int(cell[2]) == row:
            at = _column_number(cell[1])
            if not column < at <= _LAST_COLUMN:
                raise _broken(where, f"{name} has cell {found[1].decode()} out of order")
            cells += at - column - 1  # the empty ones before it are filled in
            column = at
        else:
            place = found[1][:20].decode("utf-8", "replace")
            raise _broken(where, f"{name} has {place!r} where the row after {row} belongs")
        cells += not is_row
        if cells > MOST_CELLS or rows > MOST_ROWS:
            break
    return rows, cells


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _worksheets(content: bytes, where: str, parts: dict[str, _Part]) -> Iterator[Worksheet]:
    from openpyxl import load_workbook

    book = load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
    for sheet in book.worksheets:
        part = parts.get(sheet._worksheet_path, _Part())  # no public name tells it
        sheet.reset_dimensions()  # what the file says of its size may be wrong
        rows = [[cell_text(value) for value in row] for row in sheet.iter_rows(values_only=True)]
        found = Worksheet(sheet.title, sheet.sheet_state != "visible", rows)
        found.merged += part.merged
        found.findings += _no_result(where, sheet.title, part.no_result)
        found.findings += _error_values(where, found)
        yield found


def _no_result(where: str, sheet: str, cells: Sequence[str]) -> list[Finding]:
    if not cells:
        return []
    return [
        Finding(
            "formula-without-result",
            Fault(
                f"{where}: sheet {sheet!r}",
                f"{_named(cells)} a formula whose result was never stored",
                "Open the file in Excel or LibreOffice and save it once.",
                expected="values",
            ),
        )
    ]


def _error_values(where: str, sheet: Worksheet) -> list[Finding]:
    findings = []
    for error in _ERRORS:
        cells = [
            f"{_letters(column)}{number}"
            for number, row in enumerate(sheet.rows, start=1)
            if error in row
            for column, text in enumerate(row, start=1)
            if text == error
        ]
        if cells:
            place = f"{where}: sheet {sheet.name!r}"
            what = f"{_named(cells)} the error {error}"
            fix = "Correct the formula or the date, or empty the cell."
            findings.append(Finding("error-value", Fault(place, what, fix, expected="a value")))
    return findings


def _named(cells: Sequence[str]) -> str:
    if len(cells) == 1:
        return f"cell {cells[0]} holds"
    more = ", …" if len(cells) > _FEW else ""
    return f"{len(cells):,} cells ({', '.join(cells[:_FEW])}{more}) hold"


def _letters(column: int) -> str:
    name = ""
    while column:
        column, letter = divmod(column - 1, 26)
        name = chr(65 + letter) + name
    return name


def cell_text(value: object) -> str:
    """A value as a person would write it: 12.0 as 12, a date as 2024-05-31, nothing as nothing."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**53:
            return str(int(value))  # an identifier of 16 digits, and each is exact
        # 15 digits are what Excel shows and keeps; an exponent is never written.
        return format(Decimal(f"{value:.15g}").normalize(), "f")
    if isinstance(value, Decimal):
        return format(value.normalize(), "f") if value.is_finite() else str(value)
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
