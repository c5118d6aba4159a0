"""A radiograph file as received, decoded to one grey array, or refused with the reason."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError

Radiograph = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

SMALLEST_SIDE = 16
LARGEST_SIDE = 20_000

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\x00", b"MM\x00*")
_BMP = b"BM"

# After a scan begins, the next real marker is an 0xFF followed by anything but a stuffed zero, a
# restart marker or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_OFFSETS, _TIFF_COUNTS = (273, 324), (279, 325)  # strips, tiles
_TIFF_FORMATS = {1: "B", 3: "H", 4: "I"}


class _StructureError(Exception):
    """Why a file's structure is not that of a whole picture."""


def read_radiograph(path: str | Path) -> Radiograph:
    """Decodes a PNG, JPEG, TIFF or BMP file to grey, upright, at its own bit depth.

    The structure of the file is walked before it is decoded: OpenCV makes up what a truncated
    JPEG file lacks and says nothing, and of other broken files it says only that they are broken.

    Args:
        path: The picture's file. Colour is turned to grey, transparency ignored.

    Returns:
        Array `(h, w)`, uint8 or, for films of more than 8 bits, uint16.

    Raises:
        InputError: The file is missing, empty, truncated, damaged, not a picture, of an
            unsuitable depth, or of absurd dimensions.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        width, height = _check_structure(data)
    except _StructureError as broken:
        raise InputError(_fault(path, str(broken))) from None
    _check_dimensions(path, width, height)
    try:
        # Grey and any depth, rather than "unchanged", because only then is EXIF rotation applied.
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        raise InputError(_fault(path, f"it can't be decoded ({error.err})")) from None
    if image is None:
        raise InputError(_fault(path, "it can't be decoded"))
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype != np.uint16:
        raise InputError(
            Fault(
                str(path),
                f"its pixels are {image.dtype}",
                "8 or 16 bit whole numbers",
                "Convert it to a 16-bit PNG.",
            )
        )
    return np.asarray(image, np.uint16)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            Fault(
                str(path),
                "there is no such file",
                "a radiograph",
                "Check the path, and that the download is complete.",
            )
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            Fault(str(path), f"it can't be read ({reason})", "a readable file", "Check the path.")
        ) from None
    if not data:
        raise InputError(_fault(path, "the file is empty (0 bytes)"))
    return data


def _fault(path: Path, what: str) -> Fault:
    return Fault(
        str(path),
        what,
        "a whole PNG, JPEG, TIFF or BMP picture",
        "Fetch or export that file again.",
    )


def _check_dimensions(path: Path, width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE or max(width, height) > LARGEST_SIDE:
        raise InputError(
            Fault(
                str(path),
                f"it is {width} x {height} pixels",
                f"sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels",
                "Is it a radiograph of one hand? Fetch or export that file again.",
            )
        )


def _check_structure(data: bytes) -> tuple[int, int]:
    """Walks the file from its first byte to its end marker; returns width and height."""
    try:
        if data.startswith(_PNG):
            return _walk_png(data)
        if data.startswith(_JPEG):
            return _walk_jpeg(data)
        if data.startswith(_TIFF):
            return _walk_tiff(data)
        if data.startswith(_BMP):
            return _walk_bmp(data)
    except (struct.error, IndexError):
        raise _StructureError(f"the file is truncated ({len(data)} bytes)") from None
    raise _StructureError(f"it is not a picture (it begins with {data[:8]!r})")


def _truncated(data: bytes, expected: int) -> _StructureError:
    return _StructureError(f"the file is truncated ({len(data)} of {expected} bytes)")


def _walk_png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    position = len(_PNG)
    view = memoryview(data)
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise _StructureError(f"the file is damaged (checksum of its {kind!r} chunk)")
        if kind == b"IEND":
            return width, height
        position = end + 4


def _walk_jpeg(data: bytes) -> tuple[int, int]:
    width = height = 0
    position = 2
    while True:
        # A search, not a look: between a scan and its end marker lie entropy-coded bytes.
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            raise _StructureError(f"the file is truncated ({len(data)} bytes, no end marker)")
        kind = data[marker.start() + 1]
        if kind == 0xD9:
            return width, height
        (length,) = struct.unpack_from(">H", data, marker.end())
        if kind in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, marker.end() + 3)
        position = marker.end() + length


def _walk_tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, directory)
    tags: dict[int, tuple[int, ...]] = {}
    for entry in range(entries):
        position = directory + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(order + "HHI", data, position)
        if tag not in (_TIFF_WIDTH, _TIFF_HEIGHT, *_TIFF_OFFSETS, *_TIFF_COUNTS):
            continue
        layout = f"{order}{count}{_TIFF_FORMATS.get(kind, 'I')}"
        inside = struct.calcsize(layout) <= 4
        (pointer,) = struct.unpack_from(order + "I", data, position + 8)
        tags[tag] = struct.unpack_from(layout, data, position + 8 if inside else pointer)
    struct.unpack_from(order + "I", data, directory + 2 + 12 * entries)  # the next page's place
    for offsets, counts in zip(_TIFF_OFFSETS, _TIFF_COUNTS, strict=True):
        for offset, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            if offset + count > len(data):
                raise _StructureError(
                    f"the file is truncated ({len(data)} of {offset + count} bytes)"
                )
    return tags.get(_TIFF_WIDTH, (0,))[0], tags.get(_TIFF_HEIGHT, (0,))[0]


def _walk_bmp(data: bytes) -> tuple[int, int]:
    (pixels, header) = struct.unpack_from("<II", data, 10)
    if header < 40:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative when the rows run from the top
    row = (width * bits + 31) // 32 * 4
    if compression == 0 and pixels + row * height > len(data):
        raise _StructureError(
            f"the file is truncated ({len(data)} of {pixels + row * height} bytes)"
        )
    return width, height
