"""The RSNA 2017 bone age challenge, as Kaggle or the challenge itself ships it, to a manifest.

Both layouts are found by content, not by folder names: tables with an id, a bone age in months and
a sex (`rsna_labels` tells which of them labels which split), and images named by those ids at any
depth below the folder (`rsna_files`).
Source: Halabi et al., Radiology 2019;290:498-503, doi:10.1148/radiol.2018180736.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from boneage.datasets.importers.columns import few
from boneage.datasets.importers.folder import TABLE_SUFFIXES, files_below, with_suffix
from boneage.datasets.importers.rsna_files import Radiographs
from boneage.datasets.importers.rsna_labels import (
    SPLIT_WORDS,
    TEST_IDS,
    Found,
    Labels,
    count_note,
    find_labels,
)
from boneage.datasets.manifest import Manifest, assign_splits, write_manifest
from boneage.datasets.tables.cells import Finding
from boneage.errors import InputError

OFFICIAL_SOURCE = "rsna-official"
KAGGLE_SOURCE = "rsna-kaggle"
SEEDED_SOURCE = "rsna-seeded"

_LAYOUT = (
    "boneage-training-dataset.csv (id,boneage,male) and its images <id>.png below this folder, "
    "or the challenge's own archives unpacked below it"
)
_SHARE = 0.1


def import_rsna(folder: Path, out: Path, *, seed: int = 0, progress: bool = True) -> Manifest:
    """Makes a manifest of the challenge's images; they stay where they are.

    The official validation and test sets are kept as they are. Where one or both are absent (as
    Kaggle ships neither), a tenth of the training images each, alike in age and sex, stands in for
    them; `source` and the notes say so.

    Args:
        folder: Holds the tables and, nested as deep as they may be, the images.
        out: The manifest to write; refers to the images by relative path.
        seed: Of such a split.
        progress: Show progress on standard error.

    Returns:
        The manifest, with notes on counts, on what is not official and on what was left out.

    Raises:
        InputError: There is no such layout, or labels or images are wrong (all at once).
    """
    root = Path(folder).resolve()
    files = files_below(Path(folder), progress=progress, layout=_LAYOUT)
    tables = [p for p in with_suffix(files, (*TABLE_SUFFIXES, ".xls")) if p.name[:2] != "~$"]
    found = find_labels(tables, root, _LAYOUT)
    radiographs = Radiographs(files, root)
    radiographs.compare_copies(
        {name for each in found.labels.values() for name in each.ids()}, progress=progress
    )
    _refuse_faults(found.labels, radiographs)
    table = _cut_missing_splits(_joined(found, radiographs, Path(out)), found, seed)
    notes = [
        *found.notes,
        *_left_out_notes(found, radiographs),
        *radiographs.copies_note(),
        *(count_note(split, len(labels.ids())) for split, labels in found.labels.items()),
        *_split_notes(found, seed),
    ]
    return write_manifest(table, Path(out), notes=notes)


def _refuse_faults(labels: Mapping[str, Labels], radiographs: Radiographs) -> None:
    absent = [split for split in SPLIT_WORDS if split not in labels]
    faults = radiographs.packed_tables(absent)
    for split, each in labels.items():
        findings = [
            *each.findings(),
            *_shared_id_findings(split, labels),
            *radiographs.findings(each),
        ]
        faults += [finding.fault for finding in findings]
    if faults:
        raise InputError(faults)


def _shared_id_findings(split: str, labels: Mapping[str, Labels]) -> list[Finding]:
    """Ids that an earlier split has too: in the challenge no id is in two of them."""
    before = list(labels)[: list(labels).index(split)]
    home = {
        name: labels[other].path.name for other in reversed(before) for name in labels[other].ids()
    }
    ids = labels[split].ids()
    return labels[split].cells.row_findings(
        "id-in-two-splits",
        [row for row, name in enumerate(ids) if name and name in home],
        lambda row: f"id {ids[row]} stands in {home[ids[row]]} too",
        "each id in one split",
        "Take it out of one of them; the challenge's own tables share no id.",
    )


def _joined(found: Found, radiographs: Radiographs, out: Path) -> pd.DataFrame:
    base = out.parent.resolve()
    parts = [
        pd.DataFrame(
            {
                "image_id": each.ids(),
                "image": [
                    os.path.relpath(radiographs.path(name, each.path), base) for name in each.ids()
                ],
                "age_months": each.ages(),
                "sex": each.sexes(),
                "split": split,
                "source": OFFICIAL_SOURCE,
            }
        )
        for split, each in found.labels.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _cut_missing_splits(table: pd.DataFrame, found: Found, seed: int) -> pd.DataFrame:
    """Takes what stands in for absent splits from the training images, never from the others."""
    absent = [split for split in ("val", "test") if split not in found.labels]
    if not absent or "train" not in found.labels:
        return table
    if len(absent) == 2:
        source = KAGGLE_SOURCE if _is_kaggle(found) else SEEDED_SOURCE
        return assign_splits(table, seed=seed).assign(source=source)
    fractions = (1 - _SHARE, _SHARE, 0.0) if absent == ["val"] else (1 - _SHARE, 0.0, _SHARE)
    is_train = table["split"] == "train"
    cut = assign_splits(table[is_train], seed=seed, fractions=fractions)
    stand_in = cut["split"] != "train"
    cut.loc[stand_in, "source"] = f"{SEEDED_SOURCE}-{absent[0]}"
    return pd.concat([cut, table[~is_train]], ignore_index=True)


def _is_kaggle(found: Found) -> bool:
    names = [found.labels["train"].path.name, *(Path(table).name for table in found.unlabelled)]
    return any(name.startswith(("boneage-training", "boneage-test")) for name in names)


def _left_out_notes(found: Found, radiographs: Radiographs) -> Iterator[str]:
    for table in found.unlabelled:
        yield (
            f"{table} has no ages, so nothing can be tested on it, though Kaggle calls it a test "
            f"set: it is left out."
        )
    rest = radiographs.without_row({name for each in found.labels.values() for name in each.ids()})
    if rest:
        tables = ", ".join(each.path.name for each in found.labels.values())
        yield f"{len(rest):,} images have no row in {tables} and are left out ({few(rest)})."
    if "test" not in found.labels and any(n.isdecimal() and int(n) in TEST_IDS for n in rest):
        yield (
            f"Images {TEST_IDS[0]} to {TEST_IDS[-1]} are the official test set. Put its ages, "
            f"'Bone age ground truth.xlsx' of the challenge's own test archive, below the folder, "
            f"and they will be tested on."
        )


def _split_notes(found: Found, seed: int) -> Iterator[str]:
    absent = [SPLIT_WORDS[split] for split in ("val", "test") if split not in found.labels]
    if "train" not in found.labels:
        yield "There is no training set here: this manifest is good for evaluating only."
    elif not absent:
        yield "Training, validation and test are the challenge's own."
    elif len(absent) == 2:
        yield (
            f"There is no official validation or test set here (Kaggle ships neither): the split "
            f"is cut from the training images (seed {seed}), and its errors don't compare with "
            f"published test errors."
        )
    else:
        yield (
            f"There is no official {absent[0]} set here: a tenth of the training images stands in "
            f"for it (seed {seed}), and what is measured on that doesn't compare with published "
            f"{absent[0]} errors. The rest is the challenge's own."
        )
