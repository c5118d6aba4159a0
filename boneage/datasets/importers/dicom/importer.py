"""Import DICOM radiographs and a table of bone ages as PNG images and a manifest that names nobody.

Nothing that identifies a child is written or shown: no name, date, number, UID or path of the
hospital. Patients and radiographs get pseudonyms, and ages are whole months. What identifies is
that of DICOM PS3.15, Annex E (basic confidentiality profile).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from boneage.datasets.importers.dicom.checks import (
    patients_of,
    radiograph_findings,
    radiograph_notes,
)
from boneage.datasets.importers.dicom.files import find_files, read_headers
from boneage.datasets.importers.dicom.labels import Labels, LabelTable, match, read_labels
from boneage.datasets.importers.dicom.pixels import write_images
from boneage.datasets.importers.dicom.pseudonyms import (
    Pseudonyms,
    is_private,
    make_salt,
    read_salt,
)
from boneage.datasets.label_rules import INFANTS, is_probably_years
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.splits import assign_splits
from boneage.errors import Fault, InputError
from boneage.radiographs.dicom_headers import DicomHeader


def import_dicom(
    paths: Sequence[Path],
    out: Path,
    *,
    labels: LabelTable,
    listing: Path | None = None,
    salt: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Manifest:
    """Write a manifest of DICOM radiographs, and their pixels as PNG files under pseudonyms.

    Args:
        paths: Folders, searched at any depth, and files.
        out: The manifest to write. The images go to the folder `<name>-images` next to it.
        labels: The table with a row for each radiograph. Radiographs without a row are left out
            and counted.
        listing: Text file with one path on each line (relative to it), in addition to `paths`.
        salt: File with the key of the pseudonyms; None for `<out>.salt`, created once.
        seed: Seed of the split, unless the table has one.
        progress: Show progress on standard error.

    Returns:
        The manifest. Its notes say what was left out and what should be checked.

    Raises:
        InputError: An option, the table or the radiographs are wrong (all faults at once). Nothing
            is left behind.
    """
    out = Path(out)
    _check_options(paths, listing, labels, salt, images_folder(out))
    table = read_labels(labels)
    where, named = find_files(paths, listing, progress=progress)
    files = read_headers(where, progress=progress)
    matched = match(table, files.headers, labels.join, files.hint())
    headers = [header for header in matched.headers if header is not None]
    findings = [
        *table.findings,
        *matched.findings,
        *radiograph_findings(table, matched.headers),
    ]
    faults = [finding.fault for finding in findings]
    faults += [
        Fault(where[path], "the file is not DICOM", "Export it from the PACS.")
        for path in files.not_dicom
        if path in named
    ]
    if len(headers) < len(matched.headers):  # a broken file may be the missing radiograph
        faults += files.broken
    if faults:
        raise InputError(faults)
    notes = list(radiograph_notes(table, headers, files, matched))

    salt_file = salt or out.with_name(f"{out.name}.salt")
    is_new_salt = salt is None and make_salt(salt_file)
    notes += _salt_notes(salt_file, is_new=is_new_salt, splits=table.splits is None)
    new_files = [salt_file] if is_new_salt else []
    try:
        names = Pseudonyms(read_salt(salt_file))
        manifest = _manifest_table(table, headers, names, images_folder(out).name, seed)
        targets = [
            images_folder(out) / f"{names.radiograph(header.instance_uid)}.png"
            for header in headers
        ]
        new_files += [path for path in targets if not path.exists()]
        rows = [f"{table.cells.where}: row {row}" for row in table.cells.rows]
        write_images([header.path for header in headers], targets, rows, progress=progress)
        return write_manifest(manifest, out, notes=notes)
    except BaseException:  # Ctrl-C leaves nothing behind, either
        for path in new_files:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            images_folder(out).rmdir()  # only if it is empty
        raise


def images_folder(out: Path) -> Path:
    """Return the folder for the images of a manifest: `cohort-images` next to `cohort.csv`."""
    return out.with_name(f"{out.stem}-images")


def _manifest_table(
    labels: Labels, headers: Sequence[DicomHeader], names: Pseudonyms, folder: str, seed: int
) -> pd.DataFrame:
    ids = [names.radiograph(header.instance_uid) for header in headers]
    table = pd.DataFrame(
        {
            "image_id": ids,
            "image": [f"{folder}/{name}.png" for name in ids],
            "age_months": labels.months,
            "sex": labels.sexes or [header.sex for header in headers],
        }
    )
    patients = [
        names.patient(issuer, patient_id) if patient_id else ""
        for issuer, patient_id in patients_of(headers)
    ]
    if any(patients):
        table["patient_id"] = patients
    months = [header.age.months for header in headers]
    if any(age is not None for age in months):
        table["chronological_age_months"] = ["" if age is None else str(age) for age in months]
    source = ["dicom"]
    if is_probably_years(labels.months):  # the unit was not months, or this would be refused
        source.append(INFANTS)
    if labels.splits is None:
        source.append("seeded split")
        table = assign_splits(table, seed=seed)
    else:
        table["split"] = labels.splits
    # In the order of the pseudonyms: the table's order may be that of a waiting list.
    return table.assign(source=", ".join(source)).sort_values("image_id", ignore_index=True)


def _salt_notes(salt: Path, *, is_new: bool, splits: bool) -> list[str]:
    what = "pseudonyms and the same split" if splits else "pseudonyms"
    notes = [
        f"The key of the pseudonyms is in {salt}{' (created now)' if is_new else ''}. Keep it to "
        f"get the same {what} again. Keep it private, and never share it with the manifest: it "
        "traces pseudonyms back to patients."
    ]
    if not is_private(salt):
        notes.append(f"Other users of this machine can read {salt}. Run chmod 600 on it.")
    return notes


def _check_options(
    paths: Sequence[Path],
    listing: Path | None,
    labels: LabelTable,
    salt: Path | None,
    folder: Path,
) -> None:
    faults = []
    if not paths and listing is None:
        what, fix = (
            "no file and no folder is named",
            "Name a folder of DICOM files, or pass --list.",
        )
        faults.append(Fault("PATH", what, fix))
    faults += labels.faults()
    if salt is not None:
        try:
            read_salt(salt)
        except InputError as error:
            faults += error.faults
    if folder.exists() and not folder.is_dir():
        what, fix = "the images need a folder of this name", "Remove the file, or change --out."
        faults.append(Fault(str(folder), what, fix))
    if faults:
        raise InputError(faults)
