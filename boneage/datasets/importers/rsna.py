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

import pandas as pd

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
_SPLIT_OF_COLUMNS = {  # the columns of the two documented layouts, as `fold` writes them
    ("id", "boneage", "male"): "train",
    ("image_id", "bone_age_months", "male"): "val",
    ("case_id", "ground_truth_bone_age_months", "sex"): "test",
}
_LAYOUT = (
    "the columns id, boneage, male (training); Image ID, Bone Age (months), male (validation); or "
    "Case ID, Ground truth bone age (months), Sex (test)"
)
_COLUMNS = (  # what id, age and sex may be called in a table that `--labels` names
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
    tables = with_suffix(files, (*TABLE_SUFFIXES, ".xls"))
    named = [(labels[split], split) for split in SPLITS if split in labels] if labels else []
    # "~$" begins the name of Excel's lock files
    unnamed = [(path, None) for path in tables if not path.name.startswith("~$")]
    found = _read_tables(named or unnamed, root)
    images = _Images.choose(files, root, found)
    archives = with_suffix(files, (".zip",))
    faults = [] if labels else list(_packed_splits(archives, found.absent))
    for split, table in found.tables.items():
        findings = [
            *table.findings,
            *_shared_id_findings(split, found.tables),
            *images.findings(table, archives),
        ]
        faults += [finding.fault for finding in findings]
    if faults:
        raise InputError(faults)
    base = Path(out).parent.resolve()
    rows = pd.concat(
        [table.rows.assign(split=split) for split, table in found.tables.items()],
        ignore_index=True,
    )
    rows["image"] = [os.path.relpath(images.paths[name], base) for name in rows["image_id"]]
    notes = [
        *found.notes,
        *_left_out_notes(found, images),
        *(_count_note(split, len(table.ids)) for split, table in found.tables.items()),
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
    """The labels of one split.

    Attributes:
        cells: The table; its key is the column with the ids.
        rows: Column `image_id`, `age_months`, `sex` and `source` of the manifest.
        findings: What is wrong with the table itself.
    """

    cells: Cells
    rows: pd.DataFrame
    findings: tuple[Finding, ...]

    @property
    def path(self) -> Path:
        return Path(self.cells.where)

    @property
    def ids(self) -> list[str]:
        return list(self.rows["image_id"])

    def is_copy_of(self, other: _Table) -> bool:
        one, two = (t.rows.sort_values("image_id", ignore_index=True) for t in (self, other))
        return one.equals(two)


@dataclass
class _Found:
    """The table of each split, and tables without ages."""

    tables: dict[str, _Table] = field(default_factory=dict)
    unlabelled: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def absent(self) -> list[str]:
        return [split for split in SPLITS if split not in self.tables]


def _read_tables(paths: Sequence[tuple[Path, str | None]], root: Path) -> _Found:
    """Read the tables, and find which splits they label.

    Args:
        paths: Each table, and its split if `--labels` names it.
        root: The folder of the dataset.

    Raises:
        InputError: A table can't be read, a split is not clear, or there is no table.
    """
    found, others, faults = _Found(), list[Cells](), list[Fault]()
    tables: dict[str, list[_Table]] = {}
    for path, named in paths:
        try:
            cells = read_sheet(path, key="id")
        except InputError as error:
            away = "" if named else " Or move it out of the folder."
            faults += [replace(fault, fix=fault.fix + away) for fault in error.faults]
            continue
        match [find_column(cells, known) for known in _COLUMNS]:
            case [str() as key, str() as age, str() as sex]:
                table = _table(cells, key, age, sex, OWN_SOURCE if named else OFFICIAL_SOURCE)
                split = named or _split_of(table, (fold(key), fold(age), fold(sex)))
                wrong = _split_faults(table, split, named)
                faults += wrong
                if split and not wrong:
                    tables.setdefault(split, []).append(table)
            case [str(), None, str()] if len(cells.table.columns) == 2 and not named:
                found.unlabelled.append(path.relative_to(root))
            case _ if named:
                faults += _missing_columns(cells)
            case _:
                others.append(cells)
    for split in (split for split in SPLITS if split in tables):
        first, *rest = sorted(tables[split], key=lambda table: _depth(table.path))
        found.tables[split] = first
        copies = ", ".join(str(table.path.relative_to(root)) for table in rest)
        if not all(table.is_copy_of(first) for table in rest):
            names = f"{first.path.relative_to(root)}, {copies}"
            what = f"several different tables label the {_WORDS[split]} set: {names}"
            fix = f"Move the others away, or name the right table with --labels {split}=FILE."
            faults.append(Fault(str(root), what, fix))
        elif rest:
            found.notes.append(
                f"{copies}: a copy of {first.path.relative_to(root)}, which is used."
            )
    if not tables and not faults:
        faults += _missing_columns(others[0]) if len(others) == 1 else []
        what = "no table below it has an id, a bone age and a sex"
        fix = "Name the folder that the download was unpacked to, or the tables with --labels."
        faults = faults or [Fault(str(root), what, fix, expected=_LAYOUT)]
    if faults:
        raise InputError(faults)
    return found


def _table(cells: Cells, key: str, age: str, sex: str, source: str) -> _Table:
    cells = replace(cells, key=key)
    # 1377 for `1377`, `1377.png` and `1377.0`
    ids = [re.sub(r"(\.png|\.0)$", "", text, flags=re.IGNORECASE) for text in cells.table[key]]
    ages, (codes, expected) = numbers(cells, age), sex_codes(sex)
    sexes = [codes.get(text.lower(), "") for text in cells.table[sex]]
    findings = (
        *cells.findings,
        *id_findings(cells, key, ids),
        *age_findings(cells, age, ages),
        *years_findings(cells, age, ages, "Convert them to months."),
        *sex_findings(cells, sex, codes, expected),
    )
    columns = {"image_id": ids, "age_months": ages, "sex": sexes, "source": source}
    return _Table(cells, pd.DataFrame(columns), findings)


def _missing_columns(cells: Cells) -> list[Fault]:
    return [
        missing_column(cells, known[0]).fault
        for known in _COLUMNS
        if find_column(cells, known) is None
    ]


def _split_of(table: _Table, columns: tuple[str, str, str]) -> str | None:
    """Return the split that a table labels: by its columns, or by the ids of the test set."""
    split = _SPLIT_OF_COLUMNS.get(columns)
    is_test = split == "train" and _test_ids(table) == len(set(table.ids))
    return "test" if is_test else split


def _test_ids(table: _Table) -> int:
    return sum(name.isdecimal() and int(name) in TEST_IDS for name in set(table.ids))


def _split_faults(table: _Table, split: str | None, named: str | None) -> list[Fault]:
    """Refuse a table whose split is not clear, or which mixes test images with others."""
    by_name = _split_in(table.path.name)
    test, total = _test_ids(table), len(set(table.ids))
    ids = f"the ids {TEST_IDS[0]} to {TEST_IDS[-1]}"
    fix = "Name every table with its split: --labels train=FILE --labels val=FILE and so on."
    expected = ""
    if split is None:
        columns = ", ".join(map(str, table.cells.table.columns))
        what, expected = f"its columns don't say which split it labels: {columns}", _LAYOUT
    elif split != "test" and test:
        what = f"{test:,} of its ids are official test images ({ids})"
        fix = "Remove these rows: a model that trains on them can't be tested."
    elif named:
        return []
    elif split == "test" and test < total:
        what = f"{total - test:,} of its {total:,} ids are not in the official test set ({ids})"
    elif by_name not in (None, split):
        what = f"its columns are those of the {_WORDS[split]} set, but its name says {by_name}"
    else:
        return []
    return [Fault(table.cells.where, what, fix, expected=expected)]


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
    def choose(cls, files: Sequence[Path], root: Path, found: _Found) -> _Images:
        """Choose one file for each id; of labelled ids with several files, compare the bytes."""
        ids = {name for table in found.tables.values() for name in table.ids}
        stems = by_stem(with_suffix(files, IMAGE_SUFFIXES))
        paths = {name: min(found, key=_depth) for name, found in stems.items()}
        several = {name: found for name, found in stems.items() if len(found) > 1 and name in ids}
        different = {
            name: found
            for name, found in several.items()
            if not all(_is_same(found[0], other) for other in found[1:])
        }
        return cls(root, paths, different, [name for name in several if name not in different])

    def findings(self, table: _Table, archives: Sequence[Path]) -> list[Finding]:
        """Return the rows that have no image, or several different ones."""
        ids = table.ids
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


def _is_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


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
        name: tables[other].path.name for other in reversed(earlier) for name in tables[other].ids
    }
    ids = tables[split].ids
    return tables[split].cells.row_findings(
        "id-in-two-splits",
        [row for row, name in enumerate(ids) if name and name in home],
        lambda row: f"id {ids[row]} is in {home[ids[row]]} too",
        expected="each id in one split",
        fix="Remove it from one of the tables.",
    )


def _add_absent_splits(rows: pd.DataFrame, found: _Found, seed: int) -> pd.DataFrame:
    """Move seeded tenths of the training images to the absent splits."""
    absent = found.absent
    if not absent or "train" in absent:
        return rows
    if len(absent) == 2:
        names = [found.tables["train"].path.name, *(path.name for path in found.unlabelled)]
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
    for path in found.unlabelled:
        yield f"{path} has no ages. Its images are left out."
    if images.copied:
        yield (
            f"{len(images.copied):,} images have several files with the same bytes. One file of "
            f"each is used ({few(images.copied)})."
        )
    labelled = {name for table in found.tables.values() for name in table.ids}
    rest = [name for name in images.paths if name not in labelled]
    if rest:
        tables = ", ".join(table.path.name for table in found.tables.values())
        yield f"{len(rest):,} images have no row in {tables} and are left out ({few(rest)})."
    if "test" in found.absent and any(n.isdecimal() and int(n) in TEST_IDS for n in rest):
        yield (
            f"Images {TEST_IDS[0]} to {TEST_IDS[-1]} are the official test set. To test on them, "
            "put 'Bone age ground truth.xlsx' of the challenge's test archive below the folder."
        )


def _split_notes(found: _Found, seed: int, *, own: bool) -> Iterator[str]:
    absent = [_WORDS[split] for split in ("val", "test") if split in found.absent]
    if "train" in found.absent:
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
