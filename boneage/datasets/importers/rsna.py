"""Import the RSNA 2017 bone age challenge: Kaggle's copy, or the challenge's own archives.

The columns of a table say which split it labels. The name of an image is its id. Tables and images
are found at any depth below the folder. For a table with other columns, use `--labels`.
Source: Halabi et al., Radiology 2019;290:498-503, doi:10.1148/radiol.2018180736.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from boneage.datasets.cells import Cells, Finding, missing_column
from boneage.datasets.importers.columns import few, find_column, sex_findings
from boneage.datasets.importers.folder import (
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    by_stem,
    files_below,
    with_suffix,
)
from boneage.datasets.label_rules import SPLITS
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.sex_codes import fold, read_sexes
from boneage.datasets.splits import assign_splits
from boneage.datasets.tables import read_sheet
from boneage.datasets.validation import age_findings, id_findings, numbers, years_findings
from boneage.errors import Fault, InputError

OFFICIAL_SOURCE = "rsna-official"
KAGGLE_SOURCE = "rsna-kaggle"
SEEDED_SOURCE = "rsna-seeded"
OWN_SOURCE = "rsna-own-labels"
"""Rows of a table that `--labels` names: nothing says that their split is the official one."""
COUNTS = {"train": 12_611, "val": 1_425, "test": 200}
"""Images of the challenge: Halabi et al., Radiology 2019;290:498-503."""
TEST_IDS = range(4360, 4560)
"""The ids of the test set; no training or validation image has one of them."""

_WORDS = {"train": "training", "val": "validation", "test": "test"}
_COLUMNS = {  # id, age and sex in the tables of the challenge, as `fold` writes them
    "train": ("id", "boneage", "male"),
    "val": ("image_id", "bone_age_months", "male"),
    "test": ("case_id", "ground_truth_bone_age_months", "sex"),
}
_LAYOUT = (
    "the columns id, boneage, male (training); Image ID, Bone Age (months), male (validation); or "
    "Case ID, Ground truth bone age (months), Sex (test)"
)
_OTHER_COLUMNS = (  # what they may be called in a table that `--labels` names
    ("id", "image_id", "case_id", "filename"),
    ("boneage", "bone_age", "bone_age_months", "ground_truth_bone_age_months"),
    ("male", "sex", "gender"),
)
_KAGGLE_TABLE = "boneage-training-dataset.csv"
_SHARE = 0.1  # of the training images, for a split that is absent


def import_rsna(
    folder: Path,
    out: Path,
    *,
    labels: Mapping[str, Path] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Manifest:
    """Write a manifest of the challenge's images. The images stay where they are.

    The official validation and test sets are kept. If one or both are absent, a seeded tenth of
    the training images replaces each of them. The column `source` and the notes say so.

    Args:
        folder: Holds the tables and images, at any depth.
        out: The manifest to write. It refers to the images by relative path.
        labels: The table of each split, for tables with other columns. Then no other is read.
        seed: Seed of the split, where there is no official one.
        progress: Show progress on standard error.

    Returns:
        The manifest. Its notes name counts, unofficial splits and images left out.

    Raises:
        InputError: The tables are not found, or labels or images are wrong (all at once).
    """
    root = Path(folder).resolve()
    files = files_below(Path(folder), progress=progress, layout=_LAYOUT)
    tables = _read_named_tables(labels) if labels else _find_tables(files, root)
    images = by_stem(with_suffix(files, IMAGE_SUFFIXES))
    first = {name: table for table in reversed(tables) for name in table.ids}
    findings = [
        finding
        for table in tables
        for finding in (
            *table.findings(),
            *_shared_id_findings(table, first),
            *_image_findings(table, images, root),
        )
    ]
    if findings:
        raise InputError([finding.fault for finding in findings])
    base = Path(out).parent.resolve()
    rows = pd.concat([table.rows() for table in tables], ignore_index=True)
    rows["image"] = [os.path.relpath(images[name][0], base) for name in rows["image_id"]]
    notes = [*_count_notes(tables, images), *_split_notes(tables, seed)]
    return write_manifest(_add_absent_splits(rows, tables, seed), Path(out), notes=notes)


def parse_labels(texts: Sequence[str]) -> dict[str, Path]:
    """Return the table of each split, from texts such as `train=labels.csv`.

    Raises:
        InputError: A text has another form, or a split is named twice.
    """
    labels: dict[str, Path] = {}
    for text in texts:
        split, equals, path = text.partition("=")
        if split not in SPLITS or not equals or not path or split in labels:
            what = f"{split} is named twice" if split in labels else f"{text!r} is not SPLIT=FILE"
            fix = "Write it once for each split, for example --labels train=labels.csv."
            raise InputError(Fault("--labels", what, fix, expected="train, val or test"))
        labels[split] = Path(path)
    return labels


@dataclass(frozen=True)
class _Table:
    """The labels of one split.

    Attributes:
        split: The split.
        cells: The table; its key is the column with the ids.
        age: The column with the age in months.
        sex: The column with the sex.
        source: What the manifest says of its rows.
    """

    split: str
    cells: Cells
    age: str
    sex: str
    source: str

    @property
    def name(self) -> str:
        return Path(self.cells.where).name

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row: 1377 for `1377`, `1377.png` and `1377.0`."""
        texts = self.cells.table[self.cells.key]
        return [re.sub(r"(\.png|\.0)$", "", text, flags=re.IGNORECASE) for text in texts]

    def rows(self) -> pd.DataFrame:
        """Return the columns of the manifest, without the images."""
        return pd.DataFrame(
            {
                "image_id": self.ids,
                "age_months": numbers(self.cells, self.age),
                "sex": read_sexes(self.sex, self.cells.table[self.sex].tolist()),
                "source": self.source,
                "split": self.split,
            }
        )

    def findings(self) -> list[Finding]:
        """Return what is wrong with the table itself."""
        cells, ages = self.cells, numbers(self.cells, self.age)
        cells = cells.using([cells.key, self.age, self.sex])
        return [
            *cells.findings,
            *id_findings(cells, cells.key, self.ids),
            *age_findings(cells, self.age, ages),
            *years_findings(cells, self.age, ages, "Convert them to months."),
            *sex_findings(cells, self.sex),
            *self._split_findings(),
        ]

    def _split_findings(self) -> list[Finding]:
        """Return the rows of official test images in another split, and the reverse."""
        is_test = self.split == "test"
        if is_test and self.source == OWN_SOURCE:
            return []
        return self.cells.row_findings(
            "test-image",
            [row for row, name in enumerate(self.ids) if name and _is_test_id(name) != is_test],
            lambda row: (
                f"id {self.ids[row]} is {'not ' if is_test else ''}in the official test set "
                f"({TEST_IDS[0]} to {TEST_IDS[-1]})"
            ),
            expected=f"no other image in a table of the {_WORDS[self.split]} set",
            fix="Remove the row, or name each table with its split: --labels test=FILE.",
        )


def _is_test_id(name: str) -> bool:
    return name.isdecimal() and int(name) in TEST_IDS


def _read_named_tables(labels: Mapping[str, Path]) -> list[_Table]:
    """Read the tables that `--labels` names.

    Raises:
        InputError: A table can't be read, or a column is missing.
    """
    tables, faults = list[_Table](), list[Fault]()
    for split in (split for split in SPLITS if split in labels):
        try:
            cells = read_sheet(labels[split], key="id")
            columns = [find_column(cells, known) for known in _OTHER_COLUMNS]
        except InputError as error:
            faults += error.faults
            continue
        match columns:
            case [str() as key, str() as age, str() as sex]:
                tables.append(_Table(split, replace(cells, key=key), age, sex, OWN_SOURCE))
            case found:
                faults += [
                    missing_column(cells, known[0]).fault
                    for known, name in zip(_OTHER_COLUMNS, found, strict=True)
                    if name is None
                ]
    if faults:
        raise InputError(faults)
    return tables


def _find_tables(files: Sequence[Path], root: Path) -> list[_Table]:
    """Find the table of each split by its columns.

    Raises:
        InputError: A table can't be read, its split is not clear, or there is no table.
    """
    found: dict[str, list[_Table]] = {split: [] for split in SPLITS}
    faults = list[Fault]()
    for path in with_suffix(files, (*TABLE_SUFFIXES, ".xls")):
        try:
            cells = read_sheet(path, key="id")
        except InputError as error:
            away = " Or move it out of the folder."
            faults += [replace(fault, fix=fault.fix + away) for fault in error.faults]
            continue
        names = {fold(name) for name in (*cells.table.columns, *cells.unusable)}
        split = next((split for split in SPLITS if names >= set(_COLUMNS[split])), None)
        if split is not None:
            try:
                key, age, sex = (str(find_column(cells, [name])) for name in _COLUMNS[split])
            except InputError as error:
                faults += error.faults
                continue
            table = _Table(split, replace(cells, key=key), age, sex, OFFICIAL_SOURCE)
            found[split].append(table)
        elif all(names & set(known) for known in _OTHER_COLUMNS):
            listed = ", ".join(map(str, cells.table.columns))
            what = f"its columns don't say which split it labels: {listed}"
            fix = "Name every table with its split: --labels train=FILE --labels val=FILE."
            faults.append(Fault(str(path), what, fix, expected=_LAYOUT))
    for split, several in found.items():
        if len(several) > 1:
            paths = ", ".join(os.path.relpath(table.cells.where, root) for table in several)
            what = f"several tables label the {_WORDS[split]} set: {paths}"
            fix = f"Move the others away, or name the right table with --labels {split}=FILE."
            faults.append(Fault(str(root), what, fix))
    tables = [table for several in found.values() for table in several]
    if not tables and not faults:
        what = "no table below it has the columns of the challenge"
        fix = "Name the folder that the download was unpacked to, or the tables with --labels."
        faults = [Fault(str(root), what, fix, expected=_LAYOUT)]
    if faults:
        raise InputError(faults)
    return tables


def _shared_id_findings(table: _Table, first: Mapping[str, _Table]) -> list[Finding]:
    """Return the ids that an earlier split has too. `first` is the first table of each id."""
    ids = table.ids
    return table.cells.row_findings(
        "id-in-two-splits",
        [row for row, name in enumerate(ids) if name and first[name] is not table],
        lambda row: f"id {ids[row]} is in {first[ids[row]].name} too",
        expected="each id in one split",
        fix="Remove it from one of the tables.",
    )


def _image_findings(
    table: _Table, images: Mapping[str, Sequence[Path]], root: Path
) -> list[Finding]:
    """Return the rows that have no image, or several."""
    ids = table.ids
    return table.cells.row_findings(
        "missing-file",
        [row for row, name in enumerate(ids) if name and name not in images],
        lambda row: f"there is no image {ids[row]}.png below {root}",
        expected="",
        fix="Is the download complete and unpacked? If there is no such image, remove the row.",
    ) + table.cells.row_findings(
        "ambiguous-image",
        [row for row, name in enumerate(ids) if len(images.get(name, ())) > 1],
        lambda row: (
            "several files have this id: "
            + ", ".join(os.path.relpath(path, root) for path in images[ids[row]])
        ),
        expected="",
        fix="Name the folder of one copy, or move the other files away.",
    )


def _absent_splits(tables: Sequence[_Table]) -> list[str]:
    return [split for split in SPLITS if split not in {table.split for table in tables}]


def _add_absent_splits(rows: pd.DataFrame, tables: Sequence[_Table], seed: int) -> pd.DataFrame:
    """Move seeded tenths of the training images to the absent splits."""
    absent = _absent_splits(tables)
    if not absent or "train" in absent:
        return rows
    if len(absent) == 2:
        is_kaggle = tables[0].name == _KAGGLE_TABLE
        source = KAGGLE_SOURCE if is_kaggle else SEEDED_SOURCE
        return assign_splits(rows, seed=seed).assign(source=source)
    fractions = (1 - _SHARE, _SHARE, 0.0) if absent == ["val"] else (1 - _SHARE, 0.0, _SHARE)
    is_train = rows["split"] == "train"
    divided = assign_splits(rows[is_train], seed=seed, fractions=fractions)
    divided.loc[divided["split"] != "train", "source"] = f"{SEEDED_SOURCE}-{absent[0]}"
    return pd.concat([divided, rows[~is_train]], ignore_index=True)


def _count_notes(tables: Sequence[_Table], images: Mapping[str, object]) -> Iterator[str]:
    for table in tables:
        yield (
            f"{len(table.ids):,} labelled images; the challenge's {_WORDS[table.split]} set has "
            f"{COUNTS[table.split]:,}."
        )
    labelled = {name for table in tables for name in table.ids}
    rest = [name for name in images if name not in labelled]
    if rest:
        names = ", ".join(table.name for table in tables)
        yield f"{len(rest):,} images have no row in {names} and are left out ({few(rest)})."
    if any(_is_test_id(name) for name in rest):
        yield (
            f"Images {TEST_IDS[0]} to {TEST_IDS[-1]} are the official test set. To test on them, "
            "put 'Bone age ground truth.xlsx' of the challenge's test archive below the folder."
        )


def _split_notes(tables: Sequence[_Table], seed: int) -> Iterator[str]:
    absent, is_own = _absent_splits(tables), tables[0].source == OWN_SOURCE
    words = " or ".join(_WORDS[split] for split in absent)
    if "train" in absent:
        yield "There is no training set: this manifest is for evaluation only."
    elif absent:
        yield (
            f"There is no official {words} set. It is made from the training images (seed {seed}). "
            f"Its errors are not comparable with published {words} errors."
        )
    elif not is_own:
        yield "Training, validation and test are the challenge's own."
    if is_own:
        yield "The tables were named with --labels: their splits may not be the official ones."
