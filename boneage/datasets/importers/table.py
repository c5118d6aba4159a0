"""Anybody's table of radiographs, with its own column names, unit and codes, to a manifest."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import pandas as pd

from boneage.datasets.importers.ages import (
    UNITS,
    ages_in_months,
    chronological_in_months,
    has_decimal_commas,
)
from boneage.datasets.importers.image_lookup import SUFFIXES, ImageFiles, Pattern, PatternFiles
from boneage.datasets.manifest import (
    INFANTS,
    SPLIT_OF_WORD,
    SPLITS,
    YEARS_SUSPECTED_BELOW,
    Manifest,
    write_manifest,
)
from boneage.datasets.splits import assign_splits
from boneage.datasets.tables import Cells, Finding, missing_column, read_sheet
from boneage.datasets.validation import id_findings, patient_findings
from boneage.errors import Fault, InputError

_NAMED = 3


@dataclass(frozen=True)
class _Images:
    """What the rows say of their images.

    Attributes:
        column: The column that names a row: that of the paths, or the pattern's first.
        names: The path, or the filled pattern, of each row; empty where a cell is.
        found: Every file that each row may mean.
        ids: What could name each image, the shortest first.
    """

    column: str
    names: list[str]
    found: list[list[Path]]
    ids: list[list[str]]


def import_table(
    file: Path,
    out: Path,
    *,
    image: str,
    age: str,
    age_unit: str,
    sex: str,
    female: str | Sequence[str],
    male: str | Sequence[str],
    image_root: Path | None = None,
    patient: str | None = None,
    chronological: str | None = None,
    chronological_unit: str | None = None,
    split: str | None = None,
    sheet: str | None = None,
    seed: int = 0,
) -> Manifest:
    """Makes a manifest of a table; the images stay where they are.

    Args:
        file: CSV, TSV, semicolons, Excel (.xlsx) or Parquet, told by content.
        out: The manifest to write; refers to the images by relative path.
        image: Column with each image's path, whose suffix may be left out where only one image
            is meant; or a pattern such as `films/{id}_*.tif` that fits one file a row.
        age: Column with the bone age.
        age_unit: `months`, `years`, `days` or `years-months` (10y6m, 10-06).
        sex: Column with the sex.
        female: What that column holds for a girl, to the letter; several if it holds several.
        male: What it holds for a boy.
        image_root: Folder that the image paths start from; the table's own if None.
        patient: Column that tells patients apart, if there is one.
        chronological: Column with the time since birth, if there is one; cells may be empty.
        chronological_unit: Its unit; that of the bone age if None.
        split: Column with train, val (or validation) and test; if None, a seeded 80/10/10 split
            is made, by patient, alike in age and sex.
        sheet: Worksheet of a workbook that has several.
        seed: Of that split.

    Raises:
        InputError: An option, the table or the images are wrong (all faults at once).
    """
    file, out = Path(file), Path(out)
    units = age_unit, chronological_unit or age_unit
    codes = _codes(female), _codes(male)
    _check_options(units, codes, image_root)
    cells = read_sheet(file, key=image, sheet=sheet)
    pattern = _pattern(cells, image)
    _check_columns(
        cells,
        [
            *(("image", name) for name in (pattern.columns if pattern else [image])),
            ("age", age),
            ("sex", sex),
            ("patient", patient),
            ("chronological", chronological),
            ("split", split),
        ],
    )
    root = Path(image_root or file.parent).resolve()
    files = ImageFiles(root)
    images = _images(cells, files, image, pattern)
    cells = replace(cells, key=images.column)
    months, faults = ages_in_months(cells, age, units[0], "--age-unit")
    sexes = _sexes(cells, sex, *codes)
    splits = [] if split is None else [SPLIT_OF_WORD.get(t.lower(), "") for t in cells.table[split]]
    findings = [
        *cells.findings,
        *_image_findings(cells, images, files),
        *faults,
        *_sex_findings(cells, sex, sexes, codes),
        *_split_findings(cells, split, splits),
        *_shared_patient_findings(cells, patient, splits),
        *_unprintable_findings(cells, images, patient),
    ]
    optional: dict[str, object] = {}
    if patient is not None:
        optional["patient_id"] = cells.table[patient].tolist()
    if chronological is not None:
        birth, faults = chronological_in_months(
            cells, chronological, units[1], "--chronological-unit"
        )
        findings += faults
        optional["chronological_age_months"] = birth
    if findings:
        raise InputError([finding.fault for finding in findings])
    base = out.parent.resolve()
    table = pd.DataFrame(
        {
            "image_id": _image_ids(images.ids),
            "image": [os.path.relpath(found[0], base) for found in images.found],
            "age_months": months,
            "sex": sexes,
            **optional,
        }
    )
    source, notes = [file.stem], _notes(cells, age, chronological, patient)
    if (
        months.max() <= YEARS_SUSPECTED_BELOW
    ):  # said in the source, or the manifest would be refused
        source.append(INFANTS)
        notes.append(
            f"No age passes {months.max():.4g} months: infants all, since {age} is in {age_unit} "
            "as --age-unit says."
        )
    if split is None:  # said in the source, so that a report can say it
        source.append("seeded split")
        table = assign_splits(table, seed=seed)
    else:
        table = table.assign(split=splits)
    return write_manifest(table.assign(source=", ".join(source)), out, notes=notes)


def _codes(given: str | Sequence[str]) -> list[str]:
    return [code.strip() for code in ([given] if isinstance(given, str) else given)]


def _check_options(
    units: tuple[str, str], codes: tuple[list[str], list[str]], image_root: Path | None
) -> None:
    faults = []
    for option, unit in zip(("--age-unit", "--chronological-unit"), units, strict=True):
        if unit not in UNITS and (option == "--age-unit" or unit != units[0]):
            close = difflib.get_close_matches(unit, UNITS, n=1, cutoff=0.3)
            fix = f"Did you mean {close[0]!r}?" if close else "Say which of them the ages are in."
            expected = f"{', '.join(UNITS[:-1])} or {UNITS[-1]}"
            faults.append(Fault(option, f"unknown unit {unit!r}", fix, expected=expected))
    both = [code for code in codes[0] if code in codes[1]]
    if both or not all((*codes[0], *codes[1])) or not all(codes):
        faults.append(
            Fault(
                "--female and --male",
                f"both are {both[0]!r}" if both else "one of them is empty",
                "Give two different values; an empty cell is an unknown sex.",
                expected="what the table holds for girls, and what for boys",
            )
        )
    if image_root is not None and not Path(image_root).is_dir():
        what = f"there is no folder {image_root}"
        faults.append(Fault("--image-root", what, "Check the path.", expected="the images' folder"))
    if faults:
        raise InputError(faults)


def _check_columns(cells: Cells, wanted: Sequence[tuple[str, str | None]]) -> None:
    """Without the columns, faults of the rows would be half the story."""
    absent = []
    for option, name in wanted:
        if name is not None and name not in cells.table:
            finding = missing_column(cells, name)
            where = f"{cells.where} (--{option} {name})"
            absent.append(replace(finding.fault, where=where))
    if absent:
        raise InputError([*(finding.fault for finding in cells.findings), *absent])


def _pattern(cells: Cells, image: str) -> Pattern | None:
    """The pattern that `image` is, unless it is a column."""
    if image in cells.table or not any(sign in image for sign in "*{"):
        return None
    pattern = Pattern.parse(image, [str(column) for column in cells.table.columns])
    if not pattern.columns:
        raise InputError(
            Fault(
                f"--image {image}",
                "the pattern names no column, so that every row would have the same image",
                f"The columns are {', '.join(map(str, cells.table.columns))}.",
                expected="a column in braces, such as films/{id}_*.tif",
            )
        )
    return pattern


def _images(cells: Cells, files: ImageFiles, image: str, pattern: Pattern | None) -> _Images:
    if pattern is None:
        names = cells.table[image].tolist()
        found = [files.named(name) if name else [] for name in names]
        ids = [
            _names_of(name.replace("\\", "/") if paths and "\\" not in paths[0].name else name)
            for name, paths in zip(names, found, strict=True)
        ]
        return _Images(image, names, found, ids)
    columns = [cells.table[column].tolist() for column in pattern.columns]
    rows = [
        dict(zip(pattern.columns, values, strict=True)) for values in zip(*columns, strict=True)
    ]
    names = [pattern.filled(row) if all(row.values()) else "" for row in rows]
    fitting = PatternFiles(files.root, pattern) if pattern.has_wildcards else None
    found = [
        [] if not name else fitting.fitting(row) if fitting else files.named(name)
        for name, row in zip(names, rows, strict=True)
    ]
    ids = [["_".join(row.values())] if len(row) == 1 else [] for row in rows]
    for row_ids, paths, name in zip(ids, found, names, strict=True):
        row_ids += _names_of(os.path.relpath(paths[0], files.root) if paths else name)
    return _Images(pattern.columns[0], names, found, ids)


def _names_of(name: str) -> list[str]:
    """File stem, path without suffix, and path; `film.1` has no suffix that counts."""
    suffix = PurePath(name).suffix
    bare = name[: -len(suffix)] if suffix.lower() in SUFFIXES else name
    return [PurePath(bare).name.strip(), bare, name]


def _image_ids(candidates: Sequence[Sequence[str]]) -> list[str]:
    """The shortest kind of name that tells all images apart; each row offers the same kinds."""
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

    def some(row: int) -> str:
        more = ", …" if len(found[row]) > _NAMED else ""
        return ", ".join(os.path.relpath(path, files.root) for path in found[row][:_NAMED]) + more

    absent = [row for row, paths in enumerate(found) if names[row] and not paths]
    several = [row for row, paths in enumerate(found) if len(paths) > 1]
    fix = "Is it below another folder? Name that with --image-root."
    if absent and (folder := files.below(names[absent[0]])):
        fix = f"Images of such names are in {folder}: pass --image-root {folder}."
    return [
        *id_findings(cells, images.column, identities),
        *cells.row_findings(
            "missing-file",
            absent,
            lambda row: f"there is no image {names[row]}",
            f"one image of that path below {files.root}",
            fix,
        ),
        *cells.row_findings(
            "ambiguous-file",
            several,
            lambda row: f"{len(found[row])} files may be meant by {names[row]}: {some(row)}",
            "one image a row",
            "Write the whole name, or a pattern that fits only one of them.",
        ),
    ]


def _sexes(cells: Cells, column: str, female: Sequence[str], male: Sequence[str]) -> list[str]:
    """F or M by the codes, empty where a cell is none of them."""
    known = {**dict.fromkeys(female, "F"), **dict.fromkeys(male, "M")}
    return [known.get(text, "") for text in cells.table[column]]


def _sex_findings(
    cells: Cells, column: str, sexes: Sequence[str], codes: tuple[list[str], list[str]]
) -> list[Finding]:
    texts = cells.table[column]
    female, male = (" or ".join(map(repr, several)) for several in codes)
    return cells.row_findings(
        "unknown-sex",
        [row for row, value in enumerate(sexes) if not value],
        lambda row: f"{column} is {texts[row]!r}" if texts[row] else f"{column} is empty",
        f"{female} (--female) or {male} (--male)",
        "Correct it, or those two options; a sex is never guessed.",
    )


def _split_findings(cells: Cells, column: str | None, splits: Sequence[str]) -> list[Finding]:
    if column is None:
        return []
    texts = cells.table[column]
    return cells.row_findings(
        "unknown-split",
        [row for row, name in enumerate(splits) if not name],
        lambda row: f"{column} is {texts[row]!r}" if texts[row] else f"{column} is empty",
        f"{', '.join(SPLITS[:-1])} or {SPLITS[-1]}",
        "Correct it, or leave --split out for a seeded split.",
    )


def _shared_patient_findings(
    cells: Cells, column: str | None, splits: Sequence[str]
) -> list[Finding]:
    if column is None or not splits:
        return []
    table = cells.table.assign(patient_id=cells.table[column], split=list(splits))
    return patient_findings(replace(cells, table=table[table.columns.unique()]))


def _unprintable_findings(cells: Cells, images: _Images, patient: str | None) -> list[Finding]:
    """Names with NULs, line ends and the like, which a manifest could not hand on as they are."""
    findings = []
    texts = {images.column: images.names}
    if patient is not None:
        texts[patient] = cells.table[patient].tolist()
    for column, values in texts.items():
        findings += cells.row_findings(
            "control-character",
            [row for row, text in enumerate(values) if _has_control(text)],
            lambda row, column=column, values=values: f"{column} is {values[row]!r}",  # type: ignore[misc]
            "text without control characters",
            "Take them out of the cell.",
        )
    return findings


def _has_control(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) == "Cc" for c in text)


def _notes(cells: Cells, age: str, chronological: str | None, patient: str | None) -> list[str]:
    notes = []
    for column in filter(None, (age, chronological)):
        if has_decimal_commas(cells.table[column].tolist()):
            notes.append(f"{column} was read with decimal commas: 10,5 is 10.5.")
    if patient is not None and (empty := int((cells.table[patient] == "").sum())):
        notes.append(f"{empty:,} images have no {patient}: each counts as a patient of its own.")
    return notes
