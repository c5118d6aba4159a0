"""DICOM radiographs as a PACS exports them, and a table of bone ages, to a manifest that names nobody.

No name, birth date, number or UID of a header or of the table is written or said: patients and
radiographs get pseudonyms, ages whole months, and a path that tells who the child is is refused.
What identifies is that of PS3.15, Annex E (basic confidentiality profile).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from boneage.datasets.importers.ages import UNITS
from boneage.datasets.importers.dicom_checks import radiograph_findings, radiograph_notes
from boneage.datasets.importers.dicom_export import write_pixels
from boneage.datasets.importers.dicom_headers import (
    DicomFiles,
    DicomRadiograph,
    patients_of,
    read_radiographs,
)
from boneage.datasets.importers.dicom_labels import JOINS, Columns, Readings, match, read_readings
from boneage.datasets.importers.folder import files_below
from boneage.datasets.importers.pseudonyms import (
    Pseudonyms,
    is_private,
    make_salt,
    read_salt,
    salt_beside,
)
from boneage.datasets.manifest import Manifest, assign_splits, write_manifest
from boneage.datasets.validation import INFANTS, YEARS_LOOK
from boneage.errors import Fault, InputError

_LAYOUT = "a folder of DICOM files, or DICOM files"
_IN_PLACE = (
    "The manifest refers to the DICOM files, and those still say who was filmed. For radiographs that "
    "may be handed on, import with --films FOLDER."
)


def import_dicom(
    paths: Sequence[Path],
    out: Path,
    *,
    ages: Path,
    age: str,
    age_unit: str,
    join: str = "SOPInstanceUID",
    join_column: str | None = None,
    sex: str | None = None,
    female: str | Sequence[str] = "F",
    male: str | Sequence[str] = "M",
    split: str | None = None,
    sheet: str | None = None,
    listing: Path | None = None,
    radiographs: Path | None = None,
    salt: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Manifest:
    """Makes a manifest of DICOM radiographs and a table of bone ages, and pseudonyms of who was filmed.

    Args:
        paths: Folders, walked at any depth, and files.
        out: The manifest to write.
        ages: CSV, TSV, Excel or Parquet with a row for each radiograph; radiographs without a row
            are left out, and counted.
        age: Column with the bone age.
        age_unit: `months`, `years`, `days` or `years-months` (10y6m).
        join: What names a row's radiograph: `SOPInstanceUID`, `AccessionNumber` or `file` (a name
            or the end of a path, with or without `.dcm`).
        join_column: Column that holds it; found by its name if None.
        sex: Column with the sex, for radiographs whose headers lack it; PatientSex if None.
        female: What that column holds for a girl, to the letter; several if it holds several.
        male: What it holds for a boy.
        split: Column with train, val (or validation) and test; if None, a seeded 80/10/10 split
            is made, by patient, alike in age and sex.
        sheet: Worksheet of a workbook; if None, the only one.
        listing: Text file with a path on each line (relative to it), besides `paths`.
        radiographs: Folder for copies that hold nothing but pixels, `<pseudonym>.png`; if None, the
            manifest refers to the DICOM files where they are.
        salt: File with the key of the pseudonyms; if None, `<out>.salt`, made once and kept.
        seed: Of the split.
        progress: Show progress on standard error.

    Returns:
        The manifest, with notes on what was left out and what should be looked at.

    Raises:
        InputError: An option, the table or the radiographs are wrong (all faults at once). Nothing
            is left behind.
    """
    out = Path(out)
    girl, boy = ([code] if isinstance(code, str) else list(code) for code in (female, male))
    columns = Columns(age, age_unit, join, join_column, sex, girl, boy, split)
    _check_options(columns, paths, listing, salt, radiographs)
    readings = read_readings(Path(ages), columns, sheet=sheet)
    places, named = _gather(paths, listing, progress=progress)
    base = out.parent.resolve()
    found = read_radiographs(places, base, progress=progress)
    matched = match(readings, found.radiographs, join, _hint(found))
    used = [radiograph for radiograph in matched.radiographs if radiograph is not None]
    findings = [
        *readings.findings,
        *matched.findings,
        *radiograph_findings(readings, matched.radiographs, in_place=radiographs is None),
    ]
    faults = [finding.fault for finding in findings]
    faults += [_no_dicom(path) for path in found.strangers if path in named]
    if len(used) < len(
        matched.radiographs
    ):  # one of the broken ones may be the radiograph that lacks
        faults += found.broken
    if faults:
        raise InputError(faults)
    notes = list(radiograph_notes(readings, used, found, matched))
    if radiographs is None:
        notes.append(_IN_PLACE)
    return _Writer(out, base, radiographs, salt, seed, progress).write(
        readings, used, columns, notes
    )


@dataclass(frozen=True)
class _Writer:
    """Gives the radiographs their pseudonyms and writes what is to be written, all of it or nothing."""

    out: Path
    base: Path
    radiographs: Path | None
    salt: Path | None
    seed: int
    progress: bool

    def write(
        self,
        readings: Readings,
        radiographs: Sequence[DicomRadiograph],
        columns: Columns,
        notes: Sequence[str],
    ) -> Manifest:
        place = salt_beside(self.out) if self.salt is None else self.salt
        made = self.salt is None and make_salt(place)
        written: list[Path] = []
        try:
            names = Pseudonyms(read_salt(place))
            ids = [names.radiograph(radiograph.instance) for radiograph in radiographs]
            if self.radiographs is not None:
                rows = [f"{readings.cells.where}: row {row}" for row in readings.cells.rows]
                written = write_pixels(
                    radiographs, ids, self.radiographs, rows, progress=self.progress
                )
            table, source = self._table(readings, radiographs, ids, names, columns)
            return write_manifest(
                table.assign(source=source),
                self.out,
                notes=[*notes, *_salt_notes(place, made=made, split=columns.split is None)],
            )
        except BaseException:  # Ctrl-C, too, leaves nothing behind
            for path in (*written, *([place] if made else [])):
                path.unlink(missing_ok=True)
            raise

    def _table(
        self,
        readings: Readings,
        radiographs: Sequence[DicomRadiograph],
        ids: Sequence[str],
        names: Pseudonyms,
        columns: Columns,
    ) -> tuple[pd.DataFrame, str]:
        patients = [
            names.patient(issuer, identifier) if identifier else ""
            for issuer, identifier in patients_of(radiographs)
        ]
        table = pd.DataFrame(
            {
                "image_id": ids,
                "image": self._images(radiographs, ids),
                "age_months": readings.months,
                "sex": [radiograph.sex for radiograph in radiographs]
                if readings.sexes is None
                else readings.sexes,
            }
        )
        if any(patients):
            table["patient_id"] = patients
        months = [radiograph.age.months for radiograph in radiographs]
        if any(age is not None for age in months):
            known = ["" if age is None else str(age) for age in months]
            table["chronological_age_months"] = known
        source = ["dicom"]
        if readings.months.max() <= YEARS_LOOK:  # not in months, or it would be refused
            source.append(INFANTS)
        if readings.splits is None:
            source.append("seeded split")
            table = assign_splits(table, seed=self.seed)
        else:
            table["split"] = readings.splits
        # In the order of the pseudonyms: that of the table may be the order of a waiting list.
        return table.sort_values("image_id", ignore_index=True), ", ".join(source)

    def _images(self, radiographs: Sequence[DicomRadiograph], ids: Sequence[str]) -> list[str]:
        if self.radiographs is None:
            return [os.path.relpath(radiograph.path, self.base) for radiograph in radiographs]
        folder = self.radiographs.resolve()
        return [os.path.relpath(folder / f"{name}.png", self.base) for name in ids]


def _salt_notes(place: Path, *, made: bool, split: bool) -> list[str]:
    notes = [
        f"Pseudonyms follow from {place}{', made now' if made else ''}: keep it to import again "
        f"with the same ones{' and the same split' if split else ''}, keep it private, and never "
        f"hand it on with the manifest: with it, pseudonyms can be traced back to patients."
    ]
    if not is_private(place):
        notes.append(f"{place} can be read by others on this machine: run chmod 600 on it.")
    return notes


def _check_options(
    columns: Columns,
    paths: Sequence[Path],
    listing: Path | None,
    salt: Path | None,
    radiographs: Path | None,
) -> None:
    faults = []
    if not paths and listing is None:
        faults.append(Fault("PATH", "there is none", "Name one, or pass --list.", expected=_LAYOUT))
    for option, noun, value, known in (
        ("--join", "join", columns.join, tuple(JOINS)),
        ("--age-unit", "unit", columns.age_unit, UNITS),
    ):
        if value not in known:
            close = difflib.get_close_matches(value, known, n=1, cutoff=0.3)
            fix = f"Did you mean {close[0]!r}?" if close else "Name one of these."
            faults.append(
                Fault(option, f"unknown {noun} {value!r}", fix, expected=", ".join(known))
            )
    both = [code for code in columns.female if code in columns.male]
    codes = (columns.female, columns.male)
    if columns.sex is not None and (both or not all(codes) or not all((*codes[0], *codes[1]))):
        faults.append(
            Fault(
                "--female and --male",
                f"both are {both[0]!r}" if both else "one of them is empty",
                "Give two different values; an empty cell is an unknown sex.",
                expected="what the table holds for girls, and what for boys",
            )
        )
    if salt is not None:
        try:
            read_salt(salt)
        except InputError as error:
            faults += error.faults
    if radiographs is not None and radiographs.exists() and not radiographs.is_dir():
        what = "it is a file"
        faults.append(
            Fault(f"--films {radiographs}", what, "Name another.", expected="a folder to write to")
        )
    if faults:
        raise InputError(faults)


def _gather(
    paths: Sequence[Path], listing: Path | None, *, progress: bool
) -> tuple[list[Path], set[Path]]:
    """Every file meant, once, in order; and those that were named one by one."""
    faults: list[Fault] = []
    found: set[Path] = set()
    named: set[Path] = set()
    listed = [] if listing is None else _listed(listing)
    places = [(str(path), Path(path)) for path in paths]
    places += [(f"{listing}: line {line}", path) for line, path in listed]
    for where, path in places:
        try:
            if path.is_dir():
                found.update(files_below(path, progress=progress, layout=_LAYOUT))
                continue
            there = path.exists()
        except InputError as error:  # such a folder may bear a child's name
            count = len(error.faults)
            what = f"{count:,} folder{'s' if count > 1 else ''} in it can't be looked into"
            fix = "Change permissions, or move away what may not be read."
            faults.append(Fault(where, what, fix, expected="folders that may be read"))
            continue
        except (OSError, ValueError):  # a name that no file system takes
            there = False
        if not there:
            faults.append(
                Fault(where, "there is no such file", "Check the path.", expected=_LAYOUT)
            )
            continue
        named.add(path.parent.resolve() / path.name)  # a link keeps its own name
    if faults:
        raise InputError(faults)
    return sorted(found | named), named


def _listed(listing: Path) -> list[tuple[int, Path]]:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(
            Fault(
                f"--list {listing}",
                f"it can't be read ({reason})",
                "Check the path; save it as UTF-8.",
                expected="a text file with a path on each line",
            )
        ) from None
    return [
        (number, listing.parent / line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _no_dicom(path: Path) -> Fault:
    return Fault(
        str(path), "it is not a DICOM file", "Export it from the PACS.", expected="a DICOM film"
    )


def _hint(found: DicomFiles) -> str:
    """What may explain that a radiograph is missing; archives are often named after the patient."""
    archives = [path for path in found.strangers if path.suffix.lower() in (".zip", ".7z", ".iso")]
    if archives:
        count = f"{len(archives):,} archive{'s' if len(archives) > 1 else ''}"
        return f"Unpack the {count} (.zip, .7z, .iso) among the files first."
    if not found.radiographs:
        return "There is no DICOM radiograph at all: is it the folder that was exported to?"
    if found.broken:
        return f"Is it one of the {len(found.broken):,} DICOM files that can't be read?"
    return ""
