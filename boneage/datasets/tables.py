"""Read a table (CSV, TSV, Excel or Parquet, recognized by its content) as plain text cells.

This module uses what pandas uses: `csv`, openpyxl and pyarrow. Through pandas it could not name
short rows, cells with errors, merged cells and formulas without a stored result.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import io
import itertools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from boneage.datasets.cell_text import cell_text
from boneage.datasets.parquet import decode_parquet
from boneage.errors import Fault, InputError
from boneage.runtime.files import LARGEST_TEXT, read_bytes

MAX_UNPACKED_BYTES = 128 << 20
"""Most bytes that a workbook or a Parquet file may announce for its unpacked parts."""
MAX_ROWS = 250_000
MAX_CELLS = 5_000_000
MAX_LISTED = 20
"""Up to this number, rows with the same kind of fault are named one by one; more are grouped."""

_FEW = 5
_WIDEST = 16_384  # columns of a row that may be found by its names; Excel has no more
_MOST_ABOVE = 30  # rows above a header
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_SAVE_AS = "Open the file, remove any password, and save the table as .xlsx or as 'CSV UTF-8'."
_ZIP, _PARQUET = b"PK\x03\x04", b"PAR1"
_OLD_EXCEL = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_OTHER_KINDS = {
    _ZIP: "an Excel workbook or another archive",
    _PARQUET: "a Parquet file",
    b"<stata_dta": "a Stata file",
    b"<": "an HTML or XML page",
    b"%PDF": "a PDF",
    b"$FL": "an SPSS file",
    b"HEADER RECORD": "a SAS file",
    b"\x1f\x8b": "a gzip archive",
    codecs.BOM_UTF32_LE: "UTF-32 text",
}
_EXCEL_ERRORS = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A")
_UNUSABLE_CELLS = {
    "merged-cells": ("merged", "Unmerge them and fill in each: all but one are empty."),
    "formula-without-result": (
        "formulas without a stored result",
        "Open the file in Excel or LibreOffice and save it once.",
    ),
    "error-value": ("errors", "Correct the formulas, or empty the cells."),
}
# openpyxl ignores merged ranges when it streams a sheet. It does not distinguish a formula without
# a stored result from an empty text (type "str"). It drops cells that are out of order.
_MERGED = re.compile(
    rb"""<(?:\w+:)?mergeCell\s[^<>]*?ref=["']([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})["']"""
)
_REFERENCE = re.compile(rb"""<(?:\w+:)?c\b[^<>]*?\sr=["']([A-Z]{1,3})(\d{1,7})["']""")
_FORMULA_WITHOUT_RESULT = re.compile(
    rb"""<(?:\w+:)?c\b(?![^<>]*\st=["']str["'])[^<>]*?\sr=["']([A-Z]+\d+)["'][^<>]*>\s*"""
    rb"""<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</[^<>]*>)\s*"""
    rb"""(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</[^<>]*>)?\s*</(?:\w+:)?c>"""
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a table, with what a program needs to know about it.

    Attributes:
        code: Kind of fault, such as `unknown-sex`.
        fault: The message.
        image_ids: The images concerned; empty when it is the whole file.
        column: The column concerned, if the fault is none while nobody uses that column.
    """

    code: str
    fault: Fault
    image_ids: tuple[str, ...] = ()
    column: str | None = None


@dataclass(frozen=True)
class Cells:
    """A table as text, nothing interpreted yet.

    Attributes:
        where: The file, and the worksheet if there are several, as messages name it.
        table: One row a record, every cell a str without outer blanks. Columns without a name, and
            unusable columns, are left out.
        rows: Row number of each record as a spreadsheet shows it, counted from 1.
        findings: What is wrong with the file's form.
        key: Column whose value names a row in messages, when the table has it.
        unusable: Columns whose name several have, and nested columns of Parquet, each with the
            finding if it is used.
    """

    where: str
    table: pd.DataFrame
    rows: tuple[int, ...]
    findings: tuple[Finding, ...] = ()
    key: str = "image_id"
    unusable: Mapping[str, Finding] = field(default_factory=dict)

    def using(self, columns: Iterable[str | None]) -> Cells:
        """Return the table without the findings about columns that are not used."""
        used = {None, *columns}
        return replace(self, findings=tuple(f for f in self.findings if f.column in used))

    def keys(self) -> list[str]:
        """Return the name of each row; empty strings when the table has no key column."""
        if self.key in self.table:
            return [str(value) for value in self.table[self.key]]
        return [""] * len(self.table)

    def row_findings(
        self,
        code: str,
        positions: Iterable[int],
        what: Callable[[int], str],
        expected: str,
        fix: str,
    ) -> list[Finding]:
        """Return the faults of rows that are wrong in the same way, grouped when there are many.

        Args:
            code: Kind of fault.
            positions: Positions in `table` (from 0) of the wrong rows.
            what: Says what is wrong with the row at a position.
            expected: What every such row should hold; empty when that does not help.
            fix: What to do.
        """
        positions = list(positions)
        if len(positions) <= MAX_LISTED:
            groups = {str(position): [position] for position in positions}
        else:
            groups = {}
            for position in positions:
                groups.setdefault(what(position), []).append(position)
            if len(groups) > MAX_LISTED:
                groups = {"": positions}
        keys = self.keys()
        return [
            Finding(
                code,
                Fault(self._locate(group, keys), _summarize(group, what), fix, expected),
                tuple(keys[position] for position in group if keys[position]),
            )
            for group in groups.values()
        ]

    def _locate(self, positions: Sequence[int], keys: Sequence[str]) -> str:
        named = [keys[position] for position in positions[:_FEW] if keys[position]]
        more = ", …" if len(positions) > _FEW else ""
        if len(positions) == 1:
            rows = f"row {self.rows[positions[0]]}"
        else:
            numbers = ", ".join(str(self.rows[position]) for position in positions[:_FEW])
            rows = f"{len(positions):,} rows ({numbers}{more})"
        names = f" ({self.key} {', '.join(named)}{more})" if named else ""
        return f"{self.where}: {rows}{names}"


def _summarize(positions: Sequence[int], what: Callable[[int], str]) -> str:
    first = what(positions[0])
    if all(what(position) == first for position in positions):
        return first
    return f"{first}, and {len(positions) - 1:,} others likewise"


def missing_column(
    cells: Cells, name: str, synonyms: Mapping[str, Sequence[str]] | None = None
) -> Finding:
    """Return the finding that a column is missing, with the column that was probably meant.

    An unusable column is missing, too, with its own reason.
    """
    if name in cells.unusable:
        return cells.unusable[name]
    present = [str(column) for column in cells.table.columns]
    folded = {column.lower().replace(" ", "_"): column for column in present}
    candidates = [name.lower(), *(synonyms or {}).get(name, ())]
    containing = [c for c in present if name.lower() in re.split(r"\W+", c.lower())]  # Age (y)
    close = [folded[candidate] for candidate in candidates if candidate in folded] or containing
    close = close or [folded[n] for n in difflib.get_close_matches(name.lower(), folded, n=1)]
    what = f"there is no column {name!r} among {', '.join(present)}"
    fix = f"Did you mean {close[0]!r}?" if close else "Add or rename a column."
    if len(present) == 1 and containing and re.search(r"\w\W+\w", present[0]):
        what = f"there is no column {name!r}: the header is one cell, {present[0]!r}"
        fix = (
            f"Separate the cells by {_either(_SEPARATORS.values())}, without quotes around a line."
        )
    return Finding("missing-column", Fault(cells.where, what, fix))


def _either(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


def repeated_column(where: str, names: Sequence[str]) -> Finding:
    """Return the finding that several columns have the name of one that is used."""
    listed = " and ".join(map(repr, names)) if len(set(names)) > 1 else repr(names[0])
    what = f"the header has several columns called {listed}"
    return Finding("duplicate-column", Fault(where, what, "Rename or remove one of them."))


def _nested_column(where: str, name: str) -> Finding:
    what = f"the column {name!r} holds lists, records or bytes"
    fix = "Write it as text, and images as files."
    return Finding("nested-column", Fault(where, what, fix))


def read_sheet(
    path: Path, *, key: str = "image_id", sheet: str | None = None, names: Sequence[str] = ()
) -> Cells:
    """Read a table as text: every cell as a person would write it, nothing interpreted.

    Args:
        path: CSV, TSV, semicolon-separated text, Excel (.xlsx) or Parquet, whatever its suffix.
        key: Column whose value names a row in messages.
        sheet: Worksheet of a workbook; if None, the only one that holds a table.
        names: Columns that the header should have. The first row with all of them is the header,
            if one of the first rows has them; else the first row with two cells.

    Raises:
        InputError: It is none of these, broken, too large, or the worksheet is not clear.
    """
    path = Path(path)
    where = str(path)
    content = read_bytes(path)
    if content.startswith(_ZIP):
        return _read_excel(content, where, key, sheet, names)
    if sheet is not None:
        what = f"it is not an Excel workbook, but the sheet {sheet!r} was asked for"
        raise InputError(Fault(where, what, "Leave --sheet out, or name an .xlsx file."))
    if content.startswith(_PARQUET):
        return _read_parquet(content, where, key, names)
    return read_cells(content, where, key=key, names=names)


def _other_kind(content: bytes) -> str:
    """Return what a file is that holds no text; "" for text."""
    if content.startswith(_OLD_EXCEL):
        is_encrypted = _ENCRYPTED in content
        return "a workbook with a password" if is_encrypted else "an old Excel file (.xls)"
    start = content[:16].lstrip(codecs.BOM_UTF8 + b" \r\n\t")
    for signature, kind in _OTHER_KINDS.items():
        if start.startswith(signature):
            return kind
    is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "a binary file" if b"\0" in start and not is_utf16 else ""


def read_cells(
    content: bytes, where: str, *, key: str = "image_id", names: Sequence[str] = ()
) -> Cells:
    """Parse delimited text strictly: no record is dropped, padded or shifted silently.

    Args:
        content: UTF-8, or UTF-16 with a byte order mark; commas, tabs or semicolons.
        where: The file, as messages name it.
        key: Column whose value names a row in messages.
        names: Columns that the header should have, as in `read_sheet`.

    Raises:
        InputError: It is no such text, or it has no header or no row.
    """
    if kind := _other_kind(content):
        is_table = content.startswith((_ZIP, _PARQUET))  # but not where a manifest is expected
        fix = "Save the table as 'CSV UTF-8'." if is_table else _SAVE_AS
        raise InputError(Fault(where, f"it is {kind}", fix))
    separator, text = _find_separator(_decode(content, where), names)
    rows = max(text.count("\n"), text.count("\r"))
    _check_size(where, rows, rows + text.count(separator))
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        fix = "Check that every quotation mark is closed."
        raise InputError(Fault(where, f"it is not valid CSV ({error})", fix)) from None
    cells = _build_cells(records, where, key, names, _SEPARATORS.get(separator, repr(separator)))
    return replace(
        cells, findings=(*cells.findings, *_lost_line_findings(where, records, separator))
    )


def _lost_line_findings(
    where: str, records: Sequence[Sequence[str]], separator: str
) -> list[Finding]:
    """Return the cells that hold whole lines of the table, from one stray quote to another."""
    findings = []
    for row, record in enumerate(records, start=1):
        for lines in (cell.split("\n") for cell in record if "\n" in cell):
            first, *between, last = (line.count(separator) for line in lines)
            width = len(record) - 1
            if width > 1 and first + last == width and all(n == width for n in between):
                what = f"a cell holds the end of {len(lines) - 1:,} further rows"
                fix = "Remove the quotation mark that begins the cell, or close it in its own line."
                findings.append(Finding("lost-lines", Fault(f"{where}: row {row}", what, fix)))
    return findings


def _decode(content: bytes, where: str) -> str:
    """Return the text; its encoding must be beyond doubt, since an ä may be a ‰ elsewhere."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte {error.start:,} (0x{content[error.start]:02x}) is not UTF-8 text"
        if is_utf16:
            what = "it starts as UTF-16 text, but it does not continue as such"
        fix = (
            "Excel's plain 'CSV' has the encoding of its country: save it as 'CSV UTF-8 (comma "
            "delimited)', or run iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv. Elsewhere than "
            "in Western Europe, name that encoding, such as WINDOWS-1251 or GB18030."
        )
        raise InputError(Fault(where, what, fix)) from None


def _find_separator(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Return what separates the cells of the header and the rows after it, and the text.

    A first line such as `sep=;` is removed: Excel hides it and does not count it as a row.
    """
    first, end, rest = text.partition("\n")
    hint = first.strip().strip('"').lower()
    if hint.startswith("sep=") and len(hint) == 5 and end:
        return hint[4], rest

    def describe(separator: str) -> tuple[bool, bool, int, int, int]:
        """Return whether the header has the names, whether most rows are as wide, and the like."""
        reader = csv.reader(io.StringIO(text[: 1 << 16], newline=""), delimiter=separator)
        records: list[list[str]] = []
        with contextlib.suppress(csv.Error):  # reported when the whole text is parsed
            for record in itertools.islice(reader, 50):
                records += [record] if any(record) else []
        top = _find_header(records, names) or 0
        widths = [len(record) for record in records[top:]]
        if not widths or widths[0] < 2:
            return False, False, 0, 0, 0
        same = widths.count(widths[0])
        has_names = bool(names) and _has_names(records[top], names)
        return has_names, 2 * same >= len(widths), -top, widths[0], same

    return max(_SEPARATORS, key=describe), text


def _count_filled(record: Sequence[str]) -> int:
    return sum(bool(cell.strip()) for cell in record)


def _find_header(records: Sequence[Sequence[str]], names: Sequence[str]) -> int | None:
    """Return the position of the header.

    It is the row with all names that are looked for, else the first with two cells: titles, merged
    cells and comments (# …, with another number of cells than the next row) may stand above it.
    """
    if names:
        for i, record in enumerate(records[:_MOST_ABOVE]):
            if _has_names(record, names):
                return i
    filled = [_count_filled(record) for record in records]
    for fewest in (1, 0):
        for i, number in enumerate(filled):
            if number > fewest and not _is_comment(records, i):
                return i
    return None


def _has_names(record: Sequence[str], names: Sequence[str]) -> bool:
    return len(record) <= _WIDEST and set(names) <= {_clean(cell) for cell in record}


def _is_comment(records: Sequence[Sequence[str]], position: int) -> bool:
    record = records[position]
    following = next((other for other in records[position + 1 :] if any(other)), record)
    return record[0].lstrip().startswith("#") and len(record) != len(following)


def _check_size(where: str, rows: int, cells: int) -> None:
    if rows > MAX_ROWS or cells > MAX_CELLS:
        what = (
            f"it has {rows:,} rows and {cells:,} cells or more, and at most {MAX_ROWS:,} rows and "
            f"{MAX_CELLS:,} cells are read"
        )
        fix = "Remove the columns that are not needed, or split the table."
        raise InputError(Fault(where, what, fix))


def _check_unpacked_size(where: str, size: int) -> None:
    if size > MAX_UNPACKED_BYTES:
        what = f"it unpacks to {size:,} bytes, and at most {MAX_UNPACKED_BYTES:,} are read"
        fix = "Remove the columns that are not needed, or save the table as 'CSV UTF-8'."
        raise InputError(Fault(where, what, fix))


def _build_cells(
    records: Sequence[Sequence[str]],
    where: str,
    key: str,
    names: Sequence[str],
    separators: str = "cells",
) -> Cells:
    """Return records, numbered from 1, as a table; blank ones and titles are left out."""
    records = [[cell.strip() for cell in record] for record in records]
    # A few texts may stand in every row of a small workbook or Parquet file.
    size = sum(len(cell) for record in records for cell in record)
    if size > LARGEST_TEXT:
        what = f"its cells have {size:,} characters, and at most {LARGEST_TEXT:,} are read"
        raise InputError(Fault(where, what, "Remove the columns that are not needed."))
    top = _find_header(records, names)
    body = [] if top is None else list(enumerate(records, start=1))[top + 1 :]
    body = [(row, record) for row, record in body if any(record)]
    if top is None or not body:
        what = "it is empty" if top is None else "it has a header and no rows"
        fix = "Save it again with a header and at least one row."
        raise InputError(Fault(where, what, fix))
    header = [_clean(name) for name in records[top]]
    width = max(i for i, name in enumerate(header, start=1) if name or i == 1)
    repeated = {name for name, count in Counter(header).items() if name and count > 1}
    again = {row for row, record in body if _is_header(record, records[top], header)}
    # Empty cells behind the last name, as spreadsheets save them, shift no other cell.
    body = [
        (row, record if len(record) == len(header) else _without_empty_end(record, width))
        for row, record in body
        if row not in again
    ]
    widths = (width, len(header))
    whole = [(row, record) for row, record in body if len(record) in widths]
    ragged = [(row, record) for row, record in body if len(record) not in widths]
    findings = _repeated_header_findings(where, sorted(again))
    findings += _ragged_findings(where, width, ragged, len(whole), separators)
    columns = {
        name: [record[i] for _, record in whole]
        for i, name in enumerate(header)
        if name and name not in repeated  # nobody can ask for a column without a name
    }
    table = pd.DataFrame(columns, dtype=str)
    rows = tuple(row for row, _ in whole)
    unusable = {name: repeated_column(where, [name]) for name in sorted(repeated)}
    return Cells(where, table, rows, tuple(findings), key, unusable)


def _is_header(record: Sequence[str], first: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a row is the header again, perhaps with a mark of a file's beginning."""
    return record[1:] == first[1:] and _clean(record[0]) == header[0]


def _without_empty_end(record: Sequence[str], width: int) -> Sequence[str]:
    """Return a row without the empty cells at its end, but not shorter than `width`."""
    end = len(record)
    while end > width and not record[end - 1]:
        end -= 1
    return record[:end]


def _repeated_header_findings(where: str, rows: Sequence[int]) -> list[Finding]:
    if not rows:
        return []
    listed = f"{', '.join(map(str, rows[:_FEW]))}{', …' if rows[_FEW:] else ''}"
    place = f"{where}: " + (f"{len(rows):,} rows ({listed})" if rows[1:] else f"row {listed}")
    fault = Fault(place, "the header is repeated", "Remove the line. Were several files joined?")
    return [Finding("repeated-header", fault)]


def _ragged_findings(
    where: str,
    width: int,
    ragged: Sequence[tuple[int, Sequence[str]]],
    whole: int,
    separators: str,
) -> list[Finding]:
    """Return the rows of another width than the header: one by one if they are few."""
    is_grouped = len(ragged) > MAX_LISTED or (not whole and len(ragged) > 1)
    more = f", and {len(ragged) - 1:,} other rows likewise" if is_grouped else ""
    findings = []
    for row, record in ragged[:1] if is_grouped else ragged:
        fix = "Quote a value that contains the separator itself."
        other = [s for s in _SEPARATORS if len(record) == 1 and record[0].count(s) == width - 1]
        if other and width > 1:
            fix = f"Its cells are separated by {_SEPARATORS[other[0]]}. Use one separator only."
        elif len(record) < width:
            fix = "Add the missing fields, or remove the line if it is no data."
        elif not whole:
            fix += " If a column has no name in the header, add it."
        if not whole:
            fix += " If the line above is no header, remove it."
        what = f"it has {len(record)} {'field' if len(record) == 1 else 'fields'}{more}"
        expected = f"{width} fields separated by {separators}, like the header"
        findings.append(Finding("ragged-row", Fault(f"{where}: row {row}", what, fix, expected)))
    return findings


def _clean(name: str) -> str:
    """Return the name of a column without marks, blanks and line ends that cannot be typed."""
    name = re.sub(r"\s*[\r\n]+\s*", " ", re.sub("[\ufeff\u200b]", "", name))
    return re.sub("[\u00a0\u202f\u2007]", " ", name).strip()


class _Worksheet(NamedTuple):
    """A worksheet's rows from the first on, empty ones too, all of one width."""

    name: str
    is_hidden: bool
    rows: list[list[str]]
    findings: list[Finding]


def _read_excel(
    content: bytes, where: str, key: str, sheet: str | None, names: Sequence[str]
) -> Cells:
    import openpyxl

    try:
        # Its warnings are recorded, not shown: they are about fonts and print settings.
        with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings(record=True):
            _check_unpacked_size(where, sum(entry.file_size for entry in archive.infolist()))
            book = openpyxl.load_workbook(
                io.BytesIO(content), read_only=True, data_only=True, keep_links=False
            )
            titles = [page.title for page in book.worksheets]
            sheets = [
                _read_worksheet(page, archive, where, names)
                for page in book.worksheets
                if sheet in (None, page.title)
            ]
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 (openpyxl checks nothing, so anything may be raised)
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        what = f"it can't be read as an Excel workbook ({reason})"
        raise InputError(Fault(where, what, _SAVE_AS)) from None
    chosen = _choose_worksheet(sheets, titles, where, sheet, names)
    sheet_name = where if len(titles) == 1 else f"{where}, sheet {chosen.name!r}"
    cells = _build_cells(chosen.rows, sheet_name, key, names)
    return replace(cells, findings=(*cells.findings, *chosen.findings))


def _read_worksheet(
    page: Any, archive: zipfile.ZipFile, where: str, names: Sequence[str]
) -> _Worksheet:
    page.reset_dimensions()  # the size that the file announces may be wrong
    rows: list[list[str]] = []
    width = 0
    for values in page.iter_rows(values_only=True):
        rows.append([str(v).upper() if isinstance(v, bool) else cell_text(v) for v in values])
        width = max(width, len(values))
        _check_size(where, len(rows), len(rows) * width)
    rows = [row + [""] * (width - len(row)) for row in rows]
    sheet_name = f"{where}: sheet {page.title!r}"
    xml = archive.read(page._worksheet_path)  # there is no public name for it
    cells = [(int(row), len(column), column) for column, row in _REFERENCE.findall(xml)]
    if any(cell >= following for cell, following in itertools.pairwise(cells)):
        what = "its cells are out of order, so that openpyxl would drop some"
        raise InputError(Fault(sheet_name, what, _SAVE_AS))
    findings = _unusable_cell_findings(sheet_name, rows, _find_header(rows, names) or 0, xml)
    return _Worksheet(page.title, page.sheet_state != "visible", rows, findings)


def _unusable_cell_findings(
    where: str, rows: Sequence[Sequence[str]], top: int, xml: bytes
) -> list[Finding]:
    """Return what is wrong with cells below the header: one finding for each kind and column."""
    from openpyxl.utils import get_column_letter, range_boundaries

    header = [_clean(name) for name in rows[top]] if rows else []
    found: dict[tuple[str, str], list[str]] = {}
    areas = [("merged-cells", name.decode()) for name in _MERGED.findall(xml)]
    areas += [("formula-without-result", n.decode()) for n in _FORMULA_WITHOUT_RESULT.findall(xml)]
    size = 0
    for code, name in areas:
        left, _, right, last = range_boundaries(name)
        size += right - left
        _check_size(where, 0, size)
        if last > top + 1:
            for column in header[left - 1 : right]:
                found.setdefault((code, column), []).append(name)
    for number, row in enumerate(rows[top + 1 :], start=top + 2):
        for i, text in enumerate(row):
            if text in _EXCEL_ERRORS:
                cell = f"{get_column_letter(i + 1)}{number} ({text})"
                found.setdefault(("error-value", header[i]), []).append(cell)
    findings = []
    for (code, column), cells in found.items():
        what, fix = _UNUSABLE_CELLS[code]
        what = f"cells are {what}: {', '.join(cells[:_FEW])}{', …' if cells[_FEW:] else ''}"
        findings.append(Finding(code, Fault(where, what, fix), column=column))
    return findings


def _choose_worksheet(
    sheets: Sequence[_Worksheet],
    titles: Sequence[str],
    where: str,
    wanted: str | None,
    names: Sequence[str],
) -> _Worksheet:
    listed = ", ".join(map(repr, titles)) or "none"
    if wanted is not None:
        if not sheets:
            what = f"there is no worksheet {wanted!r}"
            raise InputError(Fault(where, what, f"Correct --sheet. The worksheets are {listed}."))
        return sheets[0]
    filled = [sheet for sheet in sheets if any(map(any, sheet.rows))]
    visible = [sheet for sheet in filled if not sheet.is_hidden] or filled
    tables = [sheet for sheet in visible if sum(_count_filled(row) > 1 for row in sheet.rows) > 1]
    if len(tables) > 1:
        wanted_names = {name.casefold() for name in names}
        counts = [_count_names(sheet.rows, wanted_names) for sheet in tables]
        *others, most = sorted(counts)
        if names and most == len(wanted_names) > 2 * others[-1]:
            return tables[counts.index(most)]  # the others are lists of codes, or results
        what = f"it has {len(tables)} worksheets with data"
        fix = (
            f"Name one with --sheet: {', '.join(repr(sheet.name) for sheet in tables)}. For a "
            "command without --sheet, save that worksheet as a file of its own."
        )
        raise InputError(Fault(where, what, fix))
    if not visible:
        what = f"its worksheets are empty ({listed})"
        fix = "Save it as an ordinary .xlsx, not as 'Strict', with a header and at least one row."
        raise InputError(Fault(where, what, fix))
    return (tables or visible)[0]


def _count_names(rows: Sequence[Sequence[str]], names: set[str]) -> int:
    """Return how many of these names, in lower case, one of the first rows has."""
    return max(
        len(names & {_clean(cell).casefold() for cell in row[:_WIDEST]})
        for row in rows[:_MOST_ABOVE]
    )


def _read_parquet(content: bytes, where: str, key: str, names: Sequence[str]) -> Cells:
    found = decode_parquet(content, where, most=(MAX_ROWS, MAX_CELLS, MAX_UNPACKED_BYTES))
    _check_size(where, found.rows, found.cells)
    _check_unpacked_size(where, found.unpacked)
    cells = _build_cells([found.names, *zip(*found.columns, strict=True)], where, key, names)
    nested = {name: _nested_column(where, name) for name in found.nested}
    return replace(cells, unusable={**nested, **cells.unusable})
