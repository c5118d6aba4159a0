"""A table as it comes (CSV, TSV, Excel or Parquet, told by content) as plain text cells."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from boneage.datasets.tables.cells import Cells, Finding, read_bytes, read_cells
from boneage.datasets.tables.excel import Worksheet, read_workbook
from boneage.datasets.tables.parquet import read_parquet
from boneage.errors import Fault, InputError

KINDS = "CSV, TSV, Excel (.xlsx) or Parquet"
MOST_BYTES = 64 << 20
"""Largest file read."""
MOST_ROWS = 250_000
"""Most rows of any table, twenty times those of the RSNA set; an import of them takes 0.9 GB."""
MOST_CELLS = 2_000_000
"""Most cells of a text; half a gigabyte of memory is enough to read them."""
MOST_LETTERS = 16_000_000
"""Most letters in the cells of a worksheet."""

_SAVE_ANEW = "Open it and save it as .xlsx or as 'CSV UTF-8'."
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PROTECTED = "EncryptedPackage".encode("utf-16-le")
# By their first bytes; all are refused, with what they are.
_OTHERS = {
    b"%PDF": "a PDF",
    b"{\\rtf": "an RTF document",
    b"\x1f\x8b": "compressed by gzip",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5 file",
    b"$FL2": "an SPSS file (.sav)",
    b"<!DOCTYPE": "an HTML or XML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML file",
    b"Obj\x01": "an Avro file",
    b"7z\xbc\xaf": "a 7-Zip archive",
}
_SAMPLE = 50
_DELIMITERS = (",", "\t", ";")


def read_sheet(path: Path, *, key: str = "image_id", sheet: str | None = None) -> Cells:
    """Reads a table as text: every cell as a person would write it, nothing interpreted.

    Args:
        path: CSV, TSV, semicolons, Excel (.xlsx) or Parquet; its suffix doesn't matter.
        key: Column that names a row in messages.
        sheet: Worksheet of a workbook; if None, the only one that holds a table.

    Raises:
        InputError: It is none of these, broken, too large, or which worksheet is not clear.
    """
    path = Path(path)
    where = str(path)
    content = _read(path)
    if content.startswith(b"PK\x03\x04"):
        return _from_workbook(read_workbook(content, where), where, key, sheet)
    if sheet is not None:
        what = f"it is no workbook, and sheet {sheet!r} is asked for"
        raise InputError(Fault(where, what, "Leave --sheet out.", expected="an .xlsx file"))
    if content.startswith(b"PAR1"):
        return read_parquet(content, where, key)
    _refuse_others(content, where)
    text = _decoded(content, where)
    delimiter, text = _delimiter(text)
    rows = max(text.count("\n"), text.count("\r"))
    cells = text.count(delimiter) + rows
    if rows > MOST_ROWS or cells > MOST_CELLS:
        raise InputError(
            Fault(
                where,
                f"it has about {rows:,} rows and {cells:,} cells",
                "Leave out the columns that are not needed, or divide it.",
                expected=f"at most {MOST_ROWS:,} rows and {MOST_CELLS:,} cells",
            )
        )
    return read_cells(text.encode(), where, delimiter=delimiter, key=key)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        size = 0  # read_bytes says why
    if size > MOST_BYTES:
        raise InputError(
            Fault(
                str(path),
                f"it has {size:,} bytes",
                "Is it a table? Leave out the columns that are not needed, or divide it.",
                expected=f"a table of at most {MOST_BYTES:,}",
            )
        )
    return read_bytes(path, "a table (CSV, Excel or Parquet)")


def _refuse_others(content: bytes, where: str) -> None:
    if content.startswith(_OLE):
        locked = _PROTECTED in content
        kind = "a workbook with a password" if locked else "an old Excel file (.xls)"
        fix = "Take the password off and save it anew." if locked else _SAVE_ANEW
        raise InputError(Fault(where, f"it is {kind}", fix, expected=KINDS))
    start = content[:64].lstrip(codecs.BOM_UTF8 + b" \r\n\t")
    for magic, kind in _OTHERS.items():
        if start[: len(magic)].lower() == magic.lower():
            raise InputError(Fault(where, f"it is {kind}", _SAVE_ANEW, expected=KINDS))


def _decoded(content: bytes, where: str) -> str:
    """The text of a delimited file, whose encoding must be beyond doubt."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's 'Unicode Text'
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError:
            what = "it starts as UTF-16 text and goes on as something else"
            fix = "Was it cut off? Save it again, as 'CSV UTF-8'."
            raise InputError(Fault(where, what, fix, expected="a CSV file in UTF-8")) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte {error.start:,} (0x{content[error.start]:02x}) is not UTF-8 text"
        # One byte alone may be ä in Windows-1252, ‰ in Mac Roman, ń in Windows-1250: not guessed.
        fix = (
            "Excel's plain 'CSV' is in Windows-1252: save it as 'CSV UTF-8 (comma delimited)', or "
            "run iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv."
        )
        raise InputError(Fault(where, what, fix, expected="a CSV file in UTF-8")) from None


def _delimiter(text: str) -> tuple[str, str]:
    """What separates the cells, and the text without `sep=` and lines of title.

    The separator is the one that most of the first records agree on. Lines of title become blank
    ones, so that the numbers of the rows stay.
    """
    first, end, rest = text.partition("\n")
    hint = first.strip().strip('"').lower()
    if hint.startswith("sep=") and len(hint) == 5 and end:
        return hint[4], rest  # written for Excel, which hides that line and doesn't count it
    best: tuple[tuple[int, int], str, int, int] | None = None
    lines = text[: 1 << 16].splitlines(keepends=True)[: 4 * _SAMPLE]
    for delimiter in _DELIMITERS:
        records = _sample(lines, delimiter)
        header = next((i for i, (r, _) in enumerate(records) if _filled(r) > 1), None)
        if header is None:
            continue
        width = len(records[header][0])
        alike = sum(len(record) == width for record, _ in records[header:])
        line = records[header - 1][1] if header else 0
        if best is None or (alike, width) > best[0]:
            best = (alike, width), delimiter, header, line
    if best is None:
        return ",", text
    _, delimiter, header, line = best
    return delimiter, "\n" * header + text[sum(map(len, lines[:line])) :]


def _sample(lines: Sequence[str], delimiter: str) -> list[tuple[list[str], int]]:
    """The first records and the number of lines up to the end of each."""
    reader = csv.reader(lines, delimiter=delimiter)
    records = []
    try:
        for record in reader:
            records.append((record, reader.line_num))
            if len(records) == _SAMPLE:
                break
    except csv.Error:
        pass  # told by read_cells, if this is the separator
    return records


def _filled(record: Sequence[str]) -> int:
    return sum(bool(cell.strip()) for cell in record)


def _from_workbook(sheets: Sequence[Worksheet], where: str, key: str, name: str | None) -> Cells:
    chosen = _choose(sheets, where, name)
    rows = chosen.rows
    header = next((i for i, row in enumerate(rows) if _filled(row) > 1), 0)
    rows = [[] if i < header else row for i, row in enumerate(rows)]
    letters = sum(len(text) for row in rows for text in row)
    if letters > MOST_LETTERS:
        raise InputError(
            Fault(
                where,
                f"its cells have {letters:,} letters",
                "Leave out the columns that are not needed.",
                expected=f"at most {MOST_LETTERS:,}",
            )
        )
    used = sorted({i for row in rows for i, text in enumerate(row) if text.strip()})
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:  # empty rows stay, so that the others keep their numbers
        writer.writerow([row[i] if i < len(row) else "" for i in used] if any(row) else [])
    place = where if len(sheets) == 1 else f"{where}, sheet {chosen.name!r}"
    cells = read_cells(buffer.getvalue().encode(), place, key=key)
    merged = [text for first, last, text in chosen.merged if last > header + 1]
    return replace(
        cells, findings=(*cells.findings, *chosen.findings, *_merged_finding(place, merged))
    )


def _merged_finding(where: str, ranges: Sequence[str]) -> list[Finding]:
    if not ranges:
        return []
    named = ", ".join(ranges[:5]) + (", …" if len(ranges) > 5 else "")
    return [
        Finding(
            "merged-cells",
            Fault(
                where,
                f"the cells {named} are merged, which leaves all but the first of them empty",
                "Unmerge them and fill in each.",
                expected="a value in every cell",
            ),
        )
    ]


def _choose(sheets: Sequence[Worksheet], where: str, name: str | None) -> Worksheet:
    names = ", ".join(repr(sheet.name) for sheet in sheets) or "none"
    if name is not None:
        for sheet in sheets:
            if sheet.name == name:
                return sheet
        what = f"there is no worksheet {name!r}"
        raise InputError(Fault(where, what, "Correct --sheet.", expected=f"one of {names}"))
    filled = [sheet for sheet in sheets if any(map(any, sheet.rows))]
    seen = [sheet for sheet in filled if not sheet.hidden] or filled
    tables = [sheet for sheet in seen if sum(_filled(row) > 1 for row in sheet.rows) > 1]
    if len(tables) > 1:
        raise InputError(
            Fault(
                where,
                f"it has {len(tables)} worksheets with data",
                f"Name one with --sheet: {', '.join(repr(sheet.name) for sheet in tables)}.",
                expected="one, or to be told which",
            )
        )
    if not seen:
        what = f"its worksheets are empty ({names})"
        raise InputError(
            Fault(where, what, "Was it saved before it was filled in?", expected="a table")
        )
    return (tables or seen)[0]
