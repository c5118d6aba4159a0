"""List the radiographs to answer: named files, and those below folders at any depth."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from boneage.errors import Fault, InputError
from boneage.prediction.predict import Request
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.radiographs.dicom import SNIFFED_BYTES, is_dicom
from boneage.radiographs.file_limits import LARGEST_FILE
from boneage.runtime.files import open_regular

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})

_HEADER_BYTES = 1024  # of a DICOM file; they hold its SOP class
# Reports, presentation states, key objects, enclosed documents, and the list of a CD.
_WITHOUT_IMAGE = re.compile(rb"1\.2\.840\.10008\.(1\.3\.10|5\.1\.4\.1\.1\.(11|66|88|104)\.)")
# Manufacturer in a Secondary Capture of `boneage.prediction.dicom_output`: explicit or implicit.
_OWN_IMAGE = re.compile(rb"\x08\0\x70\0(LO\x08\0|\x08\0\0\0)boneage ")
_FEW = 5


class RadiographFiles:
    """The radiographs among some paths, in a stable order; each iteration lists them again.

    A named file comes as it is. Below a folder come the files with the suffix of an image, and
    DICOM files whatever their name. Links are followed, each folder once. Files before folders, and
    both by name: so a job that was interrupted finds the same list. One folder is held at a time.

    Attributes:
        skipped: What the latest iteration left out: kinds of files, each with their number.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[str | Fault]:
        """Yield each file, and the fault of each folder that can't be listed."""
        self.skipped = Counter()
        for path in self._paths:
            if _is_folder(path):
                yield from self._below(path, set())
            else:
                yield path

    def describe_skipped(self) -> str:
        """Return how many files were left out, and of which kinds; "" for none."""
        count = self.skipped.total()
        if not count:
            return ""
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in self.skipped.most_common(_FEW))
        more = ", …" if len(self.skipped) > _FEW else ""
        are = "1 file is no radiograph" if count == 1 else f"{count:,} files are no radiographs"
        return f"{are} and left out: {kinds}{more}"

    def _below(self, folder: str, seen: set[str]) -> Iterator[str | Fault]:
        real = os.path.realpath(folder)
        if real in seen:  # a link back up would never end
            return
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                found = sorted((_is_folder(entry.path), entry.name) for entry in entries)
        except OSError as error:
            what = f"the folder can't be listed ({error.strerror})"
            yield Fault(folder, what, "Change its permissions, or move it away.")
            return
        for is_folder, name in found:
            path = os.path.join(folder, name)  # noqa: PTH118 - a Path a file is slow
            if name.startswith((".", "~$")) or name == "__MACOSX":
                self.skipped["hidden"] += 1
            elif is_folder:
                yield from self._below(path, seen)
            elif kind := other_kind(path, name):
                self.skipped[kind] += 1
            else:
                yield path


def _is_folder(path: str) -> bool:
    try:
        return os.path.isdir(path)  # noqa: PTH112
    except ValueError:  # a null character in the name
        return False


def other_kind(path: str, name: str) -> str:
    """Return what a file below a folder is that is no radiograph; "" for a radiograph."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if suffix in IMAGE_SUFFIXES:
        return ""
    kind = "" if suffix in DICOM_SUFFIXES else suffix or "without a suffix"
    try:
        with open_regular(Path(path), LARGEST_FILE) as file:
            start = file.read(_HEADER_BYTES)
    except InputError:
        return kind  # a file of DICOM's suffix is reported when it is opened again
    if not is_dicom(start[:SNIFFED_BYTES], Path(path)):
        return kind
    if _OWN_IMAGE.search(start):
        return "answers of boneage"
    return "DICOM without an image" if _WITHOUT_IMAGE.search(start) else ""


def take_shard(requests: Iterable[Request], number: int, count: int) -> Iterator[Request]:
    """Return the requests of one of several jobs: every `count`-th batch, from batch `number`.

    Whole batches, so that a network computes the same ones as in a single job, and the answers are
    the same to the bit.

    Args:
        requests: All requests.
        number: Number of the job, from 1.
        count: Number of jobs.
    """
    return (
        request
        for index, request in enumerate(requests)
        if index // BATCH_SIZE % count == number - 1
    )
