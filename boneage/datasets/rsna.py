"""The RSNA 2017 bone age challenge, as Kaggle ships it, to a manifest.

The layout is found by content, not by folder names: one table with an id, a bone age in months and
a sex, and images named by those ids at any depth below the folder.
Source: Halabi et al., Radiology 2019;290:498-503, doi:10.1148/radiol.2018180736.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from boneage.datasets.delimited import Cells, Finding, missing_column, read_bytes, read_cells
from boneage.datasets.examination import age_findings, id_findings, numbers, years_findings
from boneage.datasets.manifest import Manifest, assign_splits, write_manifest
from boneage.errors import Fault, InputError

SOURCE = "rsna-kaggle"
TRAINING_IMAGES = 12_611

_ID_HEADERS = ("id", "image_id", "case_id", "filename")
_AGE_HEADERS = ("boneage", "bone_age", "bone_age_months", "ground_truth_bone_age_months")
_SEX_HEADERS = ("male", "sex", "gender")
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
# 1 is male only in a column called so: under "sex" somebody's 1 is a girl.
_MALE_FLAGS = {"true": "M", "1": "M", "false": "F", "0": "F"}
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_LAYOUT = "boneage-training-dataset.csv (id,boneage,male) and its images <id>.png below this folder"


@dataclass(frozen=True)
class _Labels:
    """A table of ids, ages and sexes, and which of its columns they are."""

    cells: Cells
    age: str
    sex: str

    def ids(self) -> list[str]:
        return [_plain_id(value) for value in self.cells.table[self.cells.key]]


def import_rsna(folder: Path, out: Path, *, seed: int = 0, progress: bool = True) -> Manifest:
    """Makes a manifest of the Kaggle layout; images stay where they are.

    Kaggle ships neither the official validation nor the test set, so a seeded 80/10/10 split,
    stratified by age and sex, is cut from the training images; the notes say so.

    Args:
        folder: Holds `boneage-training-dataset.csv` and, nested as deep as it may be, its images.
        out: The manifest to write; refers to the images by relative path.
        seed: Of the split.
        progress: Show progress on standard error.

    Returns:
        The manifest, with notes on counts and on images that have no label.

    Raises:
        InputError: There is no such layout, or labels or images are wrong (all at once).
    """
    root = Path(folder).resolve()
    files = _files(Path(folder), root, progress=progress)
    labels, notes = _find_labels([path for path in files if path.suffix.lower() == ".csv"], root)
    images = _by_stem(path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES)
    ids = labels.ids()
    ages = numbers(labels.cells, labels.age)
    sexes = [_sex(text, labels.sex) for text in labels.cells.table[labels.sex]]
    findings = [
        *labels.cells.findings,
        *id_findings(labels.cells, labels.cells.key, ids),
        *age_findings(labels.cells, labels.age, ages),
        *years_findings(labels.cells, labels.age, ages),
        *_sex_findings(labels, sexes),
        *_image_findings(labels, ids, images, files, root),
    ]
    if findings:
        raise InputError([finding.fault for finding in findings])
    base = Path(out).parent.resolve()
    table = pd.DataFrame(
        {
            "image_id": ids,
            "image": [os.path.relpath(images[name][0], base) for name in ids],
            "age_months": ages,
            "sex": sexes,
            "source": SOURCE,
        }
    )
    notes += [
        *_unlabelled_note(set(ids), images, labels.cells.where),
        _count_note(len(ids)),
        f"Kaggle ships no official validation or test set: the split is cut from the training "
        f"images (seed {seed}), and its errors don't compare with published test errors.",
    ]
    return write_manifest(assign_splits(table, seed=seed), Path(out), notes=notes)


def _files(folder: Path, root: Path, *, progress: bool) -> list[Path]:
    if not root.is_dir():
        what = "it is not a folder" if root.exists() else "there is no such folder"
        raise InputError(Fault(str(folder), what, _LAYOUT, "Check the path."))
    found = _walk(root)
    if progress:
        console = Console(stderr=True)
        found = iter(track(found, description=f"Looking through {root.name}", console=console))
    return sorted(found)


def _walk(root: Path) -> Iterator[Path]:
    seen = set()
    for here, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_litter(name)]
        yield from (Path(here, name) for name in names if not _is_litter(name))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _find_labels(tables: Sequence[Path], root: Path) -> tuple[_Labels, list[str]]:
    found: list[_Labels] = []
    others: list[Cells] = []
    notes: list[str] = []
    broken: list[Fault] = []
    unread: list[str] = []
    for path in tables:
        try:
            cells = read_cells(read_bytes(path), str(path), delimiter=None)
        except InputError as error:
            broken += error.faults
            unread.append(str(path.relative_to(root)))
            continue
        names = [_header(cells, known) for known in (_ID_HEADERS, _AGE_HEADERS, _SEX_HEADERS)]
        match names:
            case [str() as key, str() as age, str() as sex]:
                found.append(_Labels(replace(cells, key=key), age, sex))
            case [str(), None, str()] if len(cells.table.columns) == 2:
                notes.append(
                    f"{path.relative_to(root)} has no ages: what Kaggle calls its test set can't "
                    f"be tested on, and is left out."
                )
            case _:
                others.append(cells)
    if len(found) == 1:
        if unread:
            used = Path(found[0].cells.where).relative_to(root)
            notes.append(f"{', '.join(unread)} can't be read; the labels are those of {used}.")
        return found[0], notes
    if found:
        listed = ", ".join(str(Path(labels.cells.where).relative_to(root)) for labels in found)
        raise InputError(
            Fault(
                str(root),
                f"{len(found)} tables hold ids, ages and sexes: {listed}",
                "one, as in the Kaggle layout",
                "Name the folder of one of them, or move the others away.",
            )
        )
    raise InputError(broken + _no_labels(others, root))


def _no_labels(others: Sequence[Cells], root: Path) -> list[Fault]:
    faults: list[Fault] = []
    for cells in others:
        if "training" in Path(cells.where).name.lower() or len(others) == 1:
            for known in (_ID_HEADERS, _AGE_HEADERS, _SEX_HEADERS):
                if _header(cells, known) is None:
                    faults.append(missing_column(cells, known[0]).fault)
    return faults or [
        Fault(
            str(root),
            "there is no table with an id, a bone age and a sex in it",
            _LAYOUT,
            "Is it the folder that the download was unpacked to?",
        )
    ]


def _header(cells: Cells, known: Sequence[str]) -> str | None:
    folded = {
        re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_"): str(name)
        for name in cells.table.columns
    }
    return next((folded[name] for name in known if name in folded), None)


def _plain_id(text: str) -> str:
    """1377 for `1377`, `1377.png` and `1377.0`, all of which spreadsheets make of an id."""
    return re.sub(r"(\.png|\.0)$", "", text, flags=re.IGNORECASE)


def _sex(text: str, column: str) -> str:
    codes = _SEXES | (_MALE_FLAGS if column.strip().lower() == "male" else {})
    return codes.get(text.lower(), "")


def _sex_findings(labels: _Labels, sexes: Sequence[str]) -> list[Finding]:
    texts = labels.cells.table[labels.sex]
    flags = labels.sex.strip().lower() == "male"
    return labels.cells.row_findings(
        "unknown-sex",
        np.flatnonzero(np.array(sexes) == ""),
        lambda row: f"{labels.sex} is {texts[row]!r}",
        "True (boy) or False (girl)" if flags else "M or F",
        "Correct it; a sex is never guessed.",
    )


def _by_stem(paths: Iterator[Path]) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    return stems


def _image_findings(
    labels: _Labels,
    ids: Sequence[str],
    images: dict[str, list[Path]],
    files: Sequence[Path],
    root: Path,
) -> list[Finding]:
    archives = [str(path.relative_to(root)) for path in files if path.suffix.lower() == ".zip"]
    absent = labels.cells.row_findings(
        "missing-file",
        [row for row, name in enumerate(ids) if name and name not in images],
        lambda row: f"there is no image {ids[row]}.png",
        f"one below {root}",
        f"Unpack {', '.join(archives[:3])} first."
        if archives
        else "Is the download complete and unpacked? If the film does not exist, remove the row.",
    )
    return absent + labels.cells.row_findings(
        "ambiguous-image",
        [row for row, name in enumerate(ids) if len(images.get(name, ())) > 1],
        lambda row: (
            "several files have its name: "
            + ", ".join(str(path.relative_to(root)) for path in images[ids[row]])
        ),
        f"one image of each id below {root}",
        "Name the folder that holds one copy, or move the others away.",
    )


def _unlabelled_note(
    labelled: set[str], images: dict[str, list[Path]], where: str
) -> Iterator[str]:
    rest = [name for name in images if name not in labelled]
    if rest:
        yield (
            f"{len(rest):,} images have no row in {Path(where).name} and are left out "
            f"({', '.join(rest[:5])}{', …' if len(rest) > 5 else ''})."
        )


def _count_note(count: int) -> str:
    if count == TRAINING_IMAGES:
        return f"All {TRAINING_IMAGES:,} training images of the challenge."
    return f"{count:,} labelled images; the challenge's training set has {TRAINING_IMAGES:,}."
