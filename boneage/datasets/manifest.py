"""The manifest: one CSV with a row for every image."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.label_rules import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    SPLITS,
    Region,
    image_path,
    parse_region,
)
from boneage.datasets.validation import ManifestValidation, validate_manifest
from boneage.errors import Fault, InputError
from boneage.runtime.files import read_bytes, write_bytes


@dataclass(frozen=True, eq=False)
class Manifest:
    """A dataset whose table has been checked.

    Attributes:
        path: The CSV file.
        table: The required columns, then the optional and further columns of the file, in the
            file's row order; ids are str, ages float64 in months.
        digest: sha256 of the file's bytes, hexadecimal.
        notes: What an importer reports that is not a fault.
    """

    path: Path
    table: pd.DataFrame
    digest: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def split_digest(self) -> str:
        """Return the digest of ids, splits and labels, whatever the rows' order and the paths.

        It is the sha256, hexadecimal, of the sorted lines `["ID","SPLIT","AGE","SEX"]` in UTF-8,
        one for each image, each with a newline. AGE has at most 10 significant digits.
        """
        columns = (self.table[name] for name in ("image_id", "split", "age_months", "sex"))
        lines = sorted(
            json.dumps([key, split, f"{age:.10g}", sex], ensure_ascii=False, separators=(",", ":"))
            for key, split, age, sex in zip(*columns, strict=True)
        )
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()

    def image_paths(self) -> list[Path]:
        """Return the absolute path of every image, in row order."""
        folder = self.path.parent.resolve()
        return [image_path(folder, name) for name in self.table["image"]]

    def regions(self) -> list[Region | None]:
        """Return the part of each radiograph that is used, in row order; None for all of it."""
        if "region" not in self.table:
            return [None] * len(self)
        return [parse_region(text) for text in self.table["region"]]

    def split(self, name: str) -> Manifest:
        """Return the rows of one split, as a manifest of the same file.

        Args:
            name: `train`, `val` or `test`.

        Raises:
            InputError: There is no split of that name, or no image in it.
        """
        if name not in SPLITS:
            close = difflib.get_close_matches(name, SPLITS, n=1)
            fix = f"Did you mean {close[0]!r}?" if close else "Use one of these."
            expected = f"{', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
            raise InputError(Fault("split", f"unknown split {name!r}", fix, expected))
        rows = self.table[self.table["split"] == name].reset_index(drop=True)
        if rows.empty:
            fix = "Assign some images to it in the column split."
            raise InputError(Fault(str(self.path), f"no row has split {name!r}", fix))
        return replace(self, table=rows)

    def gender(self) -> NDArray[np.float32]:
        """Return the sexes as float32 (n, 1), 1.0 = male."""
        return np.array(self.table["sex"] == "M", np.float32)[:, None]

    def age_months(self) -> NDArray[np.float32]:
        """Return the labelled bone ages as float32 (n, 1), in months."""
        return np.array(self.table["age_months"], np.float32)[:, None]


def describe_split_digest(digest: str) -> str:
    """Return the line that shows a split digest to people."""
    return f"split digest: {digest} (ids, splits, ages and sexes)"


def read_manifest(path: Path) -> Manifest:
    """Return a manifest whose whole table was checked; images must exist but are not opened.

    Args:
        path: The CSV file.

    Raises:
        InputError: The file can't be read, or any row of it is wrong (all faults at once).
    """
    path = Path(path)
    return build_manifest(path, validate_manifest(read_bytes(path), path))


def write_manifest(table: pd.DataFrame, path: Path, *, notes: Sequence[str] = ()) -> Manifest:
    """Check a table as `read_manifest` would, then write it in one step.

    Args:
        table: At least the required columns; `image` relative to the folder that `path` is in.
        path: The file to write; missing folders are made, an older file is replaced.
        notes: Notes for the manifest that is returned.

    Returns:
        The manifest as it was written.

    Raises:
        InputError: The table is wrong, or the file can't be written. Nothing is left behind.
    """
    path = Path(path)
    first = [name for name in (*COLUMNS, *OPTIONAL_COLUMNS) if name in table]
    ordered = table[[*first, *(name for name in table if name not in first)]].copy()
    for name in ("age_months", "chronological_age_months"):
        if name in ordered:
            ordered[name] = [
                f"{value:.10g}" if isinstance(value, int | float | np.number) else value
                for value in ordered[name]
            ]
            ordered[name] = ordered[name].replace("nan", "")
    content = ordered.to_csv(index=False, lineterminator="\n").encode()
    manifest = build_manifest(path, validate_manifest(content, path))
    write_bytes(path, content)
    return replace(manifest, notes=tuple(notes))


def build_manifest(path: Path, validation: ManifestValidation) -> Manifest:
    """Return the manifest whose table was checked.

    Raises:
        InputError: Any row of it is wrong (all faults at once).
    """
    if validation.findings:
        raise InputError([finding.fault for finding in validation.findings])
    table = validation.cells.table.copy()
    table["age_months"] = validation.ages
    if "chronological_age_months" in table:
        table["chronological_age_months"] = validation.chronological_ages
    return Manifest(path, table, validation.digest)
