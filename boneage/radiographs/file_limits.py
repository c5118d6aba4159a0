"""The limits of a radiograph file: a regular file, of limited size, with sensible dimensions."""

from __future__ import annotations

import io
import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boneage.errors import Fault, InputError

SMALLEST_SIDE = 16
LARGEST_SIDE = 20_000
# A radiograph of 24 x 30 cm, digitised at 50 micrometres, has 29 megapixels. No hand needs more.
# The largest flat panels have 18.
LARGEST_PIXELS = 30_000_000
LARGEST_FILE = 256 * 2**20  # bytes: those pixels in 16-bit RGB, not compressed
SAVE_AS_PNG = "Save it as a grey PNG of 8 or 16 bits, with one image in the file."

_FETCH_AGAIN = "Download or export the file again."
_LIBRARY_LOCK = threading.RLock()


class RegularFile(io.BufferedReader):
    """A file whose `read` never reserves more memory than the file has bytes left."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or all that are left."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_regular(path: Path) -> RegularFile:
    """Open a regular file of at most `LARGEST_FILE` bytes for reading.

    Raises:
        InputError: It is missing, empty, a folder, a pipe, a device, too large or not readable.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= LARGEST_FILE:
            return RegularFile(io.FileIO(path))
    except FileNotFoundError:
        fix = "Check the path, and that the download is complete."
        raise InputError(Fault(str(path), "there is no such file", fix)) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise InputError(read_fault(path, error)) from None
    if not stat.S_ISREG(status.st_mode):
        what = "the path can't be read as a file: it is a folder, a pipe or a device"
        raise InputError(Fault(str(path), what, "Check the path."))
    if not status.st_size:
        raise InputError(image_fault(path, "the file is empty (0 bytes)"))
    what = f"the file has {status.st_size:,} bytes, more than the limit of {LARGEST_FILE:,}"
    raise InputError(image_fault(path, what))


def read_fault(path: Path, error: OSError | ValueError) -> Fault:
    """Return the fault of a file that the operating system does not give out."""
    reason = getattr(error, "strerror", None) or str(error)
    return Fault(str(path), f"the file can't be read ({reason})", "Check the path.")


def image_fault(path: Path, what: str, fix: str = _FETCH_AGAIN) -> Fault:
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
