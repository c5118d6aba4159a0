"""Read a table (CSV, TSV, Excel or Parquet, recognized by its content) as plain text cells.

It uses what pandas uses: `csv`, openpyxl and pyarrow. Through pandas it could not name short rows,
cells with errors, merged cells and formulas without a stored result.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from boneage.datasets.cells import (
    MAX_CELLS,
    MAX_ROWS,
    MAX_UNPACKED_BYTES,
    SAVE_AS,
    SEPARATORS,
    Cells,
    Finding,
    build_cells,
    check_size,
    check_unpacked_size,
    find_header,
    has_all_names,
)
from boneage.datasets.excel import read_excel
from boneage.datasets.parquet import decode_parquet
from boneage.errors import Fault, InputError
from boneage.runtime.files import read_bytes

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
        return read_excel(content, where, key, sheet, names)
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
        fix = "Save the table as 'CSV UTF-8'." if is_table else SAVE_AS
        raise InputError(Fault(where, f"it is {kind}", fix))
    separator, text = _find_separator(_decode(content, where), names)
    rows = max(text.count("\n"), text.count("\r"))
    check_size(where, rows, rows + text.count(separator))
    is_spaced = 2 * text.count(f'{separator} "') > rows  # "F", "126"
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=is_spaced)
    try:
        records = list(reader)
    except csv.Error as error:
        fix = "Check that every quotation mark is closed."
        raise InputError(Fault(where, f"it is not valid CSV ({error})", fix)) from None
    cells = build_cells(records, where, key, names, SEPARATORS.get(separator, repr(separator)))
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
        top = find_header(records, names) or 0
        widths = [len(record) for record in records[top:]]
        if not widths or widths[0] < 2:
            return False, False, 0, 0, 0
        same = widths.count(widths[0])
        has_names = bool(names) and has_all_names(records[top], names)
        return has_names, 2 * same >= len(widths), -top, widths[0], same

    return max(SEPARATORS, key=describe), text


def _read_parquet(content: bytes, where: str, key: str, names: Sequence[str]) -> Cells:
    found = decode_parquet(content, where, most=(MAX_ROWS, MAX_CELLS, MAX_UNPACKED_BYTES))
    check_size(where, found.rows, found.cells)
    check_unpacked_size(where, found.unpacked)
    cells = build_cells([found.names, *zip(*found.columns, strict=True)], where, key, names)
    what = "the column {!r} holds lists, records or bytes"
    fix = "Write it as text, and images as files."
    nested = {n: Finding("nested-column", Fault(where, what.format(n), fix)) for n in found.nested}
    return replace(cells, unusable={**nested, **cells.unusable})
