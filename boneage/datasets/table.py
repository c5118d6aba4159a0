"""Anybody's table of radiographs, with its own column names, unit and codes, to a manifest."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.delimited import Cells, Finding, missing_column, read_bytes, read_cells
from boneage.datasets.examination import (
    INFANTS,
    MOST_MONTHS,
    YEARS_LOOK,
    age_findings,
    id_findings,
    image_path,
    is_file,
    numbers,
    patient_findings,
    years_findings,
)
from boneage.datasets.manifest import SPLITS, Manifest, assign_splits, write_manifest
from boneage.errors import Fault, InputError

UNITS = ("months", "years")
MOST_YEARS = MOST_MONTHS / 12

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def import_table(
    file: Path,
    out: Path,
    *,
    image: str,
    age: str,
    age_unit: str,
    sex: str,
    female: str,
    male: str,
    image_root: Path | None = None,
    patient: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Manifest:
    """Makes a manifest of a CSV or TSV file; the images stay where they are.

    Args:
        file: The table, UTF-8, separated by commas, tabs or semicolons.
        out: The manifest to write; refers to the images by relative path.
        image: Column with each image's path; a suffix such as `.png` may be left out where only
            one image is meant.
        age: Column with the bone age.
        age_unit: `months` or `years`.
        sex: Column with the sex.
        female: What that column holds for a girl, to the letter.
        male: What it holds for a boy.
        image_root: Folder that the image paths start from; the table's own if None.
        patient: Column that tells patients apart, if there is one.
        split: Column with train, val (or validation) and test; if None, a seeded 80/10/10 split
            is made, by patient, alike in age and sex.
        seed: Of that split.

    Raises:
        InputError: An option, the table or the images are wrong (all faults at once).
    """
    file, out = Path(file), Path(out)
    _check_options(age_unit, female, male, image_root)
    cells = read_cells(read_bytes(file), str(file), delimiter=None, key=image)
    wanted = {"image": image, "age": age, "sex": sex, "patient": patient, "split": split}
    absent = [
        _missing_option(cells, option, name)
        for option, name in wanted.items()
        if name is not None and name not in cells.table
    ]
    if absent:  # without the columns, faults of the rows would be half the story
        raise InputError([finding.fault for finding in (*cells.findings, *absent)])
    root = Path(image_root or file.parent).resolve()
    paths = [_image_file(root, name) for name in cells.table[image]]
    months, age_faults = _ages(cells, age, age_unit)
    sexes = [{female: "F", male: "M"}.get(text, "") for text in cells.table[sex]]
    splits = [] if split is None else [_SPLIT_WORDS.get(t.lower(), "") for t in cells.table[split]]
    findings = [
        *cells.findings,
        *id_findings(cells, image, _identities(cells.table[image], paths)),
        *_image_findings(cells, image, root, paths),
        *age_faults,
        *_sex_findings(cells, sex, female, male),
        *_split_findings(cells, split, splits),
        *_shared_patient_findings(cells, patient, splits),
    ]
    if findings:
        raise InputError([finding.fault for finding in findings])
    base = out.parent.resolve()
    columns: dict[str, Sequence[object] | NDArray[np.float64]] = {
        "image_id": _image_ids(cells.table[image].tolist()),
        "image": [os.path.relpath(path, base) for path in paths if path is not None],
        "age_months": months,
        "sex": sexes,
    }
    if patient is not None:
        columns["patient_id"] = cells.table[patient].tolist()
    table = pd.DataFrame(columns)
    source, notes = [file.stem], []
    if months.max() <= YEARS_LOOK:  # said in the source, or the manifest would be refused
        source.append(INFANTS)
        notes.append(
            f"No age passes {months.max():.4g} months: infants all, since {age} is in years "
            "as --age-unit says."
        )
    if split is None:  # said in the source, so that a report can say it
        source.append("seeded split")
        table = assign_splits(table, seed=seed)
    else:
        table = table.assign(split=splits)
    return write_manifest(table.assign(source=", ".join(source)), out, notes=notes)


def _check_options(age_unit: str, female: str, male: str, image_root: Path | None) -> None:
    faults = []
    if age_unit not in UNITS:
        close = difflib.get_close_matches(age_unit, UNITS, n=1, cutoff=0.3)
        fix = f"Did you mean {close[0]!r}?" if close else "Say which of the two the ages are in."
        faults.append(Fault("--age-unit", f"unknown unit {age_unit!r}", "months or years", fix))
    if female == male:
        faults.append(
            Fault(
                "--female and --male",
                f"both are {female!r}",
                "what the table holds for girls, and what for boys",
                "Give two different values.",
            )
        )
    if image_root is not None and not Path(image_root).is_dir():
        what = f"there is no folder {image_root}"
        faults.append(Fault("--image-root", what, "the images' folder", "Check the path."))
    if faults:
        raise InputError(faults)


def _missing_option(cells: Cells, option: str, name: str) -> Finding:
    finding = missing_column(cells, name)
    where = f"{cells.where} (--{option} {name})"
    return replace(finding, fault=replace(finding.fault, where=where))


def _image_file(root: Path, name: str) -> Path | None:
    """The image meant, or None when there is none, or more than one it could be."""
    if not name:
        return None
    path = image_path(root, name)
    if is_file(path):
        return path
    completed = [Path(f"{path}{suffix}") for suffix in _SUFFIXES]
    found = [candidate for candidate in completed if is_file(candidate)]
    return found[0] if len(found) == 1 else None


def _identities(names: pd.Series[str], paths: Sequence[Path | None]) -> list[str]:
    """Two spellings of one file are the same image."""
    return [
        str(path) if path is not None else name for name, path in zip(names, paths, strict=True)
    ]


def _image_findings(
    cells: Cells, column: str, root: Path, paths: Sequence[Path | None]
) -> list[Finding]:
    names = cells.table[column]
    return cells.row_findings(
        "missing-file",
        [row for row, path in enumerate(paths) if path is None and names[row]],
        lambda row: f"there is no image {names[row]}",
        f"one image of that path below {root}",
        "Is it below another folder? Name that with --image-root.",
    )


def _ages(cells: Cells, column: str, unit: str) -> tuple[NDArray[np.float64], list[Finding]]:
    ages = numbers(cells, column)
    if unit == "months":
        return ages, age_findings(cells, column, ages) + years_findings(cells, column, ages)
    texts = cells.table[column]
    findings = cells.row_findings(
        "bad-age",
        np.flatnonzero(np.isnan(ages)),
        lambda row: f"{column} is {texts[row]!r}" if texts[row] else f"{column} is empty",
        "a number of years",
        "Write years with a decimal point, such as 10.5 for 10 years and 6 months.",
    )
    findings += cells.row_findings(
        "months-as-years",
        np.flatnonzero((ages < 0) | (ages > MOST_YEARS)),
        lambda row: f"{column} is {texts[row]}",
        f"years from 0 to {MOST_YEARS:g}, and this column's median is "
        + (f"{np.nanmedian(ages):.4g}" if not np.isnan(ages).all() else "unknown"),
        "Is it in months? Pass --age-unit months; else correct the label.",
    )
    return ages * 12, findings


def _sex_findings(cells: Cells, column: str, female: str, male: str) -> list[Finding]:
    texts = cells.table[column]
    return cells.row_findings(
        "unknown-sex",
        np.flatnonzero(~texts.isin([female, male])),
        lambda row: f"{column} is {texts[row]!r}" if texts[row] else f"{column} is empty",
        f"{female!r} (--female) or {male!r} (--male)",
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


def _image_ids(names: Sequence[str]) -> list[str]:
    """The shortest of file stem, path without suffix and path that tells all images apart."""
    bare = [name[: -len(suffix)] if suffix else name for name, suffix in _suffixes(names)]
    for ids in ([PurePath(name).name for name in bare], bare):
        if len(set(ids)) == len(ids):
            return ids
    return list(names)


def _suffixes(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each name with the image suffix it ends in; `film.1` ends in none."""
    suffixes = (PurePath(name).suffix for name in names)
    return [
        (name, suffix if suffix.lower() in _SUFFIXES else "")
        for name, suffix in zip(names, suffixes, strict=True)
    ]
