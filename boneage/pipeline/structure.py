"""The files of pictures before they are decoded: read safely, and their bytes walked."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from boneage.errors import Fault, InputError

LARGEST_FILE = 256 * 2**20


class _BoundedFile(io.BufferedReader):
    """A file whose `read` takes no more memory than there are bytes left to read."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a regular file of no more than `LARGEST_FILE` bytes for reading.

    Raises:
        InputError: It is missing, empty, a folder, a pipe, too large, or can't be read.
    """
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise InputError(
                Fault(
                    str(path),
                    "it can't be read (it is a folder, a pipe or a device)",
                    "a radiograph's file",
                    "Check the path.",
                )
            )
        if not kind.st_size:
            raise InputError(
                Fault(
                    str(path),
                    "the file is empty (0 bytes)",
                    "a whole radiograph",
                    "Fetch or export that file again.",
                )
            )
        if kind.st_size > LARGEST_FILE:
            raise InputError(
                Fault(
                    str(path),
                    f"the file has {kind.st_size:,} bytes",
                    f"at most {LARGEST_FILE:,} bytes",
                    "Is it one radiograph of a hand? Export it anew.",
                )
            )
        return _BoundedFile(io.FileIO(path))
    except FileNotFoundError:
        raise InputError(
            Fault(
                str(path),
                "there is no such file",
                "a radiograph",
                "Check the path, and that the download is complete.",
            )
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            Fault(str(path), f"it can't be read ({reason})", "a readable file", "Check the path.")
        ) from None
