"""The table of bone ages that goes with DICOM radiographs, and which radiograph each of its rows means.

A message names the row and never quotes what stands in it: the table of a hospital holds accession
numbers and names, and a column named by mistake would be printed.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.importers.ages import ages_in_months
from boneage.datasets.importers.dicom_headers import NO_RADIOGRAPH, DicomRadiograph
from boneage.datasets.tables.cells import Cells, Finding
from boneage.datasets.tables.reader import read_sheet
from boneage.datasets.validation import SPLIT_OF_WORD
from boneage.errors import Fault, InputError
from boneage.radiographs.file_structure import open_regular

JOINS: Mapping[str, tuple[str, ...]] = {
    "SOPInstanceUID": ("sopinstanceuid", "instanceuid", "sopuid", "uid"),
    "AccessionNumber": ("accessionnumber", "accession", "accessionno"),
    "file": ("file", "filename", "filepath", "path", "dicom", "image"),
}
"""What rows and radiographs may be joined by, and how a column that holds it is called, folded."""

_NO_KEY = "(none)"  # of Cells: what would name a row in messages is what must not be in them
# Up to four digits before the point (days), or 10y6m and the like: no patient's number, no name.
_AGE = re.compile(
    r"[+-]?[0-9]{1,4}([.,][0-9]*)?|[0-9]{1,2}\s?([ymj]|years?|jahre?)[0-9a-z ,.]{0,10}"
    r"|[0-9]{1,2}(m|months?|monate?)|[0-9]{1,2}\s*[-;]\s*[0-9]{1,2}",
    re.IGNORECASE,
)
_HIDDEN = "(not shown)"
_DICOM_SUFFIX = re.compile(r"\.(dcm|dicom|dic|ima|img)$", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """What the columns of the table are called, and its codes.

    Attributes:
        age: The bone age.
        age_unit: One of `boneage.datasets.importers.ages.UNITS`.
        join: One of `JOINS`.
        joined: The column with what `join` says; looked for when None.
        sex: The sex; None takes it from the radiographs.
        female: What that column may hold for a girl.
        male: What it may hold for a boy.
        split: train, val or test, if there is such a column.
    """

    age: str
    age_unit: str
    join: str
    joined: str | None = None
    sex: str | None = None
    female: Sequence[str] = ("F",)
    male: Sequence[str] = ("M",)
    split: str | None = None


@dataclass(frozen=True)
class Readings:
    """The table, row by row.

    Attributes:
        cells: As text.
        keys: What each row is joined by.
        ages: What each row's bone age is written as.
        months: float64 (n,), NaN where the cell is no number.
        sexes: "F", "M" or "" for each row; None when the table is not asked.
        splits: "train", "val", "test" or "" for each row; None likewise.
        findings: Faults of the rows.
    """

    cells: Cells = field(repr=False)
    keys: Sequence[str] = field(repr=False)
    ages: Sequence[str] = field(repr=False)
    months: NDArray[np.float64]
    sexes: Sequence[str] | None
    splits: Sequence[str] | None
    findings: Sequence[Finding]


def read_readings(file: Path, columns: Columns, *, sheet: str | None = None) -> Readings:
    """Reads the table of bone ages.

    Raises:
        InputError: It can't be read, or lacks a column; faults of rows are findings.
    """
    cells = read_sheet(file, key=_NO_KEY, sheet=sheet)
    joined = columns.joined or _find_joined(cells, columns.join)
    wanted = {
        "join-column": joined,
        "age": columns.age,
        "sex": columns.sex,
        "split": columns.split,
    }
    absent = [
        _missing(cells, option, name)
        for option, name in wanted.items()
        if name is not None and name not in cells.table
    ]
    if joined is None:
        names = f"none of its columns is called {columns.join}"
        fix = f"Name the column that holds it with --join-column. {_look(cells)}"
        absent.append(
            Fault(cells.where, names, fix, expected="the column that names each row's film")
        )
    if absent or joined is None:
        raise InputError([*(finding.fault for finding in cells.findings), *absent])
    months, age_findings = _ages(cells, columns)
    codes = {**dict.fromkeys(columns.female, "F"), **dict.fromkeys(columns.male, "M")}
    female, male = (" or ".join(map(repr, codes)) for codes in (columns.female, columns.male))
    sexes = None if columns.sex is None else [codes.get(t, "") for t in cells.table[columns.sex]]
    splits = None
    if columns.split is not None:
        splits = [SPLIT_OF_WORD.get(text.lower(), "") for text in cells.table[columns.split]]
    findings = [
        *cells.findings,
        *age_findings,
        *cells.row_findings(
            "unknown-sex",
            [row for row, sex in enumerate(sexes or ()) if not sex],
            lambda row: f"{columns.sex} is neither a girl's nor a boy's code",
            f"{female} (--female) or {male} (--male)",
            "Correct it, or those two options; a sex is never guessed.",
        ),
        *cells.row_findings(
            "unknown-split",
            [row for row, split in enumerate(splits or ()) if not split],
            lambda row: f"{columns.split} is no split",
            "train, val or test",
            "Correct it, or leave --split out for a seeded split.",
        ),
    ]
    keys, ages = cells.table[joined].tolist(), cells.table[columns.age].tolist()
    return Readings(cells, keys, ages, months, sexes, splits, findings)


def _find_joined(cells: Cells, join: str) -> str | None:
    folded = {re.sub(r"[\W_]+", "", str(name)).lower(): str(name) for name in cells.table.columns}
    return next((folded[name] for name in JOINS[join] if name in folded), None)


def _missing(cells: Cells, option: str, name: str) -> Fault:
    close = difflib.get_close_matches(name, [str(c) for c in cells.table.columns], n=1)
    return Fault(
        f"{cells.where} (--{option} {name})",
        f"there is no column {name!r}",
        f"Did you mean {close[0]!r}?" if close else _look(cells),
        expected=f"it among its {len(cells.table.columns)} columns",
    )


def _look(cells: Cells) -> str:
    return f"Look at the first line of {Path(cells.where).name}: is it a header?"


def _ages(cells: Cells, columns: Columns) -> tuple[NDArray[np.float64], list[Finding]]:
    """Months, and what is wrong with them; a cell that is no age at all is not quoted."""
    column, texts = columns.age, cells.table[columns.age]
    shown = [text if not text or _AGE.fullmatch(text) else _HIDDEN for text in texts]
    veiled = replace(cells, table=cells.table.assign(**{column: shown}))
    return ages_in_months(veiled, column, columns.age_unit, "--age-unit")


@dataclass(frozen=True)
class Match:
    """Which radiograph each row means.

    Attributes:
        radiographs: One a row; None where there is none, or it is not clear which.
        findings: Rows without a radiograph, with several, and with another row's.
        copies: Radiographs that lay there more than once, byte for byte, of which one was taken.
        chosen: Rows whose study has several radiographs, one of them of a hand.
    """

    radiographs: Sequence[DicomRadiograph | None]
    findings: Sequence[Finding]
    copies: int
    chosen: int


def match(
    readings: Readings, radiographs: Sequence[DicomRadiograph], join: str, hint: str = ""
) -> Match:
    """Finds the radiograph of each row.

    Args:
        readings: The table.
        radiographs: What there is.
        join: One of `JOINS`.
        hint: What might explain that a radiograph is missing.
    """
    candidates = _candidates(readings, radiographs, join)
    found: list[DicomRadiograph | None] = []
    many: dict[int, str] = {}
    copies = chosen = 0
    for row, several in enumerate(candidates):
        different = _without_copies(several)
        copies += len(several) - len(different)
        if len(different) > 1 and join == "AccessionNumber":
            hands = _only_hands(different)
            chosen += len(hands) == 1
            different = hands if len(hands) == 1 else different
        if len(different) > 1:
            same = len({radiograph.instance for radiograph in different}) == 1
            many[row] = f"{len(different)} different radiographs " + (
                "have the same SOPInstanceUID" if same else f"have its {_noun(join)}"
            )
        found.append(different[0] if len(different) == 1 else None)
    findings = [
        *_absent_findings(readings, candidates, radiographs, join, hint),
        *readings.cells.row_findings(
            "ambiguous-film",
            many,
            lambda row: many[row],
            "one radiograph for each row",
            "Name the one that was read: join by SOPInstanceUID, or by file (a path below the "
            "folder given)."
            if join != "SOPInstanceUID"
            else "Move away the ones that were not read, or join by file.",
        ),
        *_twice_findings(readings.cells, found),
    ]
    return Match(found, findings, copies, chosen)


def _candidates(
    readings: Readings, radiographs: Sequence[DicomRadiograph], join: str
) -> list[Sequence[DicomRadiograph]]:
    index: dict[str, list[DicomRadiograph]] = {}
    if join != "file":
        for radiograph in radiographs:
            key = radiograph.instance if join == "SOPInstanceUID" else radiograph.accession
            index.setdefault(key, []).append(radiograph)
        return [index.get(key, ()) if key else () for key in readings.keys]
    for radiograph in radiographs:
        for name in {radiograph.path.name, _bare(radiograph.path.name)}:
            index.setdefault(name, []).append(radiograph)
    return [_at_path(key, index) for key in readings.keys]


def _at_path(key: str, index: Mapping[str, Sequence[DicomRadiograph]]) -> Sequence[DicomRadiograph]:
    """Films whose path ends as the cell says, with or without DICOM's suffix."""
    *folders, name = PurePosixPath(key.replace("\\", "/")).parts or ("",)
    folders = [part for part in folders if part not in ("..", "/")]
    radiographs = index.get(name, ())
    return [
        radiograph
        for radiograph in radiographs
        if not folders or list(radiograph.path.parent.parts[-len(folders) :]) == folders
    ]


def _bare(name: str) -> str:
    return _DICOM_SUFFIX.sub("", name)


def _noun(join: str) -> str:
    return {"AccessionNumber": "accession number", "file": "file name"}.get(join, join)


def _without_copies(radiographs: Sequence[DicomRadiograph]) -> list[DicomRadiograph]:
    """The radiographs without those that lie there a second time, byte for byte."""
    if len(radiographs) < 2:
        return list(radiographs)
    alike = Counter(radiograph.instance for radiograph in radiographs)
    first: dict[tuple[str, bytes], DicomRadiograph] = {}
    for radiograph in radiographs:
        content = b""
        if alike[radiograph.instance] > 1:  # only then is the whole file worth reading
            with open_regular(radiograph.path) as file:
                content = hashlib.sha256(file.read()).digest()
        first.setdefault((radiograph.instance, content), radiograph)
    return list(first.values())


def _only_hands(radiographs: Sequence[DicomRadiograph]) -> list[DicomRadiograph]:
    plain = [
        radiograph
        for radiograph in radiographs
        if radiograph.modality not in NO_RADIOGRAPH and radiograph.frames == 1
    ]
    return plain if len(plain) == 1 else [radiograph for radiograph in plain if radiograph.of_hand]


def _absent_findings(
    readings: Readings,
    candidates: Sequence[Sequence[DicomRadiograph]],
    radiographs: Sequence[DicomRadiograph],
    join: str,
    hint: str,
) -> list[Finding]:
    cells, keys = readings.cells, readings.keys
    absent = [row for row, several in enumerate(candidates) if not several and keys[row]]
    cut = join == "AccessionNumber" and any(
        re.search(r"[0-9][eE]\+?[0-9]", keys[r]) for r in absent
    )
    bare = {radiograph.accession.lstrip("0") for radiograph in radiographs}
    zeros = join == "AccessionNumber" and any(keys[row].lstrip("0") in bare for row in absent)
    if cut or zeros:
        how = "cut the numbers short (1.2E+11)" if cut else "taken leading zeros away"
        hint = f"A spreadsheet has {how}: write that column anew, as text."
    return [
        *cells.row_findings(
            "no-key",
            [row for row, key in enumerate(keys) if not key],
            lambda row: f"it has no {_noun(join)}",
            "what names its film",
            "Fill it in, or remove the row.",
        ),
        *cells.row_findings(
            "missing-film",
            absent,
            lambda row: f"there is no radiograph with its {_noun(join)}",
            "a radiograph for every row",
            hint or "Is the export complete? If there is no such radiograph, remove the row.",
        ),
    ]


def _twice_findings(cells: Cells, found: Sequence[DicomRadiograph | None]) -> list[Finding]:
    first: dict[str | Path, int] = {}
    twice = {}
    for row, radiograph in enumerate(found):
        if radiograph is not None:
            earlier = first.setdefault(radiograph.instance or radiograph.path, row)
            if earlier != row:
                twice[row] = cells.rows[earlier]
    return cells.row_findings(
        "duplicate-film",
        twice,
        lambda row: f"it means the radiograph of row {twice[row]} again",
        "each radiograph once",
        "Remove one of the rows.",
    )
