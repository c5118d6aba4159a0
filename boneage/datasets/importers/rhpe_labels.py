"""The tables of RHPE: which there are, of which split, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boneage.datasets.importers.columns import (
    MALE_FLAGS,
    SEX_WORDS,
    chronological_findings,
    find_column,
    fold,
    radiograph_number,
    sex_findings,
)
from boneage.datasets.tables.cells import Cells, Finding, missing_column
from boneage.datasets.tables.reader import read_sheet
from boneage.datasets.validation import (
    SPLIT_OF_WORD,
    SPLITS,
    age_findings,
    id_findings,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError

LAYOUT = (
    "RHPE_Boneage_train.csv and RHPE_Boneage_val.csv (ID,Male,Boneage,Chronological) and the radiographs "
    "of RHPE_train and RHPE_val below this folder"
)

_HEADERS = {
    "ID": ("id", "case_id"),  # not image_id, which a manifest of ours has
    "Boneage": ("boneage", "bone_age", "boneage_months", "bone_age_months"),
    "Male": ("male", "sex", "gender"),
    "Chronological": (
        *("chronological", "chronological_age"),
        *("chronological_months", "chronological_age_months"),
    ),
}


@dataclass(frozen=True)
class Labels:
    """The table of one split, and which of its columns is what.

    Attributes:
        split: train, val or test.
        cells: The table; its key is the column with the ids.
        age: Column with the bone age, months.
        sex: Column with the sex.
        chronological: Column with the time since birth, months.
    """

    split: str
    cells: Cells
    age: str
    sex: str
    chronological: str

    @property
    def flags(self) -> bool:
        """Whether the sex is told by a column `Male`."""
        return fold(self.sex) == "male"

    def numbers(self) -> list[str]:
        """The radiograph number of each row."""
        return [radiograph_number(text) for text in self.cells.table[self.cells.key]]

    def sexes(self) -> list[str]:
        """F or M of each row, empty where it is neither."""
        codes = SEX_WORDS | (MALE_FLAGS if self.flags else {})
        return [codes.get(text.lower(), "") for text in self.cells.table[self.sex]]


def split_of(path: Path, root: Path) -> str | None:
    """The split that a file's name says, or else the innermost of its folders that says one."""
    parts = path.relative_to(root).parts
    for part in reversed((*parts[:-1], Path(parts[-1]).stem)):
        words = {
            SPLIT_OF_WORD[w] for w in re.findall(r"[a-z]+", part.lower()) if w in SPLIT_OF_WORD
        }
        if len(words) == 1:
            return words.pop()
    return None


def split_fault(where: str, example: str) -> Fault:
    """The fault that nothing says which split a file is of."""
    return Fault(
        where,
        "neither its name nor its folders say which split it is of",
        "Rename it.",
        expected=f"train, val or test in its name, as in {example}",
    )


def find_labels(paths: Sequence[Path], root: Path) -> tuple[list[Labels], list[str]]:
    """The tables with bone ages among these files, in order of split, and notes on others.

    Raises:
        InputError: There is none, one can't be read, or its split isn't said (all at once).
    """
    found: list[Labels] = []
    unlabelled: list[Cells] = []
    others: list[Cells] = []
    faults: list[Fault] = []
    for path in paths:
        try:
            cells = read_sheet(path, key="ID")
        except InputError as error:
            faults += error.faults
            continue
        split = split_of(path, root)
        match [find_column(cells, known) for known in _HEADERS.values()]:
            case [str() as key, str() as age, str() as sex, str() as chronological]:
                cells = replace(cells, key=key)
                found.append(Labels(split or "", cells, age, sex, chronological))
            case [str(), None, str(), _] if split in ("test", None):
                unlabelled.append(cells)
            case names if names.count(None) == 1:  # one header is misspelt, or it is RSNA's table
                faults += _missing_columns(cells)
            case _:
                others.append(cells)
    faults += _table_faults(found, root)
    if not found and not faults:
        rest = [*unlabelled, *others]
        faults = _missing_columns(rest[0]) if len(rest) == 1 else [_no_table(root)]
    if faults:
        raise InputError(faults)
    notes = [
        f"{Path(cells.where).relative_to(root)} has {len(cells.table):,} rows without bone ages. "
        "The labels of the test radiographs are hidden (eval.ai challenge 2297 scores predictions); "
        "they are left out."
        for cells in unlabelled
    ]
    return sorted(found, key=lambda labels: SPLITS.index(labels.split)), notes


def _table_faults(found: Sequence[Labels], root: Path) -> Iterator[Fault]:
    for split in ("", *SPLITS):
        tables = [labels.cells.where for labels in found if labels.split == split]
        if not split:
            for where in tables:
                yield split_fault(where, "RHPE_Boneage_train.csv")
        elif len(tables) > 1:
            listed = ", ".join(str(Path(where).relative_to(root)) for where in tables)
            yield Fault(
                str(root),
                f"{len(tables)} tables hold the bone ages of {split}: {listed}",
                "Move the others away.",
                expected="one for each split",
            )


def _missing_columns(cells: Cells) -> list[Fault]:
    faults = []
    for name, known in _HEADERS.items():
        if find_column(cells, known) is None:
            fault = missing_column(cells, name).fault
            if (
                name == "Chronological"
            ):  # RSNA's radiographs, of one hand, must not be cut in halves
                fix = "Is it RSNA's table, which has no such column? Then use data import rsna."
                fault = replace(fault, fix=fix)
            faults.append(fault)
    return faults


def _no_table(root: Path) -> Fault:
    return Fault(
        str(root),
        "there is no table with an ID, a bone age and a sex in it",
        "Is it the folder that the download was unpacked to?",
        expected=LAYOUT,
    )


def label_findings(labels: Labels) -> list[Finding]:
    """Everything wrong with the rows of one table, but for their radiographs."""
    cells, chronological = labels.cells, labels.chronological
    ages = numbers(cells, labels.age)
    codes = SEX_WORDS | (MALE_FLAGS if labels.flags else {})
    expected = "True (boy) or False (girl)" if labels.flags else "M or F"
    findings = [
        *cells.findings,
        *id_findings(cells, cells.key, labels.numbers()),
        *age_findings(cells, labels.age, ages),
        *years_findings(cells, labels.age, ages, "RHPE's are in months: multiply by 12."),
        *sex_findings(cells, labels.sex, codes, expected),
    ]
    months = numbers(cells, chronological)
    fix = "RHPE's are in months: multiply by 12."
    return [
        *findings,
        *chronological_findings(cells, chronological, months),
        *years_findings(cells, chronological, months, fix),
    ]
