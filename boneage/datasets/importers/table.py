"""Import any table of radiographs, with its own column names, units and codes."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import pandas as pd

from boneage.datasets.cell_text import whole_number
from boneage.datasets.cells import Cells, Finding, missing_column
from boneage.datasets.importers.ages import UNITS, Ages, read_ages
from boneage.datasets.importers.image_lookup import (
    SUFFIXES,
    ImageFiles,
    Pattern,
    PatternFiles,
    is_same_number,
)
from boneage.datasets.label_rules import INFANTS, SPLIT_OF_WORD, SPLITS, is_probably_years
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.sex_codes import fold_code, read_codes
from boneage.datasets.splits import assign_splits
from boneage.datasets.tables import read_sheet
from boneage.datasets.validation import describe_cell, id_findings, patient_findings
from boneage.errors import Fault, InputError

_FEW = 3


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table, and what their cells hold.

    Attributes:
        image: Column with each image's path, whose suffix may be left out where only one image
            fits; or a pattern such as `images/{id}_*.tif` that fits one file a row.
        age: Column with the bone age.
        age_unit: One of `ages.UNITS`: `months`, `years`, `days` or `years-months` (10y6m, 10-06).
        sex: Column with the sex.
        female: What that column holds for a girl, exactly; one or more codes.
        male: What it holds for a boy.
        patient: Column that distinguishes patients, if any.
        chronological: Column with the chronological age, if any; its cells may be empty.
        chronological_unit: Its unit; if None, that of the bone age.
        split: Column with train, val (or validation) and test; if None, a seeded 80/10/10 split is
            made, grouped by patient and stratified by age and sex.
    """

    image: str
    age: str
    age_unit: str
    sex: str
    female: Sequence[str]
    male: Sequence[str]
    patient: str | None = None
    chronological: str | None = None
    chronological_unit: str | None = None
    split: str | None = None

    def faults(self) -> list[Fault]:
        """Return what is wrong with units and codes, before the table is read."""
        faults = []
        units = {"--age-unit": self.age_unit, "--chronological-unit": self.chronological_unit}
        for option, unit in units.items():
            if unit is not None and unit not in UNITS:
                close = difflib.get_close_matches(unit, UNITS, n=1, cutoff=0.3)
                fix = f"Did you mean {close[0]!r}?" if close else "Use one of these."
                expected = f"{', '.join(UNITS[:-1])} or {UNITS[-1]}"
                faults.append(Fault(option, f"unknown unit {unit!r}", fix, expected))
        male = {fold_code(code.strip()) for code in self.male}
        both = [code for code in self.female if fold_code(code.strip()) in male]
        if both or not (self.female and self.male and all((*self.female, *self.male))):
            what = f"both are {both[0]!r}" if both else "one of them is empty"
            fix = "Give two different values. An empty cell is an unknown sex."
            faults.append(Fault("--female and --male", what, fix))
        return faults

    def sexes(self, cells: Cells) -> list[str]:
        """Return F or M for each row, or an empty text where the cell holds none of the codes."""
        return read_codes(cells.table[self.sex].tolist(), self.female, self.male)

    def splits(self, cells: Cells) -> list[str]:
        """Return the split of each row, empty where it is unknown; no list without a column."""
        if self.split is None:
            return []
        return [SPLIT_OF_WORD.get(text.lower(), "") for text in cells.table[self.split]]


@dataclass(frozen=True)
class _Images:
    """The images that the rows name.

    Attributes:
        column: The column that names a row: that of the paths, or the pattern's first.
        names: The path, or the filled pattern, of each row; empty where a cell is.
        found: Every file that each row may mean.
        ids: Possible names of each image, the shortest first.
    """

    column: str
    names: list[str]
    found: list[list[Path]]
    ids: list[list[str]]


def import_table(
    file: Path,
    out: Path,
    columns: TableColumns,
    *,
    image_root: Path | None = None,
    sheet: str | None = None,
    seed: int = 0,
) -> Manifest:
    """Make a manifest of a table; the images stay where they are.

    Args:
        file: CSV, TSV, semicolon-separated text, Excel (.xlsx) or Parquet.
        out: The manifest to write; it refers to the images by relative path.
        columns: The columns of the table.
        image_root: Folder that the image paths start from; if None, the table's own.
        sheet: Worksheet of a workbook that has several.
        seed: Seed of the split, when the table has none.

    Raises:
        InputError: An option, the table or the images are wrong (all faults at once).
    """
    file, out = Path(file), Path(out)
    option_faults = columns.faults()
    if image_root is not None and not Path(image_root).is_dir():
        what = f"there is no folder {image_root}"
        option_faults.append(Fault("--image-root", what, "Check the path."))
    if option_faults:
        raise InputError(option_faults)
    names = [name for name in (columns.image, columns.age, columns.sex) if "{" not in name]
    cells = read_sheet(file, key=columns.image, sheet=sheet, names=names)
    pattern = _parse_pattern(cells, columns.image)
    cells = _check_columns(cells, columns, pattern)
    files = ImageFiles(Path(image_root or file.parent).resolve())
    images = _find_images(cells, files, columns.image, pattern)
    cells = replace(cells, key=images.column)
    ages = _read_ages(cells, columns)
    months = ages["age_months"].months
    sexes, splits = columns.sexes(cells), columns.splits(cells)
    patients = [] if columns.patient is None else cells.table[columns.patient].tolist()
    findings = [
        *cells.findings,
        *_image_findings(cells, images, files),
        *(finding for column in ages.values() for finding in column.findings),
        *_sex_findings(cells, columns, sexes),
        *_split_findings(cells, columns, splits),
        *patient_findings(cells, patients, sexes, splits),
        *_control_character_findings(cells, images, columns.patient),
    ]
    if findings:
        raise InputError([finding.fault for finding in findings])
    base = out.parent.resolve()
    table = pd.DataFrame(
        {
            "image_id": _image_ids(images.ids),
            "image": [os.path.relpath(found[0], base) for found in images.found],
            "sex": sexes,
            **{name: column.months for name, column in ages.items()},
        }
    )
    if columns.patient is not None:
        table["patient_id"] = patients
    source, notes = [file.stem], _notes(cells, columns, ages)
    notes += _number_notes(images)
    if is_probably_years(months):  # the source says so, or the manifest would be refused
        source.append(INFANTS)
        notes.append(_infants_note(columns, float(months.max())))
    if columns.split is None:  # the source says so, for the report
        source.append("seeded split")
        table = assign_splits(table, seed=seed)
    else:
        table = table.assign(split=splits)
    return write_manifest(table.assign(source=", ".join(source)), out, notes=notes)


def _infants_note(columns: TableColumns, largest: float) -> str:
    return (
        f"All children are infants: the largest age is {largest:.4g} months, since "
        f"{columns.age} is in {columns.age_unit}."
    )


def _read_ages(cells: Cells, columns: TableColumns) -> dict[str, Ages]:
    """Return the bone ages and, if there is a column, the chronological ages."""
    ages = {"age_months": read_ages(cells, columns.age, columns.age_unit, "--age-unit")}
    if columns.chronological is not None:
        unit, option = columns.chronological_unit, "--chronological-unit"
        ages["chronological_age_months"] = read_ages(
            cells, columns.chronological, unit or columns.age_unit, option, is_chronological=True
        )
    return ages


def _check_columns(cells: Cells, columns: TableColumns, pattern: Pattern | None) -> Cells:
    """Refuse a table without the columns: the faults of its rows would be incomplete.

    Returns:
        The table without what is wrong with other columns.
    """
    wanted = [
        *(("image", name) for name in (pattern.columns if pattern else [columns.image])),
        ("age", columns.age),
        ("sex", columns.sex),
        ("patient", columns.patient),
        ("chronological", columns.chronological),
        ("split", columns.split),
    ]
    cells = cells.using(name for _, name in wanted)
    missing = [
        replace(missing_column(cells, name).fault, where=f"{cells.where} (--{option} {name})")
        for option, name in wanted
        if name is not None and name not in cells.table
    ]
    if missing:
        raise InputError([*(finding.fault for finding in cells.findings), *missing])
    return cells


def _parse_pattern(cells: Cells, image: str) -> Pattern | None:
    """Return the pattern that `image` is, unless it is a column."""
    if image in cells.table or not any(sign in image for sign in "*{"):
        return None
    pattern = Pattern.parse(image, [str(column) for column in cells.table.columns])
    if not pattern.columns:
        what = "the pattern names no column, so every row would have the same image"
        fix = (
            "Write a column in braces, such as {id}_*.tif. "
            f"The columns are {', '.join(map(str, cells.table.columns))}."
        )
        raise InputError(Fault(f"--image {image}", what, fix))
    return pattern


def _find_images(cells: Cells, files: ImageFiles, image: str, pattern: Pattern | None) -> _Images:
    if pattern is None:
        names = cells.table[image].tolist()
        found = [files.named(name) if name else [] for name in names]
        ids = []
        for name, paths in zip(names, found, strict=True):
            if paths and is_same_number(name, paths[0]):
                ids.append(_names_of(os.path.relpath(paths[0], files.root)))
            elif paths and "\\" not in paths[0].name:
                ids.append(_names_of(name.replace("\\", "/")))
            else:
                ids.append(_names_of(name))
        return _Images(image, names, found, ids)
    rows = [
        dict(zip(pattern.columns, values, strict=True))
        for values in cells.table[pattern.columns].itertuples(index=False, name=None)
    ]
    has_wildcards = any("*" in text for text, _, _ in pattern.pieces)
    fitting = PatternFiles(files.root, pattern) if has_wildcards else None

    def find(row: dict[str, str]) -> list[Path]:
        if not all(row.values()):
            return []
        return fitting.fitting(row) if fitting else files.named(pattern.filled(row))

    found = [find(row) for row in rows]
    for i, row in enumerate(rows):
        whole = {name: whole_number(text) for name, text in row.items()}
        if len(found[i]) != 1 and whole != row and (paths := find(whole)):
            rows[i], found[i] = whole, paths
    names = [pattern.filled(row) if all(row.values()) else "" for row in rows]
    ids = [["_".join(row.values())] if len(row) == 1 else [] for row in rows]
    for row_ids, paths, name in zip(ids, found, names, strict=True):
        row_ids += _names_of(os.path.relpath(paths[0], files.root) if paths else name)
    return _Images(pattern.columns[0], names, found, ids)


def _names_of(name: str) -> list[str]:
    """Return file stem, path without suffix, and path; `hand.1` has no suffix that counts."""
    suffix = PurePath(name).suffix
    bare = name[: -len(suffix)] if suffix.lower() in SUFFIXES else name
    return [PurePath(bare).name.strip(), bare, name]


def _image_ids(candidates: Sequence[Sequence[str]]) -> list[str]:
    """Return the shortest kind of name that is unique; each row offers the same kinds."""
    for ids in zip(*candidates, strict=True):
        if len(set(ids)) == len(ids) and all(ids):
            return list(ids)
    return [names[-1] for names in candidates]


def _image_findings(cells: Cells, images: _Images, files: ImageFiles) -> list[Finding]:
    names, found = images.names, images.found
    # Two spellings of one file are the same image.
    identities = [
        str(paths[0]) if len(paths) == 1 else name for paths, name in zip(found, names, strict=True)
    ]

    def describe_several(row: int) -> str:
        some = ", ".join(os.path.relpath(path, files.root) for path in found[row][:_FEW])
        more = ", …" if len(found[row]) > _FEW else ""
        return f"{names[row]} fits {len(found[row])} files: {some}{more}"

    missing = [row for row, paths in enumerate(found) if names[row] and not paths]
    several = [row for row, paths in enumerate(found) if len(paths) > 1]
    fix = f"Paths start from {files.root}. Name another folder with --image-root."
    if missing and (folder := files.find_folder(names[missing[0]])):
        fix = f"Images of such names are in {folder}: pass --image-root {folder}."
    return [
        *id_findings(cells, images.column, identities),
        *cells.row_findings(
            "missing-file", missing, lambda row: f"there is no image {names[row]}", "", fix
        ),
        *cells.row_findings(
            "ambiguous-file",
            several,
            describe_several,
            "",
            "Write the whole name, or a pattern that fits only one of them.",
        ),
    ]


def _sex_findings(cells: Cells, columns: TableColumns, sexes: Sequence[str]) -> list[Finding]:
    texts = cells.table[columns.sex]
    female, male = (" or ".join(map(repr, codes)) for codes in (columns.female, columns.male))
    return cells.row_findings(
        "unknown-sex",
        [row for row, sex in enumerate(sexes) if not sex],
        lambda row: f"{describe_cell(columns.sex, texts[row])}{_name_letter(texts[row])}",
        f"{female} (--female) or {male} (--male)",
        "Correct the cell or these options. A sex is never guessed.",
    )


def _name_letter(text: str) -> str:
    """Return the name of a letter that is not ASCII: a Cyrillic Em is like a Latin M."""
    name = unicodedata.name(text, "") if len(text) == 1 and not text.isascii() else ""
    return f" ({name})" if "LETTER" in name else ""


def _split_findings(cells: Cells, columns: TableColumns, splits: Sequence[str]) -> list[Finding]:
    if columns.split is None:
        return []
    column, texts = columns.split, cells.table[columns.split]
    return cells.row_findings(
        "unknown-split",
        [row for row, name in enumerate(splits) if not name],
        lambda row: describe_cell(column, texts[row]),
        f"{', '.join(SPLITS[:-1])} or {SPLITS[-1]}",
        "Correct it, or leave --split out for a seeded split.",
    )


def _control_character_findings(
    cells: Cells, images: _Images, patient: str | None
) -> list[Finding]:
    """Return names with line ends, NULs and the like, which a manifest can't hold as they are."""
    texts = {images.column: images.names}
    if patient is not None:
        texts[patient] = cells.table[patient].tolist()
    findings = []
    for column, values in texts.items():
        what = {
            row: f"{column} is {text!r}, with control characters"
            for row, text in enumerate(values)
            if not text.isprintable() and any(unicodedata.category(c) == "Cc" for c in text)
        }
        fix = "Remove these characters from the cell."
        findings += cells.row_findings("control-character", what, what.__getitem__, "", fix)
    return findings


def _number_notes(images: _Images) -> list[str]:
    numbered = [
        (name, path.name)
        for name, (path, *_) in zip(images.names, images.found, strict=True)
        if is_same_number(name, path)
    ]
    if not numbered:
        return []
    name, file = numbered[0]
    return [f"{len(numbered):,} images were found by their number: {name} is {file}."]


def _notes(cells: Cells, columns: TableColumns, ages: Mapping[str, Ages]) -> list[str]:
    notes = [note for column in ages.values() for note in column.notes]
    if columns.patient is not None and (empty := int((cells.table[columns.patient] == "").sum())):
        notes.append(
            f"{empty:,} images have no {columns.patient}: each counts as a patient of its own."
        )
    return notes
