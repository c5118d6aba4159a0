"""The table of bone ages, and which radiograph each of its rows belongs to.

A message names the row and never quotes the cell: a hospital's table holds accession numbers and
names, and a mistyped option would print them.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.cell_text import whole_number
from boneage.datasets.cells import Cells, Finding
from boneage.datasets.importers.ages import UNITS, Ages, is_years_and_months, read_ages
from boneage.datasets.importers.columns import find_column
from boneage.datasets.label_rules import SPLIT_OF_WORD
from boneage.datasets.sex_codes import read_codes
from boneage.datasets.tables import read_sheet
from boneage.errors import Fault, InputError
from boneage.radiographs.dicom_headers import OTHER_MODALITIES, DicomHeader

JOINS: Mapping[str, tuple[str, ...]] = {
    "SOPInstanceUID": ("sopinstanceuid", "sop_instance_uid", "instance_uid", "sop_uid", "uid"),
    "AccessionNumber": ("accessionnumber", "accession_number", "accession", "accession_no"),
    "file": ("file", "filename", "file_name", "filepath", "file_path", "path", "dicom", "image"),
}
"""What a row can name its radiograph by, and the usual names of such a column, folded."""

_NOUN = {"AccessionNumber": "accession number", "file": "file name"}
_NO_KEY = "(none)"  # no column may name a row in messages
# Up to four digits before the point (days), or years and months: no patient number, no name.
_AGE = re.compile(
    r"[+-]?[0-9]{1,4}([.,][0-9]*)?|[0-9]{1,2}\s?([ymj]|years?|jahre?)[0-9a-z ,.]{0,10}"
    r"|[0-9]{1,2}\s*[-;]\s*[0-9]{1,2}",
    re.IGNORECASE,
)
_HIDDEN = "(not shown)"
_DICOM_SUFFIX = re.compile(r"\.(dcm|dicom|dic|ima|img)$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelTable:
    """A table with one row for each radiograph, and what its columns hold.

    Attributes:
        file: CSV, TSV, Excel or Parquet.
        age: Column with the bone age.
        age_unit: `months`, `years`, `days` or `years-months` (10y6m).
        join: What names a row's radiograph: `SOPInstanceUID`, `AccessionNumber` or `file` (a name
            or the end of a path, with or without `.dcm`).
        join_column: Column that holds it; None finds it by its name.
        sex: Column with the sex; None takes PatientSex from the headers.
        female: Codes of that column for a girl.
        male: Codes of that column for a boy.
        split: Column with train, val (or validation) and test; None makes a seeded split.
        sheet: Worksheet of a workbook; None for the only one.
    """

    file: Path
    age: str
    age_unit: str
    join: str = "SOPInstanceUID"
    join_column: str | None = None
    sex: str | None = None
    female: Sequence[str] = ("F",)
    male: Sequence[str] = ("M",)
    split: str | None = None
    sheet: str | None = None

    def faults(self) -> list[Fault]:
        """Return what is wrong with these options, before the file is read."""
        faults = []
        for option, value, known in (
            ("--join", self.join, tuple(JOINS)),
            ("--age-unit", self.age_unit, UNITS),
        ):
            if value not in known:
                close = difflib.get_close_matches(value, known, n=1, cutoff=0.3)
                fix = f"Did you mean {close[0]!r}?" if close else f"Choose {' or '.join(known)}."
                what = f"{value!r} is unknown"
                faults.append(Fault(option, what, fix, expected=", ".join(known)))
        both = [code for code in self.female if code in self.male]
        has_empty = not (self.female and self.male and all((*self.female, *self.male)))
        if self.sex is not None and (both or has_empty):
            what = f"both contain {both[0]!r}" if both else "one of them is empty"
            fix = "Name the different codes of girls and boys; an empty cell is an unknown sex."
            faults.append(Fault("--female and --male", what, fix))
        return faults


@dataclass(frozen=True)
class Labels:
    """The table, row by row.

    Attributes:
        cells: Its text.
        keys: What names the radiograph of each row.
        months: float64 (n,), NaN where the cell is not an age.
        notes: What is doubtful about the ages.
        sexes: "F", "M" or "" (unknown) for each row; None if the table has no such column.
        splits: "train", "val", "test" or "" (unknown) for each row; None likewise.
        findings: Faults of the rows.
    """

    cells: Cells = field(repr=False)
    keys: Sequence[str] = field(repr=False)
    months: NDArray[np.float64]
    notes: Sequence[str]
    sexes: Sequence[str] | None
    splits: Sequence[str] | None
    findings: Sequence[Finding]


def read_labels(table: LabelTable) -> Labels:
    """Read the table of bone ages.

    Raises:
        InputError: The file can't be read, or has no such column. Faults of rows are findings.
    """
    wanted = [n for n in (table.age, table.join_column, table.sex, table.split) if n is not None]
    cells = read_sheet(Path(table.file), key=_NO_KEY, sheet=table.sheet, names=wanted)
    key_column = table.join_column or find_column(cells, JOINS[table.join])
    named = {"join-column": key_column, "age": table.age, "sex": table.sex, "split": table.split}
    cells = cells.using(named.values())
    faults = [
        _missing(cells, option, name)
        for option, name in named.items()
        if name is not None and name not in cells.table
    ]
    if key_column is None:
        what = f"none of the columns is called {table.join}"
        fix = f"Name the column that holds it with --join-column. {_check_header(cells)}"
        faults.append(Fault(cells.where, what, fix))
    if faults or key_column is None:
        raise InputError([*(finding.fault for finding in cells.findings), *faults])
    ages = _ages(cells, table)
    female, male = (" or ".join(map(repr, codes)) for codes in (table.female, table.male))
    sexes = None
    if table.sex is not None:
        sexes = read_codes(cells.table[table.sex].tolist(), table.female, table.male)
    splits = None
    if table.split is not None:
        splits = [SPLIT_OF_WORD.get(text.lower(), "") for text in cells.table[table.split]]
    findings = [
        *cells.findings,
        *ages.findings,
        *cells.row_findings(
            "unknown-sex",
            [row for row, sex in enumerate(sexes or ()) if not sex],
            lambda row: f"{table.sex} is neither a girl's nor a boy's code",
            f"{female} (--female) or {male} (--male)",
            "Correct the cell or those options. A sex is never guessed.",
        ),
        *cells.row_findings(
            "unknown-split",
            [row for row, split in enumerate(splits or ()) if not split],
            lambda row: f"{table.split} is not a split",
            "train, val or test",
            "Correct the cell, or omit --split for a seeded split.",
        ),
    ]
    keys = cells.table[key_column].tolist()
    return Labels(cells, keys, ages.months, ages.notes, sexes, splits, findings)


def _missing(cells: Cells, option: str, name: str) -> Fault:
    if name in cells.unusable:
        return cells.unusable[name].fault
    close = difflib.get_close_matches(name, [str(c) for c in cells.table.columns], n=1)
    return Fault(
        f"{cells.where} (--{option} {name})",
        f"none of the {len(cells.table.columns)} columns is called {name!r}",
        f"Did you mean {close[0]!r}?" if close else _check_header(cells),
    )


def _check_header(cells: Cells) -> str:
    return f"Is the first line of {Path(cells.where).name} a header?"


def _ages(cells: Cells, table: LabelTable) -> Ages:
    """Return the bone ages; a cell that is no age at all is not quoted."""
    shown = [
        text if not text or _AGE.fullmatch(text) or is_years_and_months(text) else _HIDDEN
        for text in cells.table[table.age]
    ]
    return read_ages(cells, table.age, table.age_unit, "--age-unit", shown=shown)


@dataclass(frozen=True)
class Match:
    """Which radiograph each row belongs to.

    Attributes:
        headers: One for each row; None if there is none, or more than one.
        findings: Rows without a radiograph, with several, or with another row's.
        copies: Number of files left out because they equal another one byte for byte.
        chosen: Number of rows whose study has several radiographs but only one of a hand.
    """

    headers: Sequence[DicomHeader | None]
    findings: Sequence[Finding]
    copies: int
    chosen: int


def match(labels: Labels, headers: Sequence[DicomHeader], join: str, hint: str = "") -> Match:
    """Find the radiograph of each row.

    Args:
        labels: The table.
        headers: The headers of all radiographs.
        join: One of `JOINS`.
        hint: What may explain that a radiograph is missing.
    """
    candidates = _candidates(labels, headers, join)
    found: list[DicomHeader | None] = []
    ambiguous: dict[int, str] = {}
    copies = chosen = 0
    for row, several in enumerate(candidates):
        different = _without_copies(several)
        copies += len(several) - len(different)
        if len(different) > 1 and join == "AccessionNumber":
            hands = _only_hands(different)
            chosen += len(hands) == 1
            different = hands if len(hands) == 1 else different
        if len(different) > 1:
            is_same = len({header.instance_uid for header in different}) == 1
            what = "the same SOPInstanceUID" if is_same else f"this {_NOUN.get(join, join)}"
            ambiguous[row] = f"{len(different)} different radiographs have {what}"
        found.append(different[0] if len(different) == 1 else None)
    fix = "Name the right radiograph: join by SOPInstanceUID, or by file with more of the path."
    if join == "SOPInstanceUID":
        fix = "Remove the wrong files, or join by file."
    findings = [
        *_missing_findings(labels, candidates, headers, join, hint),
        *labels.cells.row_findings(
            "ambiguous-radiograph", ambiguous, lambda row: ambiguous[row], "", fix
        ),
        *_duplicate_findings(labels.cells, found),
    ]
    return Match(found, findings, copies, chosen)


def _candidates(
    labels: Labels, headers: Sequence[DicomHeader], join: str
) -> list[Sequence[DicomHeader]]:
    index: dict[str, list[DicomHeader]] = {}
    if join != "file":
        for header in headers:
            key = header.instance_uid if join == "SOPInstanceUID" else header.accession_number
            index.setdefault(key, []).append(header)
        return [
            index.get(key, index.get(whole_number(key), ())) if key else () for key in labels.keys
        ]
    for header in headers:
        for name in {header.path.name, _DICOM_SUFFIX.sub("", header.path.name)}:
            index.setdefault(name, []).append(header)
    return [_at_path(key, index) for key in labels.keys]


def _at_path(key: str, index: Mapping[str, Sequence[DicomHeader]]) -> Sequence[DicomHeader]:
    """Return the radiographs whose path ends like the cell, with or without DICOM's suffix."""
    *folders, name = PurePosixPath(key.replace("\\", "/")).parts or ("",)
    folders = [part for part in folders if part not in ("..", "/")]
    headers = index.get(name, index.get(whole_number(name), ()))
    return [
        header
        for header in headers
        if not folders or list(header.path.parent.parts[-len(folders) :]) == folders
    ]


def _without_copies(headers: Sequence[DicomHeader]) -> list[DicomHeader]:
    """Return the radiographs without those that equal an earlier one byte for byte."""
    counts = Counter(header.instance_uid for header in headers)
    first: dict[tuple[str, bytes], DicomHeader] = {}
    for header in headers:
        digest = b""
        if counts[header.instance_uid] > 1:  # only then is the whole file read
            with header.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        first.setdefault((header.instance_uid, digest), header)
    return list(first.values())


def _only_hands(headers: Sequence[DicomHeader]) -> list[DicomHeader]:
    plain = [
        header
        for header in headers
        if header.modality not in OTHER_MODALITIES and header.frames == 1
    ]
    return plain if len(plain) == 1 else [header for header in plain if header.is_of_hand]


def _missing_findings(
    labels: Labels,
    candidates: Sequence[Sequence[DicomHeader]],
    headers: Sequence[DicomHeader],
    join: str,
    hint: str,
) -> list[Finding]:
    cells, keys, noun = labels.cells, labels.keys, _NOUN.get(join, join)
    missing = [row for row, several in enumerate(candidates) if not several and keys[row]]
    if join == "AccessionNumber":
        known = {header.accession_number.lstrip("0") for header in headers}
        if any(re.search(r"[0-9][eE]\+?[0-9]", keys[row]) for row in missing):
            hint = (
                "A spreadsheet has rounded the numbers (1.2E+11): write that column again, as text."
            )
        elif any(keys[row].lstrip("0") in known for row in missing):
            hint = "A spreadsheet has removed leading zeros: write that column again, as text."
    return [
        *cells.row_findings(
            "no-key",
            [row for row, key in enumerate(keys) if not key],
            lambda row: f"the {noun} is empty",
            "",
            "Fill it in, or remove the row.",
        ),
        *cells.row_findings(
            "missing-radiograph",
            missing,
            lambda row: f"no radiograph has this {noun}",
            "",
            hint or "Is the export complete? If there is no such radiograph, remove the row.",
        ),
    ]


def _duplicate_findings(cells: Cells, found: Sequence[DicomHeader | None]) -> list[Finding]:
    first: dict[str | Path, int] = {}
    duplicates = {}
    for row, header in enumerate(found):
        if header is not None:
            earlier = first.setdefault(header.instance_uid or header.path, row)
            if earlier != row:
                duplicates[row] = cells.rows[earlier]
    return cells.row_findings(
        "duplicate-radiograph",
        duplicates,
        lambda row: f"row {duplicates[row]} names the same radiograph",
        "",
        "Remove one of the rows.",
    )
