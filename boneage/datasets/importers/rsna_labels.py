"""The tables of the RSNA 2017 challenge: which file labels which split, told by what it holds.

File and folder names get lost when people rename, merge and save anew, so the columns and the ids
decide, and the number of rows and the file's name only where those leave it open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.importers.columns import MALE_FLAGS, SEX_WORDS, find_column, fold
from boneage.datasets.tables.cells import Cells, Finding, missing_column
from boneage.datasets.tables.reader import read_sheet
from boneage.datasets.validation import (
    SPLITS,
    age_findings,
    id_findings,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError

COUNTS = {"train": 12_611, "val": 1_425, "test": 200}
"""Images of the challenge: Halabi et al., Radiology 2019;290:498-503."""
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}
TEST_IDS = range(4360, 4560)
"""Exactly the test set's ids; no training and no validation image has one of them."""

_ID_HEADERS = ("id", "image_id", "case_id", "filename")
_AGE_HEADERS = ("boneage", "bone_age", "bone_age_months", "ground_truth_bone_age_months")
_SEX_HEADERS = ("male", "sex", "gender")
_HEADERS = (_ID_HEADERS, _AGE_HEADERS, _SEX_HEADERS)
# Id, age and sex as the challenge's own files call them. The first is also Kaggle's and BAAR's,
# and what people call them when they save the other two anew: it says less than the others.
_OFFICIAL_HEADERS = {
    ("id", "boneage", "male"): "train",
    ("image_id", "bone_age_months", "male"): "val",
    ("case_id", "ground_truth_bone_age_months", "sex"): "test",
}
_OFFICIAL_COLUMNS = {
    "train": "id,boneage,male",
    "val": "Image ID,male,Bone Age (months)",
    "test": "Case ID,Sex,Ground truth bone age (months)",
}
_NAMES = {"train": "train", "val": r"(?<![a-z])val(?![a-z])|valid", "test": "test|truth"}


@dataclass(frozen=True)
class Labels:
    """A table of ids, ages and sexes.

    Attributes:
        cells: The table; its key is the column with the ids.
        age: Column with the bone age in months.
        sex: Column with the sex.
    """

    cells: Cells
    age: str
    sex: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.cells.where)

    def ids(self) -> list[str]:
        """1377 for `1377`, `1377.png` and `1377.0`, all of which spreadsheets make of an id."""
        column = self.cells.table[self.cells.key]
        return [re.sub(r"(\.png|\.0)$", "", text, flags=re.IGNORECASE) for text in column]

    def ages(self) -> NDArray[np.float64]:
        """Months, NaN where a cell is no number."""
        return numbers(self.cells, self.age)

    def sexes(self) -> list[str]:
        """F, M, or nothing where a cell says neither."""
        codes = SEX_WORDS | (MALE_FLAGS if self._has_flags() else {})
        return [codes.get(text.lower(), "") for text in self.cells.table[self.sex]]

    def findings(self) -> list[Finding]:
        """Everything wrong with the table itself."""
        texts, ages = self.cells.table[self.sex], self.ages()
        return [
            *self.cells.findings,
            *id_findings(self.cells, self.cells.key, self.ids()),
            *age_findings(self.cells, self.age, ages),
            *years_findings(self.cells, self.age, ages, "Are they years? They must be months."),
            *self.cells.row_findings(
                "unknown-sex",
                np.flatnonzero(np.array(self.sexes()) == ""),
                lambda row: f"{self.sex} is {texts[row]!r}",
                "True (boy) or False (girl)" if self._has_flags() else "M or F",
                "Correct it; a sex is never guessed.",
            ),
        ]

    def _has_flags(self) -> bool:
        return self.sex.strip().lower() == "male"


@dataclass
class Found:
    """What the tables of a folder are.

    Attributes:
        labels: The table of each split that is there.
        unlabelled: Tables of ids and sexes without ages, relative to the folder.
        notes: What is to be said of them.
    """

    labels: dict[str, Labels] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_labels(paths: Sequence[Path], root: Path, layout: str) -> Found:
    """Reads every table below `root` and says which of them label which split.

    Args:
        paths: The tables, in any order.
        root: What messages name them relative to.
        layout: What is expected there, as messages say it.

    Raises:
        InputError: No table holds labels, two hold those of one split, it can't be told which
            split one holds, or one that would be needed can't be read.
    """
    found, others = Found(), list[Cells]()
    candidates: list[Labels] = []
    broken: dict[Path, tuple[Fault, ...]] = {}
    for path in paths:
        try:
            cells = read_sheet(path)
        except InputError as error:
            broken[path] = error.faults
            continue
        match [find_column(cells, known) for known in _HEADERS]:
            case [str() as key, str() as age, str() as sex]:
                candidates.append(Labels(replace(cells, key=key), age, sex))
            case [str(), None, str()] if len(cells.table.columns) == 2:
                found.unlabelled.append(str(path.relative_to(root)))
            case _:
                others.append(cells)
    if not candidates:
        raise InputError(
            [fault for faults in broken.values() for fault in faults]
            + _no_labels(others, root, layout)
        )
    _share_out(candidates, root, found)
    needed = [path for path in broken if split_by_name(path.name) in _absent(found.labels)]
    if needed:  # it would be made up for by a seeded split, and nobody would know why
        raise InputError([fault for path in needed for fault in broken[path]])
    if broken:
        unread = ", ".join(str(path.relative_to(root)) for path in broken)
        used = ", ".join(str(each.path.relative_to(root)) for each in found.labels.values())
        found.notes.append(f"{unread} can't be read; the labels are those of {used}.")
    return found


def split_by_name(name: str) -> str | None:
    """The split that a file's name speaks of, if it speaks of one."""
    spoken = [split for split, word in _NAMES.items() if re.search(word, name.lower())]
    return spoken[0] if len(spoken) == 1 else None


def count_note(split: str, count: int) -> str:
    """How many images of a split there are, beside how many the challenge had."""
    word, official = SPLIT_WORDS[split], COUNTS[split]
    if count == official:
        return f"All {official:,} {word} images of the challenge."
    return f"{count:,} labelled images; the challenge's {word} set has {official:,}."


def _absent(labels: dict[str, Labels]) -> list[str]:
    return [split for split in SPLITS if split not in labels]


def _share_out(candidates: Sequence[Labels], root: Path, found: Found) -> None:
    faults: list[Fault] = []
    tables_of: dict[str, list[Labels]] = {}
    for labels in candidates:
        told = _split_of(labels, alone=len(candidates) == 1)
        if isinstance(told, Fault):
            faults.append(told)
            continue
        split, reason = told
        tables_of.setdefault(split, []).append(labels)
        if _split_by_headers(labels) != split:
            found.notes.append(
                f"{labels.path.relative_to(root)} is taken for the {SPLIT_WORDS[split]} set by "
                f"{reason}: its columns are not the official ones ({_OFFICIAL_COLUMNS[split]})."
            )
    for split, tables in tables_of.items():
        first, *rest = sorted(tables, key=lambda each: (len(each.path.parts), each.path))
        names = [str(each.path.relative_to(root)) for each in (first, *rest)]
        if all(_content(each) == _content(first) for each in rest):
            found.labels[split] = first
            if rest:
                copies = f"{', '.join(names[1:])} {'say' if len(rest) > 1 else 'says'} the same"
                found.notes.append(f"{copies} as {names[0]}, which is used.")
            continue
        faults.append(
            Fault(
                str(root),
                f"{len(tables)} tables hold ids, ages and sexes of the {SPLIT_WORDS[split]} set, "
                f"and they differ: {', '.join(names)}",
                "Name the folder of one of them, or move the others away.",
                expected="one for each split",
            )
        )
    if faults:
        raise InputError(faults)
    found.labels = {split: found.labels[split] for split in SPLITS if split in found.labels}


def _split_of(labels: Labels, *, alone: bool) -> tuple[str, str] | Fault:
    """The split a table labels and what tells so, or why that can't be told."""
    ids = set(labels.ids())
    in_test = sum(text.isdecimal() and int(text) in TEST_IDS for text in ids)
    headers, name = _split_by_headers(labels), split_by_name(labels.path.name)
    count = next((split for split in ("train", "val") if COUNTS[split] == len(ids)), None)
    if in_test == len(ids):
        told = ("test", "its ids")
        return told if headers != "val" else _conflict(labels, "ids of the test set")
    if headers == "test" or (name == "test" and headers != "val"):
        return Fault(
            labels.cells.where,
            f"its {'columns are' if headers == 'test' else 'name is'} the test set's, and "
            f"{len(ids) - in_test:,} of its {len(ids):,} ids are not",
            "Import a test set of your own with: boneage data import table … --split",
            expected=f"the ids {TEST_IDS[0]} to {TEST_IDS[-1]}",
        )
    if in_test:
        return Fault(
            labels.cells.where,
            f"{in_test:,} of its ids are those of official test images",
            "Take those rows out: a model that learns from them can't be tested any more.",
            expected=f"no id from {TEST_IDS[0]} to {TEST_IDS[-1]} among training or validation images",
        )
    if headers == "val":
        told = ("val", "its columns")
        return told if count != "train" else _conflict(labels, f"{len(ids):,} ids")
    if count and name and count != name:
        return _conflict(labels, f"{len(ids):,} ids")
    if name == "val" and count is None:
        return _conflict(labels, f"{len(ids):,} ids, not the {COUNTS['val']:,} official ones")
    if split := count or name or headers:
        return split, "its number of rows" if count else "its name" if name else "its columns"
    if alone:
        return "train", "being the only one"
    return _conflict(labels, f"columns {', '.join(map(str, labels.cells.table.columns))}")


def _conflict(labels: Labels, what: str) -> Fault:
    return Fault(
        labels.cells.where,
        f"it can't be told which split it labels: it is called {labels.path.name} and has {what}",
        "Give it those columns if it is an official table; import a split of your own with: "
        "boneage data import table … --split",
        expected="one of "
        + "; ".join(f"{columns} ({s})" for s, columns in _OFFICIAL_COLUMNS.items()),
    )


def _content(labels: Labels) -> list[tuple[str, float, str]]:
    ages = [-1.0 if np.isnan(age) else float(age) for age in labels.ages()]
    return sorted(zip(labels.ids(), ages, labels.sexes(), strict=True))


def _split_by_headers(labels: Labels) -> str | None:
    folded = fold(labels.cells.key), fold(labels.age), fold(labels.sex)
    return _OFFICIAL_HEADERS.get(folded)


def _no_labels(others: Sequence[Cells], root: Path, layout: str) -> list[Fault]:
    faults: list[Fault] = []
    for cells in others:
        if "train" in Path(cells.where).name.lower() or len(others) == 1:
            for known in _HEADERS:
                if find_column(cells, known) is None:
                    faults.append(missing_column(cells, known[0]).fault)
    return faults or [
        Fault(
            str(root),
            "there is no table with an id, a bone age and a sex in it",
            "Is it the folder that the download was unpacked to?",
            expected=layout,
        )
    ]
