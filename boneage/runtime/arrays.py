"""Read `.npz` files of numbers, and what numpy raises for a damaged one."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from boneage.runtime.files import LARGEST_FILE, open_regular

ARRAY_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, OverflowError),
    *(SyntaxError, tokenize.TokenError),  # of a header, which is Python text
    *(zipfile.BadZipFile, zlib.error, RuntimeError),
)


def read_arrays(path: Path, limit: int = LARGEST_FILE) -> dict[str, npt.NDArray[Any]]:
    """Read an `.npz` file whose arrays are numbers and take no more room than the file.

    Args:
        path: The file. Its arrays are not compressed.
        limit: Largest size of the file, bytes.

    Raises:
        InputError: It is no regular file of that size.
        One of `ARRAY_ERRORS`: It is damaged, or holds something else.
    """
    arrays = {}
    with open_regular(path, limit) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its arrays are larger than the file")
        for member in members:
            with archive.open(member) as content:
                if np.lib.format.read_magic(content) != (1, 0):
                    raise ValueError(f"{member.filename} is no array of this version")
                shape, _, dtype = np.lib.format.read_array_header_1_0(content)
                size = math.prod(shape) * dtype.itemsize
                if dtype.kind not in "fiub" or content.tell() + size != member.file_size:
                    raise ValueError(f"{member.filename} has the shape {shape} and type {dtype}")
            with archive.open(member) as content:
                name = member.filename.removesuffix(".npy")
                arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    return arrays
