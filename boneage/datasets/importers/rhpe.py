"""Import RHPE: radiographs of both hands of Colombian children, of which the left one is used.

Files and folders must have the names of the release:

    RHPE_train/00001.png …                              both hands, the left one on the left
    RHPE_Annotations/RHPE_Boneage_train.csv             ID,Male,Boneage,Chronological
    RHPE_Annotations/RHPE_anatomical_ROIs_train.json    COCO: the box of the left hand

The same with `val`, and with `test` for those who have its hidden labels.
Source: Escobar et al., MICCAI 2019, doi:10.1007/978-3-030-32226-7_59.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from boneage.datasets.cells import Cells, Finding, missing_column
from boneage.datasets.importers.columns import (
    few,
    find_column,
    months_cells,
    radiograph_number,
    sex_findings,
)
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, files_below, with_suffix
from boneage.datasets.label_rules import SPLITS, Region
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.sex_codes import fold, read_sexes
from boneage.datasets.tables import read_sheet
from boneage.datasets.validation import (
    age_findings,
    chronological_findings,
    id_findings,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError
from boneage.radiographs.reader import read_dimensions
from boneage.runtime.files import read_bytes

SOURCE = "rhpe"
RADIOGRAPHS = {"train": 5_496, "val": 716, "test": 80}
"""About so many: the paper counts 6,288, and the release has been cleaned since."""

_TABLES = "RHPE_Annotations"
_COLUMNS = ("ID", "Male", "Boneage", "Chronological")
_IN_MONTHS = "RHPE's ages are in months: multiply by 12."
_HALF_FIX = "Or move the file away: then the left half of each radiograph is used."

_MARGIN = 0.05  # of the hand's longer side, added on every side: the box is drawn tight
_SLACK = 0.02  # of the radiograph's longer side, for boxes rounded or drawn over its edge
_SMALLEST_SHARE = 0.1  # of the radiograph's longer side; no hand is smaller
_WIDE_SHARE = 0.75  # of the width of a radiograph of two hands
_MOST_MISFITS = 0.05  # of the annotations of a split

_HALVED = "are cut to the left half of their width: "
_MISFIT = _HALVED + "their annotation is outside the image or has not the shape of a hand"
_TALL = "are cut in halves though taller than wide: check that they show two hands"
_WIDE = "have a region of most of their width: check that it holds one hand"

Size = tuple[int, int]


def import_rhpe(folder: Path, out: Path, *, progress: bool = True) -> Manifest:
    """Write a manifest of RHPE's left hands. The images stay where they are, and whole.

    The splits are the official ones. The column `region` holds the left hand: from the keypoint
    annotations where there are any, else the left half of the radiograph.

    Args:
        folder: Holds the folders of the release, under their own names.
        out: The manifest to write. It refers to the images by relative path.
        progress: Show progress on standard error.

    Returns:
        The manifest. Its notes name counts, images left out, and how hands were cut out.

    Raises:
        InputError: The layout is another one, or labels, radiographs or annotations are wrong
            (all at once).
    """
    root = Path(folder).resolve()
    splits = _find_splits(root)
    faults: list[Fault] = []
    for split in splits:
        findings = [*split.label_findings(), *split.find_images(root, progress=progress)]
        faults += [finding.fault for finding in findings]
        faults += split.find_regions(root, progress=progress)
    if faults:
        raise InputError(faults)
    base = Path(out).parent.resolve()
    table = pd.concat([split.rows(base) for split in splits], ignore_index=True)
    notes = [*_count_notes(splits), *(n for s in splits for n in s.notes), *_test_notes(root)]
    return write_manifest(table, Path(out), notes=notes)


class Hand(NamedTuple):
    """One annotated hand: left, top, right, bottom, and the size of the image if it is known."""

    box: tuple[float, float, float, float]
    size: Size | None = None


@dataclass
class _Split:
    """The labels of one split (columns `_COLUMNS`), and image and region of each row."""

    name: str
    cells: Cells
    paths: list[Path] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [radiograph_number(text) for text in self.cells.table["ID"]]

    def label_findings(self) -> list[Finding]:
        """Return everything that is wrong with the labels."""
        ages, months = (numbers(self.cells, name) for name in ("Boneage", "Chronological"))
        return [
            *self.cells.findings,
            *id_findings(self.cells, "ID", self.ids),
            *age_findings(self.cells, "Boneage", ages),
            *years_findings(self.cells, "Boneage", ages, _IN_MONTHS),
            *sex_findings(self.cells, "Male"),
            *chronological_findings(self.cells, "Chronological", months),
            *years_findings(self.cells, "Chronological", months, _IN_MONTHS),
        ]

    def find_images(self, root: Path, *, progress: bool) -> list[Finding]:
        """Find the image of each row, and return the rows that have none or several."""
        folder = root / f"RHPE_{self.name}"
        files = files_below(folder, progress=progress) if folder.is_dir() else []
        images: dict[str, list[Path]] = {}
        for path in with_suffix(files, IMAGE_SUFFIXES):
            images.setdefault(radiograph_number(path.name), []).append(path)
        found = [images.get(number, []) for number in self.ids]
        names = [f"RHPE_{self.name}/{number.zfill(5)}.png" for number in self.ids]
        self.paths = [paths[0] for paths in found if len(paths) == 1]
        labelled = set(self.ids)
        rest = [name for name in images if name not in labelled]
        if rest:
            self.notes.append(
                f"{len(rest):,} {self.name} radiographs have no row in a table and are left out "
                f"({few(rest)})."
            )
        return self.cells.row_findings(
            "missing-file",
            [row for row, paths in enumerate(found) if self.ids[row] and not paths],
            lambda row: f"there is no radiograph {names[row]}",
            expected="",
            fix="Is the download complete? If the radiograph does not exist, remove the row.",
        ) + self.cells.row_findings(
            "ambiguous-image",
            [row for row, paths in enumerate(found) if len(paths) > 1],
            lambda row: (
                "several files have its number: "
                + ", ".join(str(path.relative_to(root)) for path in found[row])
            ),
            expected="",
            fix="Move the others away.",
        )

    def find_regions(self, root: Path, *, progress: bool) -> list[Fault]:
        """Find the left hand on each image, and return the faults of images and annotations."""
        path = root / _TABLES / f"RHPE_anatomical_ROIs_{self.name}.json"
        faults: list[Fault] = []
        hands: dict[str, list[Hand]] | None = None
        if path.is_file():
            try:
                hands = read_annotations(path)
            except InputError as error:
                faults += error.faults
        by_note: dict[str, list[str]] = {}
        console, what = Console(stderr=True), f"Reading image sizes of {self.name}"
        for image in track(self.paths, what, console=console, disable=not progress):
            number = radiograph_number(image.name)
            try:
                size = read_dimensions(image)
            except InputError as error:
                faults += error.faults
                continue
            region, notes = cut(None if hands is None else hands.get(number, []), size)
            self.regions.append(region)
            for note in notes:
                by_note.setdefault(note, []).append(number)
        count = len(self.regions) - sum(
            len(found) for note, found in by_note.items() if note.startswith(_HALVED)
        )
        misfits = by_note.get(_MISFIT, [])
        if len(misfits) > _MOST_MISFITS * (count + len(misfits)):
            what = (
                f"{len(misfits):,} of {count + len(misfits):,} annotations don't fit their "
                f"radiographs ({few(misfits)})"
            )
            fix = f"Were the radiographs resized? Use the original ones. {_HALF_FIX}"
            faults.append(Fault(str(path), what, fix))
        if count:
            self.notes.append(f"{self.name}: {count:,} left hands are cut out by annotations.")
        self.notes += [
            f"{self.name}: {len(found):,} radiographs {note} ({few(found)})."
            for note, found in by_note.items()
        ]
        return faults

    def rows(self, base: Path) -> pd.DataFrame:
        """Return the rows of the manifest, with image paths relative to `base`."""
        months = numbers(self.cells, "Chronological")
        if empty := int(np.isnan(months).sum()):
            self.notes.append(f"{self.name}: {empty:,} radiographs have no chronological age.")
        return pd.DataFrame(
            {
                # The split is part of the id: the splits may share numbers.
                "image_id": [f"rhpe-{self.name}-{number.zfill(5)}" for number in self.ids],
                "image": [os.path.relpath(path, base) for path in self.paths],
                "age_months": numbers(self.cells, "Boneage"),
                "sex": read_sexes("Male", self.cells.table["Male"].tolist()),
                "split": self.name,
                "chronological_age_months": months_cells(months),
                "region": [" ".join(map(str, region)) for region in self.regions],
                "source": SOURCE,
            }
        )


def _find_splits(root: Path) -> list[_Split]:
    """Read the table of each split that has one.

    Raises:
        InputError: A table can't be read, a column is missing, or a name is not the release's.
    """
    splits, faults = list[_Split](), list[Fault]()
    for name in SPLITS:
        path = root / _TABLES / f"RHPE_Boneage_{name}.csv"
        if path.exists():
            try:
                cells = read_sheet(path, key="ID")
                found = {column: find_column(cells, [fold(column)]) for column in _COLUMNS}
            except InputError as error:
                faults += error.faults
                continue
            faults += [missing_column(cells, name).fault for name in found if not found[name]]
            cells = cells.using(found.values())
            table = cells.table.rename(columns={real: column for column, real in found.items()})
            splits.append(_Split(name, replace(cells, table=table, key="ID")))
        elif name != "test" and (root / f"RHPE_{name}").is_dir():
            what = f"there is a folder RHPE_{name}, but no table {_TABLES}/{path.name}"
            fix = f"Give the table its own name, or move RHPE_{name} away to import without it."
            faults.append(Fault(str(root), what, fix))
    if not splits and not faults:
        what = f"there is no table {_TABLES}/RHPE_Boneage_train.csv or RHPE_Boneage_val.csv"
        fix = f"Name the folder that holds {_TABLES}, RHPE_train and RHPE_val."
        faults.append(Fault(str(root), what, fix))
    if faults:
        raise InputError(faults)
    return splits


def _count_notes(splits: Sequence[_Split]) -> Iterator[str]:
    names = [split.name for split in splits]
    for split in splits:
        count, release = len(split.cells.table), RADIOGRAPHS[split.name]
        yield f"{split.name}: {count:,} labelled radiographs; the release has about {release:,}."
    for name in ("train", "val"):
        if name not in names:
            yield f"There is no {name} set; that of the release has about {RADIOGRAPHS[name]:,}."


def _test_notes(root: Path) -> Iterator[str]:
    test = root / "RHPE_test"
    if test.is_dir() and not (root / _TABLES / "RHPE_Boneage_test.csv").exists():
        count = len(with_suffix(files_below(test, progress=False), IMAGE_SUFFIXES))
        yield (
            f"{count:,} test radiographs are left out: their labels are hidden. "
            "Challenge 2297 on eval.ai scores predictions."
        )


def read_annotations(path: Path) -> dict[str, list[Hand]]:
    """Return the annotated hands of every radiograph of a COCO file, by radiograph number.

    Raises:
        InputError: The file can't be read, or it is no such file.
    """
    fix = f"Download the file again. {_HALF_FIX}"
    numbers: dict[str, str] = {}
    sizes: dict[str, Size | None] = {}
    hands: dict[str, list[Hand]] = {}
    try:
        document = json.loads(read_bytes(path))
        for image in document["images"]:
            key, number = str(image["id"]), radiograph_number(str(image["file_name"]))
            numbers[key] = number
            sizes[key] = (image["width"], image["height"]) if "width" in image else None
            hands[number] = []
        for annotation in document["annotations"]:
            key = str(annotation["image_id"])
            left, top, width, height = map(float, annotation["bbox"])
            if width > 0 and height > 0:  # else the annotation is blank
                hand = Hand((left, top, left + width, top + height), sizes[key])
                hands[numbers[key]].append(hand)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(Fault(str(path), f"it can't be read as JSON ({error})", fix)) from None
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        what = f"it is not a COCO file of hands ({type(error).__name__}: {error})"
        raise InputError(Fault(str(path), what, fix)) from None
    return hands


def cut(hands: Sequence[Hand] | None, size: Size) -> tuple[Region, list[str]]:
    """Return the region of the left hand on a radiograph, and what the notes say of it.

    Args:
        hands: Its annotations; None when its split has no annotation file.
        size: Width and height of the radiograph, pixels.
    """
    width, height = size
    if hands is None:
        reason = _HALVED + "there is no annotation file"
    elif len(hands) != 1:
        reason = _HALVED + "they have no annotation, or several"
    elif not _is_hand(hands[0], size):
        reason = _MISFIT
    else:
        left, top, right, bottom = hands[0].box
        margin = _MARGIN * max(right - left, bottom - top)
        region = (
            max(0, math.floor(left - margin)),
            max(0, math.floor(top - margin)),
            min(width, math.ceil(right + margin)),
            min(height, math.ceil(bottom + margin)),
        )
        is_wide = width > height and region[2] - region[0] > _WIDE_SHARE * width
        return region, [_WIDE] if is_wide else []
    return (0, 0, max(1, width // 2), height), [reason, *([_TALL] if height > width else [])]


def _is_hand(hand: Hand, size: Size) -> bool:
    """Return whether a box has the shape of a hand and is on a radiograph of this size."""
    left, top, right, bottom = hand.box
    slack = _SLACK * max(size)
    is_inside = min(left, top) >= -slack and right <= size[0] + slack and bottom <= size[1] + slack
    shorter, longer = sorted((right - left, bottom - top))
    is_large = longer >= _SMALLEST_SHARE * max(size) and 3 * shorter >= longer
    return hand.size in (None, size) and is_inside and is_large
