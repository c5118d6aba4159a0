"""Import the RSNA 2017 bone age challenge: Kaggle's copy, or the challenge's own archives.

Column names say which split a table labels. File names say which image has which id, at any depth
below the folder. For a table with other columns, the option `--labels` names the split.
Source: Halabi et al., Radiology 2019;290:498-503, doi:10.1148/radiol.2018180736.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.importers.columns import few, find_column, fold, sex_codes, sex_findings
from boneage.datasets.importers.folder import (
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    by_stem,
    files_below,
    with_suffix,
)
from boneage.datasets.manifest import SPLITS, Manifest, write_manifest
from boneage.datasets.splits import assign_splits
from boneage.datasets.tables import Cells, Finding, missing_column, read_sheet
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
_COLUMNS = {
    "train": ("id", "boneage", "male"),
    "val": ("Image ID", "Bone Age (months)", "male"),
    "test": ("Case ID", "Ground truth bone age (months)", "Sex"),
}
_LAYOUT = "a table with the columns " + "; or ".join(
    f"{', '.join(columns)} ({_WORDS[split]})" for split, columns in _COLUMNS.items()
)
_OTHER_COLUMNS = (  # id, age and sex in a table that `--labels` names
    ("id", "image_id", "case_id", "filename"),
    ("boneage", "bone_age", "bone_age_months", "ground_truth_bone_age_months"),
    ("male", "sex", "gender"),
)
_NAMES = {"train": "train", "val": r"(?<![a-z])val(?![a-z])|valid", "test": "test|truth"}
_KAGGLE_NAMES = ("boneage-training", "boneage-test")
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
    found = _read_named_tables(labels) if labels else _find_tables(files, root)
    images = _Images.choose(files, root, found.ids())
    archives = with_suffix(files, (".zip",))
    faults = list(_packed_splits(archives, [] if labels else found.absent()))
    for split, table in found.tables.items():
        findings = [
            *table.findings(),
            *_shared_id_findings(split, found.tables),
            *images.findings(table, archives),
        ]
        faults += [finding.fault for finding in findings]
    if faults:
        raise InputError(faults)
    rows = pd.concat(
        [_rows(split, table, images, Path(out)) for split, table in found.tables.items()],
        ignore_index=True,
    )
    notes = [
        *found.notes,
        *_left_out_notes(found, images),
        *(_count_note(split, len(table.ids())) for split, table in found.tables.items()),
        *_split_notes(found, seed, own=bool(labels)),
    ]
    return write_manifest(_add_absent_splits(rows, found, seed), Path(out), notes=notes)


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
    """A table of ids, ages and sexes.

    Attributes:
        cells: The table; its key is the column with the ids.
        age: Column with the bone age in months.
        sex: Column with the sex.
        source: What the manifest says of its rows.
    """

    cells: Cells
    age: str
    sex: str
    source: str = OFFICIAL_SOURCE

    @property
    def path(self) -> Path:
        return Path(self.cells.where)

    def ids(self) -> list[str]:
        """Return the ids: 1377 for `1377`, `1377.png` and `1377.0`."""
        column = self.cells.table[self.cells.key]
        return [re.sub(r"(\.png|\.0)$", "", text, flags=re.IGNORECASE) for text in column]

    def ages(self) -> NDArray[np.float64]:
        return numbers(self.cells, self.age)

    def sexes(self) -> list[str]:
        codes, _ = sex_codes(self.sex)
        return [codes.get(text.lower(), "") for text in self.cells.table[self.sex]]

    def content(self) -> list[tuple[str, float, str]]:
        ages = [-1.0 if np.isnan(age) else float(age) for age in self.ages()]
        return sorted(zip(self.ids(), ages, self.sexes(), strict=True))

    def findings(self) -> list[Finding]:
        """Return everything that is wrong with the table itself."""
        ages = self.ages()
        return [
            *self.cells.findings,
            *id_findings(self.cells, self.cells.key, self.ids()),
            *age_findings(self.cells, self.age, ages),
            *years_findings(self.cells, self.age, ages, "Convert them to months."),
            *sex_findings(self.cells, self.sex, *sex_codes(self.sex)),
        ]


@dataclass
class _Found:
    """The table of each split, tables without ages, and notes on them."""

    tables: dict[str, _Table] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ids(self) -> set[str]:
        return {name for table in self.tables.values() for name in table.ids()}

    def absent(self) -> list[str]:
        return [split for split in SPLITS if split not in self.tables]


def _read_named_tables(labels: Mapping[str, Path]) -> _Found:
    """Read the tables that `--labels` names, whatever their id, age and sex are called."""
    found, faults = _Found(), list[Fault]()
    for split in (split for split in SPLITS if split in labels):
        try:
            cells = read_sheet(labels[split], key="id")
        except InputError as error:
            faults += error.faults
            continue
        names = [find_column(cells, known) for known in _OTHER_COLUMNS]
        match names:
            case [str() as key, str() as age, str() as sex]:
                table = _Table(replace(cells, key=key), age, sex, OWN_SOURCE)
                found.tables[split] = table
                faults += _test_id_faults(split, table) if split != "test" else []
            case _:
                faults += _missing_columns(cells)
    if faults:
        raise InputError(faults)
    return found


def _find_tables(files: Sequence[Path], root: Path) -> _Found:
    """Read every table below `root` and find the table of each split by its columns."""
    found, others, faults = _Found(), list[Cells](), list[Fault]()
    candidates: dict[str, list[_Table]] = {}
    broken: dict[Path, tuple[Fault, ...]] = {}
    for path in with_suffix(files, (*TABLE_SUFFIXES, ".xls")):
        if path.name.startswith("~$"):  # Excel's lock file
            continue
        try:
            cells = read_sheet(path)
        except InputError as error:
            broken[path] = error.faults
            continue
        split, table = _recognise(cells)
        if split and table:
            wrong = _test_id_faults(split, table) or _name_faults(split, table)
            faults += wrong
            if not wrong:
                candidates.setdefault(split, []).append(table)
            continue
        match [find_column(cells, known) for known in _OTHER_COLUMNS]:
            case [str(), str(), str()]:
                faults.append(_unknown_split(cells))
            case [str(), None, str()] if len(cells.table.columns) == 2:
                found.unlabelled.append(str(path.relative_to(root)))
            case _:
                others.append(cells)
    faults += _choose_tables(candidates, root, found)
    if not candidates and not faults:
        faults = [fault for several in broken.values() for fault in several]
        faults += _missing_columns(others[0]) if len(others) == 1 else []
        what = "no table below it has an id, a bone age and a sex"
        fix = "Name the folder that the download was unpacked to, or the tables with --labels."
        faults = faults or [Fault(str(root), what, fix, expected=_LAYOUT)]
    # A seeded split must not replace a table that is only broken.
    needed = [path for path in broken if _split_in(path.name) in found.absent()]
    faults += [fault for path in needed for fault in broken[path] if fault not in faults]
    if faults:
        raise InputError(faults)
    if broken:
        unread = ", ".join(str(path.relative_to(root)) for path in broken)
        used = ", ".join(str(table.path.relative_to(root)) for table in found.tables.values())
        found.notes.append(f"{unread} can't be read. The labels are from {used}.")
    return found


def _recognise(cells: Cells) -> tuple[str, _Table] | tuple[None, None]:
    """Return the split that a table labels, by its columns; the test ids decide for Kaggle's."""
    folded = {fold(name): str(name) for name in cells.table.columns}
    for split, columns in _COLUMNS.items():
        names = [folded.get(fold(column)) for column in columns]
        match names:
            case [str() as key, str() as age, str() as sex]:
                table = _Table(replace(cells, key=key), age, sex)
                is_test = split == "train" and _test_ids(table) == len(set(table.ids()))
                return "test" if is_test else split, table
    return None, None


def _test_ids(table: _Table) -> int:
    return sum(name.isdecimal() and int(name) in TEST_IDS for name in set(table.ids()))


def _test_id_faults(split: str, table: _Table) -> list[Fault]:
    """Refuse test images among the others, and others in the official test table."""
    count, total = _test_ids(table), len(set(table.ids()))
    ids = f"{TEST_IDS[0]} to {TEST_IDS[-1]}"
    if split == "test" and count < total:
        what = f"{total - count:,} of its {total:,} ids are not in the official test set ({ids})"
        fix = f"For a test set of your own, add --labels test={table.path.name}."
        return [Fault(table.cells.where, what, fix)]
    if split != "test" and count:
        what = f"{count:,} of its ids are official test images ({ids})"
        fix = "Remove these rows: a model that trains on them can't be tested."
        return [Fault(table.cells.where, what, fix)]
    return []


def _name_faults(split: str, table: _Table) -> list[Fault]:
    """Refuse a table whose file name names another split than its columns do."""
    named = _split_in(table.path.name)
    if named in (None, split):
        return []
    what = f"its columns are those of the {_WORDS[split]} set, but its name says {_WORDS[named]}"
    fix = f"Name every table with its split: --labels {named}={table.path.name} and so on."
    return [Fault(table.cells.where, what, fix)]


def _unknown_split(cells: Cells) -> Fault:
    what = f"its columns don't say which split it labels: {', '.join(cells.table.columns)}"
    fix = "Name every table with its split: --labels train=FILE --labels val=FILE and so on."
    return Fault(cells.where, what, fix, expected=_LAYOUT)


def _choose_tables(
    candidates: Mapping[str, Sequence[_Table]], root: Path, found: _Found
) -> Iterator[Fault]:
    for split in (split for split in SPLITS if split in candidates):
        first, *rest = sorted(candidates[split], key=lambda t: (len(t.path.parts), t.path))
        found.tables[split] = first
        names = [str(table.path.relative_to(root)) for table in (first, *rest)]
        if any(table.content() != first.content() for table in rest):
            yield Fault(
                str(root),
                f"{len(names)} different tables label the {_WORDS[split]} set: {', '.join(names)}",
                f"Move the others away, or name the right one with --labels {split}=FILE.",
            )
        elif rest:
            found.notes.append(f"{', '.join(names[1:])}: a copy of {names[0]}, which is used.")


def _missing_columns(cells: Cells) -> list[Fault]:
    return [
        missing_column(cells, known[0]).fault
        for known in _OTHER_COLUMNS
        if find_column(cells, known) is None
    ]


def _split_in(name: str) -> str | None:
    """Return the split that a file name names, if it names exactly one."""
    named = [split for split, word in _NAMES.items() if re.search(word, name.lower())]
    return named[0] if len(named) == 1 else None


@dataclass
class _Images:
    """The images below the folder, by id.

    Attributes:
        root: The folder.
        paths: The file of each id.
        different: The files of each id that has several different ones.
        copied: Ids that have several files with the same bytes.
    """

    root: Path
    paths: dict[str, Path]
    different: dict[str, list[Path]]
    copied: list[str]

    @classmethod
    def choose(cls, files: Sequence[Path], root: Path, ids: set[str]) -> _Images:
        """Choose one file for each id; of labelled ids with several files, compare the bytes."""
        stems = by_stem(with_suffix(files, IMAGE_SUFFIXES))
        paths = {name: min(found, key=_depth) for name, found in stems.items()}
        several = {name: found for name, found in stems.items() if len(found) > 1 and name in ids}
        different = {
            name: found
            for name, found in several.items()
            if not all(filecmp.cmp(found[0], other, shallow=False) for other in found[1:])
        }
        return cls(root, paths, different, [name for name in several if name not in different])

    def findings(self, table: _Table, archives: Sequence[Path]) -> list[Finding]:
        """Return the rows that have no image, or several different ones."""
        ids = table.ids()
        packed = few(str(path.relative_to(self.root)) for path in archives)
        return table.cells.row_findings(
            "missing-file",
            [row for row, name in enumerate(ids) if name and name not in self.paths],
            lambda row: f"there is no image {ids[row]}.png below {self.root}",
            expected="",
            fix=f"Unpack {packed} first."
            if packed
            else "Is the download complete? If the radiograph does not exist, remove the row.",
        ) + table.cells.row_findings(
            "ambiguous-image",
            [row for row, name in enumerate(ids) if name in self.different],
            lambda row: (
                "several different files have this id: "
                + ", ".join(str(p.relative_to(self.root)) for p in self.different[ids[row]])
            ),
            expected="",
            fix="Name the folder of one copy, or move the other files away.",
        )


def _depth(path: Path) -> tuple[int, Path]:
    return len(path.parts), path


def _packed_splits(archives: Sequence[Path], absent: Sequence[str]) -> Iterator[Fault]:
    """Yield the archives that hold the table of an absent split, by their names."""
    for archive in archives:
        split = _split_in(archive.name)
        if archive.name.startswith("boneage-"):  # holds images only
            continue
        if split is not None and split in absent:
            what = f"it is still packed, and there is no other table of the {_WORDS[split]} set"
            yield Fault(str(archive), what, "Unpack it. To import without it, move it away.")


def _shared_id_findings(split: str, tables: Mapping[str, _Table]) -> list[Finding]:
    """Return the ids that an earlier split has too."""
    earlier = list(tables)[: list(tables).index(split)]
    home = {
        name: tables[other].path.name for other in reversed(earlier) for name in tables[other].ids()
    }
    ids = tables[split].ids()
    return tables[split].cells.row_findings(
        "id-in-two-splits",
        [row for row, name in enumerate(ids) if name and name in home],
        lambda row: f"id {ids[row]} is in {home[ids[row]]} too",
        expected="each id in one split",
        fix="Remove it from one of the tables.",
    )


def _rows(split: str, table: _Table, images: _Images, out: Path) -> pd.DataFrame:
    base = out.parent.resolve()
    ids = table.ids()
    return pd.DataFrame(
        {
            "image_id": ids,
            "image": [os.path.relpath(images.paths[name], base) for name in ids],
            "age_months": table.ages(),
            "sex": table.sexes(),
            "split": split,
            "source": table.source,
        }
    )


def _add_absent_splits(rows: pd.DataFrame, found: _Found, seed: int) -> pd.DataFrame:
    """Move seeded tenths of the training images to the absent splits."""
    absent = found.absent()
    if not absent or "train" in absent:
        return rows
    if len(absent) == 2:
        names = [found.tables["train"].path.name, *(Path(name).name for name in found.unlabelled)]
        is_kaggle = any(name.startswith(_KAGGLE_NAMES) for name in names)
        source = KAGGLE_SOURCE if is_kaggle else SEEDED_SOURCE
        return assign_splits(rows, seed=seed).assign(source=source)
    fractions = (1 - _SHARE, _SHARE, 0.0) if absent == ["val"] else (1 - _SHARE, 0.0, _SHARE)
    is_train = rows["split"] == "train"
    divided = assign_splits(rows[is_train], seed=seed, fractions=fractions)
    divided.loc[divided["split"] != "train", "source"] = f"{SEEDED_SOURCE}-{absent[0]}"
    return pd.concat([divided, rows[~is_train]], ignore_index=True)


def _count_note(split: str, count: int) -> str:
    official = COUNTS[split]
    if count == official:
        return f"All {official:,} {_WORDS[split]} images of the challenge."
    return f"{count:,} labelled images; the challenge's {_WORDS[split]} set has {official:,}."


def _left_out_notes(found: _Found, images: _Images) -> Iterator[str]:
    for table in found.unlabelled:
        yield f"{table} has no ages. Its images are left out."
    if images.copied:
        yield (
            f"{len(images.copied):,} images have several files with the same bytes. One file of "
            f"each is used ({few(images.copied)})."
        )
    labelled = found.ids()
    rest = [name for name in images.paths if name not in labelled]
    if rest:
        tables = ", ".join(table.path.name for table in found.tables.values())
        yield f"{len(rest):,} images have no row in {tables} and are left out ({few(rest)})."
    if "test" in found.absent() and any(n.isdecimal() and int(n) in TEST_IDS for n in rest):
        yield (
            f"Images {TEST_IDS[0]} to {TEST_IDS[-1]} are the official test set. To test on them, "
            "put 'Bone age ground truth.xlsx' of the challenge's test archive below the folder."
        )


def _split_notes(found: _Found, seed: int, *, own: bool) -> Iterator[str]:
    absent = [_WORDS[split] for split in ("val", "test") if split in found.absent()]
    if "train" in found.absent():
        yield "There is no training set: this manifest is for evaluation only."
    elif not absent and not own:
        yield "Training, validation and test are the challenge's own."
    elif len(absent) == 2:
        yield (
            "There is no official validation or test set. The split is made from the training "
            f"images (seed {seed}). Its errors are not comparable with published test errors."
        )
    elif absent:
        yield (
            f"There is no official {absent[0]} set. A tenth of the training images replaces it "
            f"(seed {seed}). Errors on it are not comparable with published {absent[0]} errors."
        )
    if own:
        yield "The tables were named with --labels: their splits may not be the official ones."
