"""The limits of a radiograph file: a regular file, of limited size, with sensible dimensions."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from boneage.errors import Fault, InputError
from boneage.runtime.files import open_regular, read_bytes

SMALLEST_SIDE = 16
LARGEST_SIDE = 20_000
# A radiograph of 24 x 30 cm, digitised at 50 micrometres, has 29 megapixels. No hand needs more.
# The largest flat panels have 18.
LARGEST_PIXELS = 30_000_000
LARGEST_FILE = 256 * 2**20  # bytes: those pixels in 16-bit RGB, not compressed
SAVE_AS_PNG = "Save it as a grey PNG of 8 or 16 bits, with one image in the file."

# A radiograph's header takes some hundreds of reads, and the pixels of DICOM one a fragment. A file
# of millions of empty elements would take minutes and gigabytes.
_MAX_READS = 200_000
_FETCH_AGAIN = "Download or export the file again."
_LIBRARY_LOCK = threading.RLock()


@dataclass(frozen=True)
class Upload:
    """A radiograph file that is held in memory. No copy of it is ever written to a disk.

    Attributes:
        name: The name of the file.
        content: Its bytes.
    """

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        """Return the name, for messages."""
        return self.name


class RefusedPixelsError(Exception):
    """Why a file's pixels are refused; a second argument is what to do about it."""


class CountedReads:
    """A stream that raises an error after too many reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = _MAX_READS
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int = -1, /) -> bytes:
        """Read like the stream."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many reads")
        return self._stream.read(size)


def open_radiograph(path: Path | Upload) -> BinaryIO:
    """Open a regular file or an upload of at most `LARGEST_FILE` bytes for reading.

    Raises:
        InputError: It is missing, empty, a folder, a pipe, a device, too large or not readable.
    """
    if isinstance(path, Upload):
        return io.BytesIO(read_radiograph_bytes(path))
    file = open_regular(path, LARGEST_FILE)
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise InputError(image_fault(path, "the file is empty (0 bytes)"))
    return file


def read_radiograph_bytes(path: Path | Upload) -> bytes:
    """Return the content of a radiograph file or an upload, which is never empty.

    Raises:
        InputError: As `open_radiograph`, or the disk fails.
    """
    content = path.content if isinstance(path, Upload) else read_bytes(path, LARGEST_FILE)
    if not content:
        raise InputError(image_fault(path, "the file is empty (0 bytes)"))
    return content


def image_fault(path: Path | Upload, what: str, fix: str = _FETCH_AGAIN) -> Fault:
    """Return the fault of a file that holds no radiograph that can be decoded."""
    return Fault(str(path), what, fix, expected="one whole PNG, JPEG, TIFF, BMP or DICOM image")


def check_dimensions(path: Path, width: int, height: int) -> None:
    """Refuse dimensions that no radiograph of a hand has, before memory is reserved for them.

    Raises:
        InputError: A side, or the number of pixels, is out of range.
    """
    sides = min(width, height) >= SMALLEST_SIDE and max(width, height) <= LARGEST_SIDE
    if not sides or width * height > LARGEST_PIXELS:
        raise InputError(
            Fault(
                str(path),
                f"the image is {width} x {height} pixels",
                "Is it a radiograph of one hand? Download or export the file again.",
                expected=f"sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, "
                f"and {LARGEST_PIXELS // 10**6} million pixels at most",
            )
        )


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Silence the warnings and log lines of a library while it reads a header.

    pydicom's quote values of the header, which may identify a person; Pillow's speak of metadata.
    Warning filters belong to the whole process, so threads take turns.
    """
    logger = logging.getLogger(library)
    with _LIBRARY_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)
