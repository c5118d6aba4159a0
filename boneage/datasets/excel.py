"""Read a worksheet of an Excel workbook as plain text cells.

openpyxl checks little, and pandas less: merged cells, formulas without a stored result, errors and
cells out of order are looked for in the file itself.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from boneage.datasets.cell_text import cell_text
from boneage.datasets.cells import (
    SAVE_AS,
    Cells,
    Finding,
    build_cells,
    check_size,
    check_unpacked_size,
    clean_name,
    count_filled,
    count_names,
    find_header,
)
from boneage.errors import Fault, InputError

_FEW = 5
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


class _Worksheet(NamedTuple):
    """A worksheet's rows from the first on, empty ones too, all of one width."""

    name: str
    is_hidden: bool
    rows: list[list[str]]
    findings: list[Finding]


def read_excel(
    content: bytes, where: str, key: str, sheet: str | None, names: Sequence[str]
) -> Cells:
    """Read one worksheet of a workbook.

    Args:
        content: The bytes of the file.
        where: The file, as messages name it.
        key: Column whose value names a row in messages.
        sheet: The worksheet; if None, the only one that holds a table.
        names: Columns that the header should have, as in `tables.read_sheet`.

    Raises:
        InputError: It can't be read, it is too large, or the worksheet is not clear.
    """
    import openpyxl

    try:
        # Its warnings are recorded, not shown: they are about fonts and print settings.
        with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings(record=True):
            check_unpacked_size(where, sum(entry.file_size for entry in archive.infolist()))
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
        raise InputError(Fault(where, what, SAVE_AS)) from None
    chosen = _choose_worksheet(sheets, titles, where, sheet, names)
    sheet_name = where if len(titles) == 1 else f"{where}, sheet {chosen.name!r}"
    cells = build_cells(chosen.rows, sheet_name, key, names)
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
        check_size(where, len(rows), len(rows) * width)
    rows = [row + [""] * (width - len(row)) for row in rows]
    sheet_name = f"{where}: sheet {page.title!r}"
    xml = archive.read(page._worksheet_path)  # there is no public name for it
    cells = [(int(row), len(column), column) for column, row in _REFERENCE.findall(xml)]
    if any(cell >= following for cell, following in itertools.pairwise(cells)):
        what = "its cells are out of order, so that openpyxl would drop some"
        raise InputError(Fault(sheet_name, what, SAVE_AS))
    findings = _unusable_cell_findings(sheet_name, rows, find_header(rows, names) or 0, xml)
    return _Worksheet(page.title, page.sheet_state != "visible", rows, findings)


def _unusable_cell_findings(
    where: str, rows: Sequence[Sequence[str]], top: int, xml: bytes
) -> list[Finding]:
    """Return what is wrong with cells below the header: one finding for each kind and column."""
    from openpyxl.utils import get_column_letter, range_boundaries

    header = [clean_name(name) for name in rows[top]] if rows else []
    found: dict[tuple[str, str], list[str]] = {}
    areas = [("merged-cells", name.decode()) for name in _MERGED.findall(xml)]
    areas += [("formula-without-result", n.decode()) for n in _FORMULA_WITHOUT_RESULT.findall(xml)]
    size = 0
    for code, name in areas:
        left, first, right, last = range_boundaries(name)
        size += right - left
        check_size(where, 0, size)
        below = rows[max(first - 1, top + 1) : last]
        if below and (code != "merged-cells" or any(map(any, below))):
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
    tables = [sheet for sheet in visible if sum(count_filled(row) > 1 for row in sheet.rows) > 1]
    if len(tables) > 1:
        wanted_names = {name.casefold() for name in names}
        counts = [count_names(sheet.rows, wanted_names) for sheet in tables]
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
