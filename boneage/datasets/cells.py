"""A table as plain text cells, and what is wrong with it, whatever kind of file it comes from."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from boneage.errors import Fault, InputError
from boneage.runtime.files import LARGEST_TEXT

MAX_UNPACKED_BYTES = 128 << 20
"""Most bytes that a workbook or a Parquet file may announce for its unpacked parts."""
MAX_ROWS = 250_000
MAX_CELLS = 5_000_000
MAX_LISTED = 20
"""Up to this number, rows with the same kind of fault are named one by one; more are grouped."""

_FEW = 5
_WIDEST = 16_384  # columns of a row that may be found by its names; Excel has no more
_MOST_ABOVE = 30  # rows above a header
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
SAVE_AS = "Open the file, remove any password, and save the table as .xlsx or as 'CSV UTF-8'."


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
            "Separate the cells by commas, tabs, semicolons or vertical bars, without quotes "
            "around a line."
        )
    return Finding("missing-column", Fault(cells.where, what, fix))


def repeated_column(where: str, names: Sequence[str]) -> Finding:
    """Return the finding that several columns have the name of one that is used."""
    listed = " and ".join(map(repr, names)) if len(set(names)) > 1 else repr(names[0])
    what = f"the header has several columns called {listed}"
    return Finding("duplicate-column", Fault(where, what, "Rename or remove one of them."))


def count_filled(record: Sequence[str]) -> int:
    """Return the number of cells that are not blank."""
    return sum(bool(cell.strip()) for cell in record)


def find_header(records: Sequence[Sequence[str]], names: Sequence[str]) -> int | None:
    """Return the position of the header.

    It is the row with all names that are looked for, else the first with two cells: titles, merged
    cells and comments (# …, with another number of cells than the next row) may stand above it.
    """
    if names:
        for i, record in enumerate(records[:_MOST_ABOVE]):
            if has_all_names(record, names):
                return i
    filled = [count_filled(record) for record in records]
    for fewest in (1, 0):
        for i, number in enumerate(filled):
            if number > fewest and not _is_comment(records, i):
                return i
    return None


def has_all_names(record: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a row holds all of these names, in any order."""
    return len(record) <= _WIDEST and set(names) <= {clean_name(cell) for cell in record}


def _is_comment(records: Sequence[Sequence[str]], position: int) -> bool:
    record = records[position]
    following = next((other for other in records[position + 1 :] if any(other)), record)
    return record[0].lstrip().startswith("#") and len(record) != len(following)


def check_size(where: str, rows: int, cells: int) -> None:
    """Refuse a table of too many rows or cells.

    Raises:
        InputError: It is too large.
    """
    if rows > MAX_ROWS or cells > MAX_CELLS:
        what = (
            f"it has {rows:,} rows and {cells:,} cells or more, and at most {MAX_ROWS:,} rows and "
            f"{MAX_CELLS:,} cells are read"
        )
        fix = "Remove the columns that are not needed, or split the table."
        raise InputError(Fault(where, what, fix))


def check_unpacked_size(where: str, size: int) -> None:
    """Refuse a workbook or a Parquet file that unpacks to too many bytes.

    Raises:
        InputError: It is too large.
    """
    if size > MAX_UNPACKED_BYTES:
        what = f"it unpacks to {size:,} bytes, and at most {MAX_UNPACKED_BYTES:,} are read"
        fix = "Remove the columns that are not needed, or save the table as 'CSV UTF-8'."
        raise InputError(Fault(where, what, fix))


def build_cells(
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
    top = find_header(records, names)
    body = [] if top is None else list(enumerate(records, start=1))[top + 1 :]
    body = [(row, record) for row, record in body if any(record)]
    if top is None or not body:
        what = "it is empty" if top is None else "it has a header and no rows"
        fix = "Save it again with a header and at least one row."
        raise InputError(Fault(where, what, fix))
    header = [clean_name(name) for name in records[top]]
    width = max(i for i, name in enumerate(header, start=1) if name or i == 1)
    repeated = {name for name, count in Counter(header).items() if name and count > 1}
    again = {  # the header again, perhaps with a mark of a file's beginning
        row
        for row, record in body
        if record[1:] == records[top][1:] and clean_name(record[0]) == header[0]
    }
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
        other = [s for s in SEPARATORS if len(record) == 1 and record[0].count(s) == width - 1]
        if other and width > 1:
            fix = f"Its cells are separated by {SEPARATORS[other[0]]}. Use one separator only."
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


def clean_name(name: str) -> str:
    """Return the name of a column without marks, blanks and line ends that cannot be typed."""
    name = re.sub(r"\s*[\r\n]+\s*", " ", re.sub("[\ufeff\u200b]", "", name))
    return re.sub("[\u00a0\u202f\u2007]", " ", name).strip()


def count_names(rows: Sequence[Sequence[str]], names: set[str]) -> int:
    """Return how many of these names, in lower case, one of the first rows has."""
    return max(
        len(names & {clean_name(cell).casefold() for cell in row[:_WIDEST]})
        for row in rows[:_MOST_ABOVE]
    )
