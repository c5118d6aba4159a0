"""Import RHPE: radiographs of both hands of Colombian children, of which the left one is used.

Files and folders must have the names of the release:

    RHPE_train/00001.png …                              both hands, the left one on the left
    RHPE_Annotations/RHPE_Boneage_train.csv             ID,Male,Boneage,Chronological
    RHPE_Annotations/RHPE_anatomical_ROIs_train.json    COCO: box and 17 keypoints of the left hand

The same with `val`, and with `test` for those who have its hidden labels.
Source: Escobar et al., MICCAI 2019, doi:10.1007/978-3-030-32226-7_59.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.columns import (
    few,
    find_column,
    fold,
    months_cells,
    radiograph_number,
    sex_codes,
    sex_findings,
)
from boneage.datasets.importers.folder import IMAGE_SUFFIXES, files_below, with_suffix
from boneage.datasets.manifest import SPLITS, Manifest, Region, write_manifest
from boneage.datasets.tables import Cells, Finding, missing_column, read_sheet
from boneage.datasets.validation import (
    age_findings,
    chronological_findings,
    id_findings,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError
from boneage.radiographs.reader import read_dimensions

SOURCE = "rhpe"
RADIOGRAPHS = {"train": 5_496, "val": 716, "test": 80}
"""About so many: the paper counts 6,288, and the release has been cleaned since."""
MOST_BYTES = 32 << 20
"""Largest annotation file read; the release's own have some megabytes."""

_TABLES = "RHPE_Annotations"
_COLUMNS = ("ID", "Male", "Boneage", "Chronological")
_IN_MONTHS = "RHPE's ages are in months: multiply by 12."
_HALF_FIX = "Or move the file away: then the left half of each radiograph is used."
_PACKED = (".zip", ".rar", ".7z", ".tar", ".gz")

_POINTS = 17
_FEWEST_POINTS = 9  # fewer keypoints don't span a hand
_MARGIN = 0.05  # of the hand's longer side, added on every side: the box is drawn tight
_BARE_MARGIN = 0.15  # the same without a box: fingertips lie beyond the keypoints
_SLACK = 0.02  # of the radiograph's longer side, for boxes rounded or drawn over its edge
_SMALLEST_SHARE = 0.1  # of the radiograph's longer side; no hand is smaller
_WIDE_SHARE = 0.75  # of the width of a radiograph of two hands
_MISFITS_ALLOWED = (3, 0.05)  # this many, or this share of the annotations

_HALVED = "are cut to the left half of their width: "
_MISFIT = _HALVED + "their annotation is outside the image or has not the shape of a hand"
_TALL = "are cut in halves though taller than wide: check that they show two hands"
_WIDE = "have a region of most of their width: check that it holds one hand"

Box = tuple[float, float, float, float]
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


@dataclass(frozen=True)
class Hand:
    """One annotated hand.

    Attributes:
        extent: Left, top, right, bottom of box and keypoints; None where both are missing.
        has_box: Whether it has a box.
        size: Width and height of the annotated image, where the file names them.
    """

    extent: Box | None
    has_box: bool
    size: tuple[float, float] | None = None


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
            *sex_findings(self.cells, "Male", *sex_codes("Male")),
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
        packed = few(p.name for p in sorted(root.iterdir()) if p.suffix.lower() in _PACKED)
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
            fix=f"Unpack {packed} first."
            if packed
            else "Is the download complete? If the radiograph does not exist, remove the row.",
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
        halved = {note: found for note, found in by_note.items() if note.startswith(_HALVED)}
        count = len(self.regions) - sum(map(len, halved.values()))
        misfits = halved.get(_MISFIT, [])
        allowed, share = _MISFITS_ALLOWED
        if len(misfits) > max(allowed, share * (count + len(misfits))):
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
        months, (codes, _) = numbers(self.cells, "Chronological"), sex_codes("Male")
        if empty := int(np.isnan(months).sum()):
            self.notes.append(f"{self.name}: {empty:,} radiographs have no chronological age.")
        return pd.DataFrame(
            {
                # The split is part of the id: the splits may share numbers.
                "image_id": [f"rhpe-{self.name}-{number.zfill(5)}" for number in self.ids],
                "image": [os.path.relpath(path, base) for path in self.paths],
                "age_months": numbers(self.cells, "Boneage"),
                "sex": [codes[text.lower()] for text in self.cells.table["Male"]],
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
            except InputError as error:
                faults += error.faults
                continue
            found = {column: find_column(cells, [fold(column)]) for column in _COLUMNS}
            faults += [_missing_column(cells, column) for column in found if not found[column]]
            table = cells.table.rename(columns={real: column for column, real in found.items()})
            splits.append(_Split(name, replace(cells, table=table, key="ID")))
        elif name != "test" and (root / f"RHPE_{name}").is_dir():
            what = f"there is a folder RHPE_{name}, but no table {_TABLES}/{path.name}"
            fix = f"Give the table its own name, or move RHPE_{name} away to import without it."
            faults.append(Fault(str(root), what, fix))
    faults += _renamed_files(root)
    if not splits and not faults:
        what = f"there is no table {_TABLES}/RHPE_Boneage_train.csv or RHPE_Boneage_val.csv"
        fix = f"Name the folder that holds {_TABLES}, RHPE_train and RHPE_val."
        faults.append(Fault(str(root), what, fix))
    if faults:
        raise InputError(faults)
    return splits


def _missing_column(cells: Cells, column: str) -> Fault:
    fault = missing_column(cells, column).fault
    if column == "Chronological" and len(cells.table.columns) == 3:
        # RSNA's images, of one hand, must not be cut in halves.
        fix = "RSNA's tables have no such column. For RSNA, use: boneage data import rsna"
        return replace(fault, fix=fix)
    return fault


def _renamed_files(root: Path) -> Iterator[Fault]:
    """Yield the tables and annotations that have no name of the release."""
    known = {f"RHPE_{what}_{name}" for what in ("Boneage", "anatomical_ROIs") for name in SPLITS}
    known.add("RHPE_Gender_Chronological_test")
    for path in with_suffix(sorted((root / _TABLES).glob("[!.]*")), (".csv", ".xlsx", ".json")):
        if path.stem not in known or path.suffix == ".xlsx":
            what = "no file of the release has this name"
            fix = (
                "Give it a name such as RHPE_Boneage_train.csv or RHPE_anatomical_ROIs_train.json,"
            )
            yield Fault(str(path), what, f"{fix} or move it away.")


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
    try:
        if (count := path.stat().st_size) > MOST_BYTES:
            raise InputError(Fault(str(path), f"it has {count:,} bytes, too many for a JSON", fix))
        document = json.loads(path.read_bytes())
        images = [
            (str(entry["id"]), radiograph_number(str(entry["file_name"])), _size(entry))
            for entry in document["images"]
        ]
        annotations = [(str(entry["image_id"]), entry) for entry in document["annotations"]]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(Fault(str(path), f"it can't be read as JSON ({error})", fix)) from None
    except (KeyError, TypeError, AttributeError) as error:
        what = f"it is not a COCO file of keypoints ({type(error).__name__}: {error})"
        raise InputError(Fault(str(path), what, fix)) from None
    known = {identity: (number, size) for identity, number, size in images}
    hands: dict[str, dict[Hand, None]] = {number: {} for number, _ in known.values()}
    strangers = [identity for identity, _ in annotations if identity not in known]
    faults = []
    if len(hands) < len(images):
        what = f"it lists {len(images) - len(hands):,} images twice"
        faults.append(Fault(str(path), what, fix))
    if strangers:
        what = f"{len(strangers):,} annotations are of unlisted images ({few(strangers)})"
        faults.append(Fault(str(path), what, fix))
    if faults:
        raise InputError(faults)
    for identity, entry in annotations:
        number, size = known[identity]
        hands[number][_hand(entry, size)] = None  # the same hand twice is one hand
    return {number: list(several) for number, several in hands.items()}


def _size(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    sides = _numbers([entry.get("width"), entry.get("height")], 2)
    return None if sides is None or sides.min() <= 0 else (float(sides[0]), float(sides[1]))


def _hand(entry: Mapping[str, Any], size: tuple[float, float] | None) -> Hand:
    corners: list[tuple[float, float]] = []
    box = _numbers(entry.get("bbox"), 4)
    has_box = box is not None and box[2] > 0 and box[3] > 0
    if box is not None and has_box:
        corners = [(box[0], box[1]), (box[0] + box[2], box[1] + box[3])]
    flat = _numbers(entry.get("keypoints"), 3 * _POINTS)
    triples = np.zeros((0, 3)) if flat is None else flat.reshape(_POINTS, 3)
    # Visibility 0 is "not labelled", and such a point is at the origin.
    points = [(x, y) for x, y, visible in triples if visible > 0 and (x, y) != (0, 0)]
    if not has_box and len(points) < _FEWEST_POINTS:
        return Hand(None, has_box, size)
    xs, ys = zip(*corners, *points, strict=True)
    return Hand((min(xs), min(ys), max(xs), max(ys)), has_box, size)


def _numbers(values: object, count: int) -> NDArray[np.float64] | None:
    """Return the numbers of a JSON list of that length; None when it is none."""
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.size == count and np.isfinite(array).all() else None


def cut(hands: Sequence[Hand] | None, size: Size) -> tuple[Region, list[str]]:
    """Return the region of the left hand on a radiograph, and what the notes say of it.

    Args:
        hands: Its annotations; None when its split has no annotation file.
        size: Width and height of the radiograph, pixels.
    """
    width, height = size
    extent = None
    if hands is None:
        note = _HALVED + "there is no annotation file"
    elif not hands:
        note = _HALVED + "they have no annotation"
    elif len(hands) > 1:
        note = _HALVED + "they have several different annotations"
    elif hands[0].extent is None:
        note = _HALVED + "their annotation is blank"
    else:
        extent, note = _fit(hands[0], size), _MISFIT
    if extent is None or hands is None:
        half = (0, 0, max(1, width // 2), height)
        return half, [note, *([_TALL] if height > width else [])]
    left, top, right, bottom = extent
    margin = (_MARGIN if hands[0].has_box else _BARE_MARGIN) * max(right - left, bottom - top)
    region = (
        max(0, math.floor(left - margin)),
        max(0, math.floor(top - margin)),
        min(width, math.ceil(right + margin)),
        min(height, math.ceil(bottom + margin)),
    )
    is_wide = width > height and region[2] - region[0] > _WIDE_SHARE * width
    return region, [_WIDE] if is_wide else []


def _fit(hand: Hand, size: Size) -> Box | None:
    """Return the hand's extent in pixels of the radiograph; None if it can't be on it."""
    if hand.extent is None:
        return None
    width, height = size
    annotated = hand.size or size
    across, down = width / annotated[0], height / annotated[1]
    if abs(across / down - 1) > _SLACK:  # annotated on an image of another shape
        return None
    left, top, right, bottom = (across * value for value in hand.extent)
    slack = _SLACK * max(size)
    if left < -slack or top < -slack or right > width + slack or bottom > height + slack:
        return None
    sides = sorted((min(right, width) - max(left, 0), min(bottom, height) - max(top, 0)))
    if sides[1] < _SMALLEST_SHARE * max(size) or 3 * sides[0] < sides[1]:
        return None
    return left, top, right, bottom
