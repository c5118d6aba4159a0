"""Find the DICOM radiographs among the files of an export.

A path can hold a patient's name, so no path below a folder is ever shown. A message says
`export: file 17 of 20`, counted in alphabetical order, instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.folder import files_below
from boneage.errors import Fault, InputError
from boneage.radiographs.dicom import is_dicom, quiet_pydicom
from boneage.radiographs.dicom_headers import DicomHeader, read_dicom_header
from boneage.runtime.files import open_regular, read_text

_ARCHIVES = (".zip", ".7z", ".iso")
_DICOMDIR = "1.2.840.10008.1.3.10"
_START = 132  # the preamble and the letters DICM


@dataclass
class DicomFiles:
    """What the files are.

    Attributes:
        headers: The headers of DICOM files that hold an image, in the order of their paths.
        broken: Why other DICOM files can't be used.
        not_dicom: Files that are not DICOM.
        directories: Number of DICOMDIR files.
        without_image: Number of reports, presentation states and the like.
    """

    headers: list[DicomHeader] = field(default_factory=list)
    broken: list[Fault] = field(default_factory=list)
    not_dicom: list[Path] = field(default_factory=list)
    directories: int = 0
    without_image: int = 0

    def hint(self) -> str:
        """Return what may explain that a radiograph is missing; "" if nothing does."""
        archives = sum(path.suffix.lower() in _ARCHIVES for path in self.not_dicom)
        if archives:
            noun = "archive" if archives == 1 else "archives"
            return f"Unpack the {archives:,} {noun} (.zip, .7z, .iso) among the files first."
        if not self.headers:
            return "There is no DICOM radiograph at all. Is this the exported folder?"
        if self.broken:
            return f"Is it one of the {len(self.broken):,} DICOM files that can't be read?"
        return ""


def find_files(
    paths: Sequence[Path], listing: Path | None, *, progress: bool = True
) -> tuple[dict[Path, str], set[Path]]:
    """Find every file once: those below the folders, and those named one by one.

    Args:
        paths: Folders and files.
        listing: Text file with one path on each line, relative to the file; None for no list.
        progress: Show progress on standard error.

    Returns:
        What messages call each file, in the order of the paths; and the files named one by one,
        which must be DICOM.

    Raises:
        InputError: A path does not exist, or a folder can't be read.
    """
    faults: list[Fault] = []
    where: dict[Path, str] = {}
    named: set[Path] = set()
    asked = [(str(path), Path(path)) for path in paths]
    if listing is not None:
        asked += [(f"{listing}: line {line}", path) for line, path in _listed(listing)]
    for name, path in asked:
        try:
            if path.is_dir():
                below = files_below(path, progress=progress)
                for number, file in enumerate(below, start=1):
                    where.setdefault(file, f"{name}: file {number:,} of {len(below):,}")
                continue
            exists = path.exists()
        except InputError as error:  # the name of such a folder may be a child's name
            count = len(error.faults)
            what = f"{count:,} folder{'s' if count > 1 else ''} below it can't be read"
            faults.append(Fault(name, what, "Change the permissions, or move the folder away."))
            continue
        except (OSError, ValueError):  # a name that no file system accepts
            exists = False
        if exists:
            file = path.parent.resolve() / path.name  # a link keeps its own name
            where[file] = name
            named.add(file)
        else:
            faults.append(Fault(name, "the file does not exist", "Check the path."))
    if faults:
        raise InputError(faults)
    return {path: where[path] for path in sorted(where)}, named


def _listed(listing: Path) -> list[tuple[int, Path]]:
    numbered = enumerate(read_text(listing).splitlines(), start=1)
    return [(number, listing.parent / line.strip()) for number, line in numbered if line.strip()]


def read_headers(where: Mapping[Path, str], *, progress: bool = True) -> DicomFiles:
    """Read the headers of those files that are DICOM; no pixel is decoded.

    Args:
        where: What messages call each file.
        progress: Show progress on standard error.
    """
    files = DicomFiles()
    console = Console(stderr=True)
    for path in track(where, "Reading headers", console=console, disable=not progress):
        try:
            with open_regular(path, sys.maxsize) as file:
                start = file.read(_START)
        except InputError as error:
            if path.is_file():
                files.broken += [replace(fault, where=where[path]) for fault in error.faults]
            else:  # a link without a target, a pipe or a device
                files.not_dicom.append(path)
            continue
        except OSError as error:
            what = f"the file can't be read ({error.strerror})"
            files.broken.append(Fault(where[path], what, "Copy it again."))
            continue
        if not is_dicom(start, path):
            files.not_dicom.append(path)
            continue
        try:
            files.headers.append(read_dicom_header(path))
        except InputError as error:
            name, storage = _storage_class(path)
            if storage == _DICOMDIR:
                files.directories += 1
            elif storage != name and name.endswith("Storage") and "Image" not in name:
                files.without_image += 1
            else:
                files.broken += [replace(fault, where=where[path]) for fault in error.faults]
    return files


def _storage_class(path: Path) -> tuple[str, str]:
    """Return what kind of object a DICOM file claims to be: the standard's name and its UID."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import UID

    try:
        with quiet_pydicom():
            uid = UID(str(read_file_meta_info(path).get("MediaStorageSOPClassUID", "")))
            return uid.name, str(uid)
    except (InvalidDicomError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return "", ""
