"""RHPE, hand radiographs of both hands from two Colombian hospitals, to a manifest of left hands.

The layout is found by content: tables with an id, a bone age in months and a sex, radiographs named
by those ids, and keypoint annotations, at any depth. Only the split has to stand in a name
(`train`, `val` or `test`, of a file or a folder that it is in), because nothing inside says it.
Source: Escobar et al., MICCAI 2019, doi:10.1007/978-3-030-32226-7_59.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from boneage.datasets.importers.columns import months_cells, months_column
from boneage.datasets.importers.folder import TABLE_SUFFIXES, files_below, with_suffix
from boneage.datasets.importers.rhpe_annotations import (
    Hand,
    RegionTally,
    cut,
    misfit_fault,
    read_annotations,
    settle_misfits,
)
from boneage.datasets.importers.rhpe_files import Radiographs, claimed_twice, read_sizes
from boneage.datasets.importers.rhpe_labels import (
    LAYOUT,
    Labels,
    find_labels,
    label_findings,
    split_fault,
    split_of,
)
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.tables.cells import Finding
from boneage.datasets.validation import numbers
from boneage.errors import Fault, InputError

SOURCE = "rhpe"
RADIOGRAPHS = {"train": 5_496, "val": 716, "test": 80}
"""About so many: the paper counts 6,288 in all, and the release has been cleaned since."""


def import_rhpe(folder: Path, out: Path, *, progress: bool = True) -> Manifest:
    """Makes a manifest of RHPE's left hands; images stay where they are, and whole.

    The splits are the official ones. The labels of the test radiographs are hidden, so they are
    left out unless a table with their ages is there. The left hand stands in the column `region`:
    from the keypoint annotations where there are some, else the left half of the radiograph.

    Args:
        folder: Holds the tables, the radiographs and, best, the annotations, at any depth.
        out: The manifest to write; refers to the images by relative path.
        progress: Show progress on standard error.

    Returns:
        The manifest, with notes on counts, on radiographs left out and on how hands were cut out.

    Raises:
        InputError: There is no such layout, or labels, radiographs or annotations are wrong (all at
            once).
    """
    files = files_below(folder, progress=progress, layout=LAYOUT)
    root = Path(folder).resolve()
    tables, notes = find_labels(with_suffix(files, TABLE_SUFFIXES), root)
    radiographs = Radiographs(files, root)
    hands, annotation_faults = _find_annotations(files, root)
    findings: list[Finding] = []
    chosen: list[list[Path | None]] = []
    for labels in tables:
        paths = radiographs.choose(labels)
        chosen.append(paths)
        findings += [*label_findings(labels), *radiographs.findings(labels, paths)]
    findings += claimed_twice(tables, chosen)
    sizes, size_faults = read_sizes(
        [path for paths in chosen for path in paths if path is not None], progress=progress
    )
    regions: list[list[str]] = []
    for labels, paths in zip(tables, chosen, strict=True):
        cells, region_notes, faults = _regions(labels, paths, sizes, hands)
        regions.append(cells)
        notes += region_notes
        annotation_faults += faults
    faults = [finding.fault for finding in findings] + annotation_faults + size_faults
    if faults:
        raise InputError(faults)
    base = Path(out).parent.resolve()
    table = pd.concat(
        [
            _rows(labels, paths, cells, base)
            for labels, paths, cells in zip(tables, chosen, regions, strict=True)
        ],
        ignore_index=True,
    )
    notes = [
        *_count_notes(tables),
        *notes,
        *radiographs.left_out(
            {path for paths in chosen for path in paths}, {t.split for t in tables}
        ),
    ]
    return write_manifest(table, Path(out), notes=notes)


def _rows(
    labels: Labels, paths: Sequence[Path | None], regions: Sequence[str], base: Path
) -> pd.DataFrame:
    columns: dict[str, object] = {
        # The split is in the id, because nothing says that the splits don't share numbers.
        "image_id": [f"rhpe-{labels.split}-{number.zfill(5)}" for number in labels.numbers()],
        "image": [os.path.relpath(path, base) for path in paths if path is not None],
        "age_months": numbers(labels.cells, labels.age),
        "sex": labels.sexes(),
        "split": labels.split,
        "chronological_age_months": months_cells(months_column(labels.cells, labels.chronological)),
        "region": regions,
        "source": SOURCE,
    }
    return pd.DataFrame(columns)


_Annotations = dict[str, tuple[str, dict[str, list[Hand]]]]


def _find_annotations(files: Sequence[Path], root: Path) -> tuple[_Annotations, list[Fault]]:
    """The annotations of each split, and the file they are from."""
    found: _Annotations = {}
    faults: list[Fault] = []
    for path in with_suffix(files, (".json",)):
        answer = read_annotations(path)
        if answer is None:
            continue
        hands, wrong = answer
        faults += wrong
        split = split_of(path, root)
        if split is None:  # radiographs of two splits may have the same number
            faults.append(split_fault(str(path), "RHPE_anatomical_ROIs_train.json"))
            continue
        if split in found:
            what = f"{Path(found[split][0]).relative_to(root)} holds annotations of {split} too"
            faults.append(
                Fault(str(path), what, "Move one away.", expected="one file for each split")
            )
            continue
        found[split] = (str(path), hands)
    return found, faults


def _regions(
    labels: Labels,
    paths: Sequence[Path | None],
    sizes: Mapping[Path, tuple[int, int]],
    annotations: _Annotations,
) -> tuple[list[str], list[str], list[Fault]]:
    """The column `region` of one split, notes on it, and faults of the annotations."""
    where, hands = annotations.get(labels.split, ("", None))
    tally = RegionTally()
    by_number: dict[str, tuple[int, int]] = {}
    regions: list[str] = []
    for number, path in zip(labels.numbers(), paths, strict=True):
        if path is None or path not in sizes:
            continue  # a fault already
        by_number[number] = sizes[path]
        radiograph_hands = None if hands is None else hands.get(number, [])
        region = cut(number, radiograph_hands, sizes[path], tally)
        regions.append(" ".join(map(str, region)))
    if tally.too_many_misfits():
        return regions, [], [misfit_fault(where, tally, by_number)]
    settle_misfits(tally)
    return regions, list(tally.notes(labels.split)), []


def _count_notes(tables: Sequence[Labels]) -> Iterator[str]:
    counts = {labels.split: len(labels.cells.table) for labels in tables}
    for split, count in counts.items():
        yield f"{split}: {count:,} labelled radiographs; the release has about {RADIOGRAPHS[split]:,}."
    for split in ("train", "val"):
        if split not in counts:
            yield f"There is no table of {split}; the release has about {RADIOGRAPHS[split]:,} radiographs."
    for labels in tables:
        ages = months_column(labels.cells, labels.chronological)
        if empty := int(np.isnan(ages).sum()):
            yield f"{labels.split}: {empty:,} radiographs have no chronological age."
