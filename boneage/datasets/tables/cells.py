"""Comma- or tab-separated files as plain text cells, and faults that name their rows."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from boneage.errors import Fault, InputError

MOST_LISTED = 20
"""Up to so many rows with the same kind of fault are named one by one; more are grouped."""

_FIRST_FEW = 5
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a table, with what a program needs to know about it.

    Attributes:
        code: Kind of fault, such as `unknown-sex`.
        fault: The message.
        image_ids: The images concerned; empty when it is the whole file.
    """

    code: str
    fault: Fault
    image_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cells:
    """A delimited file, nothing interpreted yet.

    Attributes:
        where: The file, as messages name it.
        table: One row a record, every cell a str with outer blanks removed.
        rows: Row number of each record as a spreadsheet shows it (the header is row 1).
        findings: What was wrong with the file's form.
        key: Column that names a row in messages, when the table has it.
    """

    where: str
    table: pd.DataFrame
    rows: tuple[int, ...]
    findings: tuple[Finding, ...] = ()
    key: str = "image_id"

    def keys(self) -> list[str]:
        """What names each row; empty strings when the table lacks the key column."""
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
        """Faults for rows that are wrong in the same way, grouped when there are many.

        Args:
            code: Kind of fault.
            positions: Positions in `table` (from 0) of the wrong rows.
            what: Says what is wrong with the row at a position.
            expected: What every such row should hold.
            fix: How to mend them.
        """
        positions = list(positions)
        if len(positions) <= MOST_LISTED:
            groups = {str(position): [position] for position in positions}
        else:
            groups = {}
            for position in positions:
                groups.setdefault(what(position), []).append(position)
            if len(groups) > MOST_LISTED:
                groups = {"": positions}
        keys = self.keys()
        return [
            Finding(
                code,
                Fault(self._place(group, keys), _shared(group, what), fix, expected=expected),
                tuple(keys[position] for position in group if keys[position]),
            )
            for group in groups.values()
        ]

    def _place(self, positions: Sequence[int], keys: Sequence[str]) -> str:
        named = [keys[position] for position in positions[:_FIRST_FEW] if keys[position]]
        more = ", …" if len(positions) > _FIRST_FEW else ""
        if len(positions) == 1:
            place = f"row {self.rows[positions[0]]}"
        else:
            rows = ", ".join(str(self.rows[position]) for position in positions[:_FIRST_FEW])
            place = f"{len(positions):,} rows ({rows}{more})"
        return f"{self.where}: {place}" + (
            f" ({self.key} {', '.join(named)}{more})" if named else ""
        )


def _shared(positions: Sequence[int], what: Callable[[int], str]) -> str:
    first = what(positions[0])
    if all(what(position) == first for position in positions):
        return first
    return f"{first}, and {len(positions) - 1:,} others likewise"


def read_bytes(path: Path, expected: str = "a CSV file") -> bytes:
    """Reads a whole file.

    Args:
        path: The file.
        expected: What it should be, as messages say it.

    Raises:
        InputError: It is missing, a folder, or can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        reason, fix = "there is no such file", "Check the path."
    except IsADirectoryError:
        reason, fix = "it is a folder", "Name the file inside it."
    except OSError as error:
        reason, fix = f"it can't be read ({error.strerror})", "Check its permissions."
    raise InputError(Fault(str(path), reason, fix, expected=expected))


def read_cells(
    content: bytes, where: str, *, delimiter: str | None = ",", key: str = "image_id"
) -> Cells:
    """Parses delimited text strictly: no record is dropped, padded or shifted unsaid.

    Args:
        content: The file's bytes, UTF-8 with or without a byte order mark.
        where: The file, as messages name it.
        delimiter: The separator; None takes what the header line uses most of comma, tab and
            semicolon.
        key: Column that names a row in messages.

    Raises:
        InputError: It is no such text, or there is no header or no row.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            Fault(
                where,
                f"byte {error.start:,} (0x{content[error.start]:02x}) is not UTF-8 text",
                "Is it a spreadsheet or in another encoding? Save it as 'CSV UTF-8'.",
                expected="a CSV file in UTF-8",
            )
        ) from None
    if delimiter is None:
        header_line = text.partition("\n")[0]
        delimiter = max(_DELIMITERS, key=header_line.count)
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(
            Fault(where, f"not valid CSV: {error}", "Is a quote left open?", expected="a CSV file")
        ) from None
    records = [[cell.strip() for cell in record] for record in records]
    numbered = [(row, record) for row, record in enumerate(records, start=1) if any(record)]
    separator = _DELIMITERS.get(delimiter, repr(delimiter))
    if len(numbered) < 2:
        what = "it has a header and no rows" if numbered else "it is empty"
        raise InputError(
            Fault(
                where,
                what,
                "Was it cut off when it was written?",
                expected=f"a header and one row an image, separated by {separator}",
            )
        )
    (_, header), body = numbered[0], numbered[1:]
    whole = [(row, record) for row, record in body if len(record) == len(header)]
    findings = [*_header_findings(header, where), *_ragged(header, body, where, separator)]
    table = pd.DataFrame(
        {name: [record[i] for _, record in whole] for i, name in enumerate(header)}, dtype=str
    )
    return Cells(where, table, tuple(row for row, _ in whole), tuple(findings), key)


def _header_findings(header: Sequence[str], where: str) -> list[Finding]:
    twice = sorted({name for name in header if header.count(name) > 1})
    return [
        Finding(
            "duplicate-column",
            Fault(
                where,
                f"column {name!r} stands {header.count(name)} times in the header",
                "Rename or remove one of them.",
                expected="each column once",
            ),
        )
        for name in twice
    ]


def _ragged(
    header: Sequence[str], body: Sequence[tuple[int, Sequence[str]]], where: str, separator: str
) -> list[Finding]:
    wrong = [(row, len(record)) for row, record in body if len(record) != len(header)]
    listed = wrong if len(wrong) <= MOST_LISTED else wrong[:1]
    findings = []
    for row, fields in listed:
        more = f", and {len(wrong) - 1:,} rows likewise" if len(listed) < len(wrong) else ""
        findings.append(
            Finding(
                "ragged-row",
                Fault(
                    f"{where}: row {row}",
                    f"it has {fields} fields{more}",
                    "Quote a value that holds the separator itself.",
                    expected=f"{len(header)}, as the header has, separated by {separator}",
                ),
            )
        )
    return findings


def missing_column(
    cells: Cells, name: str, synonyms: Mapping[str, Sequence[str]] | None = None
) -> Finding:
    """The finding that a column is not there, with the one that was likely meant."""
    present = [str(column) for column in cells.table.columns]
    folded = {column.lower().replace(" ", "_"): column for column in present}
    candidates = [name.lower(), *(synonyms or {}).get(name, ())]
    close = [folded[candidate] for candidate in candidates if candidate in folded]
    close = close or [
        folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=1)
    ]
    return Finding(
        "missing-column",
        Fault(
            cells.where,
            f"there is no column {name!r}",
            f"Did you mean {close[0]!r}?" if close else "Add it.",
            expected=f"it among {', '.join(present)}",
        ),
    )
