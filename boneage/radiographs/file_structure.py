"""The files of pictures before they are decoded: read safely, their headers, their wholeness.

What a header asks for is looked at before memory is taken for it, and a file is walked from its
first byte to its end marker, because OpenCV makes up what a truncated JPEG file lacks and says
nothing, and of other broken files it says only that they are broken.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from boneage.errors import Fault, InputError
from boneage.radiographs.codestream import MOST_SCANS
from boneage.radiographs.tiff import (
    SAVE_ANEW,
    Take,
    TiffError,
    TiffHeader,
    check_tiff,
    read_tiff_header,
)

SMALLEST_SIDE = 16
LARGEST_SIDE = 20_000
# A radiograph of 24 x 30 cm, the largest that one hand is laid on, has 29 megapixels when digitised
# at 50 micrometres, as finely as it is done; the largest flat panels have 18. Decoding 40 took up
# to 0.7 GB, and 7 s of one core when they were noise in JPEG 2000; radiographs take a quarter of
# that.
LARGEST_PIXELS = 30_000_000
LARGEST_FILE = 256 * 2**20  # those pixels in 16-bit RGB, not compressed

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\x00", b"MM\x00*")
_BIG_TIFF = (b"II+\x00", b"MM\x00+")
_BMP = b"BM"

# After a scan begins, the next real marker is an 0xFF followed by anything but a stuffed zero, a
# restart marker or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF = b"Exif\0\0"
# Libpng writes pieces of 8 kB; a file of millions of empty ones would take minutes.
_MOST_CHUNKS, _MOST_SEGMENTS = 200_000, 20_000
_BMP_KINDS = frozenset({0, 3, 6})  # not run-length coded: that has no end to look for


class StructureError(Exception):
    """Why a file is not a whole picture that can be read."""

    def __init__(self, what: str, fix: str = "Fetch or export that file again.") -> None:
        super().__init__(what)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Layout:
    """What a picture's header says.

    Attributes:
        width: Columns, as seen upright.
        height: Rows, as seen upright.
        tiff: What else there is to a TIFF file.
    """

    width: int
    height: int
    tiff: TiffHeader | None = None


class BoundedFile(io.BufferedReader):
    """A file whose `read` takes no more memory than there are bytes left to read."""

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads so many bytes, or as many as are left."""
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))

    def take(self, offset: int, count: int) -> bytes:
        """Gives bytes from anywhere, or raises `struct.error` when the file has not so many."""
        self.seek(offset)
        part = self.read(count)
        if len(part) < count:
            raise struct.error("truncated")
        return part


def open_regular(path: Path) -> BoundedFile:
    """Opens a regular file of no more than `LARGEST_FILE` bytes for reading.

    Raises:
        InputError: It is missing, empty, a folder, a pipe, too large, or can't be read.
    """
    try:
        kind = path.stat()
        if stat.S_ISREG(kind.st_mode) and 0 < kind.st_size <= LARGEST_FILE:
            return BoundedFile(io.FileIO(path))
    except FileNotFoundError:
        raise InputError(
            Fault(
                str(path),
                "there is no such file",
                "Check the path, and that the download is complete.",
                expected="a radiograph",
            )
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            Fault(
                str(path),
                f"it can't be read ({reason})",
                "Check the path.",
                expected="a readable file",
            )
        ) from None
    if not stat.S_ISREG(kind.st_mode):
        what = "it can't be read (it is a folder, a pipe or a device)"
        raise InputError(Fault(str(path), what, "Check the path.", expected="a radiograph's file"))
    if not kind.st_size:
        raise InputError(picture_fault(path, "the file is empty (0 bytes)"))
    what = f"it has {kind.st_size:,} bytes, more than {LARGEST_FILE:,}"
    raise InputError(picture_fault(path, what))


def picture_fault(path: Path, what: str, fix: str = "Fetch or export that file again.") -> Fault:
    """Says that a file is not a picture that can be read."""
    return Fault(str(path), what, fix, expected="one whole PNG, JPEG, TIFF, BMP or DICOM picture")


def check_dimensions(path: Path, width: int, height: int) -> None:
    """Refuses what can't be a radiograph of a hand before memory is taken for it.

    Raises:
        InputError: A side, or the number of pixels, is out of range.
    """
    sides = (
        min(width, height) < SMALLEST_SIDE,
        max(width, height) > LARGEST_SIDE,
        width * height > LARGEST_PIXELS,
    )
    if any(sides):
        raise InputError(
            Fault(
                str(path),
                f"it is {width} x {height} pixels",
                "Is it a radiograph of one hand? Fetch or export that file again.",
                expected=f"sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, "
                f"and {LARGEST_PIXELS // 10**6} million pixels at most",
            )
        )


def read_layout(take: Take, size: int) -> Layout:
    """Reads the header of a PNG, JPEG, TIFF or BMP file.

    Args:
        take: Gives bytes of the file.
        size: The file's bytes.

    Raises:
        StructureError: It is none of them, or the header is damaged or cut.
    """
    start = take(0, min(8, size))
    try:
        if start.startswith(_PNG):
            return _read_png(take)
        if start.startswith(_JPEG):
            return _read_jpeg(take)
        if start.startswith(_TIFF):
            tiff = read_tiff_header(take)
            width, height = tiff.width, tiff.height
            return Layout(*((height, width) if tiff.turned else (width, height)), tiff)
        if start.startswith(_BMP):
            return _read_bmp(take)
    except (struct.error, IndexError):
        raise StructureError(f"the file is truncated ({size} bytes)") from None
    except TiffError as error:
        raise StructureError(*error.args) from None
    if start.startswith(_BIG_TIFF):
        raise StructureError("it is a BigTIFF file, which is not read", SAVE_ANEW)
    raise StructureError(f"it is not a picture (it begins with {start!r})")


def check_whole(data: bytes, layout: Layout) -> None:
    """Walks a file from its first byte to its end marker.

    Raises:
        StructureError: It is truncated, damaged, or holds several pictures.
    """
    try:
        if layout.tiff is not None:
            check_tiff(data, layout.tiff)
        elif data.startswith(_PNG):
            _walk_png(data)
        elif data.startswith(_JPEG):
            _walk_jpeg(data)
        else:
            _check_bmp(data)
    except (struct.error, IndexError):
        raise StructureError(f"the file is truncated ({len(data)} bytes)") from None
    except TiffError as error:
        raise StructureError(*error.args) from None


def _read_png(take: Take) -> Layout:
    width, height = struct.unpack(">II", take(16, 8))
    position = len(_PNG)
    turned = False
    for _ in range(_MOST_CHUNKS):
        length, kind = struct.unpack(">I4s", take(position, 8))
        if kind == b"eXIf":
            turned = _turned(take(position + 8, length))
        if kind == b"IEND":
            return Layout(height, width) if turned else Layout(width, height)
        position += 12 + length
    raise StructureError(f"the file is damaged (more than {_MOST_CHUNKS} chunks)")


def _walk_png(data: bytes) -> None:
    position = len(_PNG)
    view = memoryview(data)
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise StructureError(f"the file is damaged (checksum of its {kind!r} chunk)")
        if kind == b"acTL" and struct.unpack_from(">I", data, position + 8) != (1,):
            raise StructureError("it holds several pictures (an animation)", SAVE_ANEW)
        if kind == b"IEND":
            return
        position = end + 4


def _read_jpeg(take: Take) -> Layout:
    width = height = 0
    turned = False
    position = 2
    for _ in range(_MOST_SEGMENTS):
        lead, kind = take(position, 2)
        if lead != 0xFF:
            raise StructureError("the file is damaged (a marker is missing in its header)")
        if kind == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack(">H", take(position + 2, 2))
        if kind in _JPEG_SIZES:
            height, width = struct.unpack(">HH", take(position + 5, 4))
        if kind == 0xE1 and take(position + 4, 6) == _EXIF:
            turned = _turned(take(position + 10, max(0, length - 8)))
        if kind in (0xDA, 0xD9):
            return Layout(height, width) if turned else Layout(width, height)
        position += 2 + length
    raise StructureError(f"the file is damaged (more than {_MOST_SEGMENTS} segments)")


def _walk_jpeg(data: bytes) -> None:
    scans = 0
    position = 2
    for _ in range(_MOST_SEGMENTS):
        # A search, not a look: between a scan and its end marker lie entropy-coded bytes.
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            raise StructureError(f"the file is truncated ({len(data)} bytes, no end marker)")
        kind = data[marker.start() + 1]
        if kind == 0xD9:
            return
        scans += kind == 0xDA
        if scans > MOST_SCANS:
            raise StructureError(f"the file is damaged (more than {MOST_SCANS} scans)")
        (length,) = struct.unpack_from(">H", data, marker.end())
        position = marker.end() + length
    raise StructureError(f"the file is damaged (more than {_MOST_SEGMENTS} segments)")


def _turned(exif: bytes) -> bool:
    """Whether EXIF data say that width and height change places."""
    try:
        return read_tiff_header(lambda offset, count: _slice(exif, offset, count)).turned
    except (struct.error, TiffError):
        return False


def _slice(data: bytes, offset: int, count: int) -> bytes:
    if offset + count > len(data):
        raise struct.error("truncated")
    return data[offset : offset + count]


def _read_bmp(take: Take) -> Layout:
    (header,) = struct.unpack("<I", take(14, 4))
    if header < 40:
        width, height = struct.unpack("<HH", take(18, 4))
    else:
        width, height = struct.unpack("<ii", take(18, 8))
    return Layout(width, abs(height))  # negative when the rows run from the top


def _check_bmp(data: bytes) -> None:
    (pixels, header) = struct.unpack_from("<II", data, 10)
    compression = 0
    if header < 40:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in _BMP_KINDS:
        raise StructureError("it is a compressed BMP file, which is not read", SAVE_ANEW)
    expected = pixels + (width * bits + 31) // 32 * 4 * abs(height)
    if expected > len(data):
        raise StructureError(f"the file is truncated ({len(data)} of {expected} bytes)")
