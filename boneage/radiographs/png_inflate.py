"""PNG files inflated by ISA-L, Intel's library, before OpenCV decodes them; a quarter faster.

OpenCV's wheels inflate with the system's zlib, which takes two thirds of the time of decoding, and
ISA-L less than half as long. What it gives is put back into the file as it is, in stored blocks, so
all else (filters, colours, depths, faults) remains OpenCV's business, and the pixels are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

try:
    from isal import isal_zlib
except ImportError:  # only slower without it
    isal_zlib = None  # type: ignore[assignment]

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # bytes
_MOST_CHUNKS = 10_000
_MOST = 2**26  # bytes of pixels: what is not decoded at once must fit into memory twice
_LEAST = 2**16  # not worth it for less
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_BLOCK = 65_535  # bytes, the most that one stored block has
_STORED = b"\x78\x01"  # the header of a zlib stream
_CHECKSUM = 4  # bytes at a zlib stream's end


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


def inflated(data: bytes) -> bytes:
    """A PNG file with its pixels stored instead of deflated; any other file as it is.

    Args:
        data: Of a PNG file, one that is whole, its chunks' checksums checked.

    Returns:
        A file that is decoded to the same pixels; the same file where that is not certain, be it
        that it is interlaced, damaged or not as usual, and where ISA-L is not installed.
    """
    size = _bytes_of_pixels(data)
    if isal_zlib is None or not _LEAST <= size <= _MOST:
        return data
    chunks = list(_chunks(data))
    at = [place for place, chunk in enumerate(chunks) if chunk.kind == b"IDAT"]
    if not at or at[-1] - at[0] >= len(at) or chunks[-1].kind != b"IEND":
        return data
    parts = chunks[at[0] : at[-1] + 1]
    view = memoryview(data)
    packed = b"".join(view[part.start : part.end] for part in parts)
    stream = isal_zlib.decompressobj()
    try:
        pixels = stream.decompress(packed, size + 1)  # no more than that, whatever there is
    except isal_zlib.error:  # type: ignore[misc]  # its stubs know no exceptions
        return data
    if len(pixels) != size or not stream.eof:
        return data
    end = len(packed) - len(stream.unused_data)
    body = b"".join(_stored(pixels, packed[end - _CHECKSUM : end]))
    length, checksum = struct.pack(">I", len(body) - 4), struct.pack(">I", isal_zlib.crc32(body))
    before, after = view[: parts[0].start - 8], view[parts[-1].end + 4 :]
    return b"".join([before, length, body, checksum, after])


def _bytes_of_pixels(data: bytes) -> int:
    """How many bytes a PNG's rows and their filters' names take; 0 if that is not certain."""
    if not data.startswith(_PNG + b"\0\0\0\x0dIHDR") or len(data) < _HEADER_END:
        return 0
    width, height, bits, colour, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    if any(methods) or colour not in _CHANNELS:
        return 0
    return int(height * (1 + (width * bits * _CHANNELS[colour] + 7) // 8))


def _chunks(data: bytes) -> Iterator[_Chunk]:
    place = len(_PNG)
    for _ in range(_MOST_CHUNKS):
        if place + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, place)
        yield _Chunk(kind, place + 8, place + 8 + length)
        if kind == b"IEND":
            return
        place += 12 + length


def _stored(pixels: bytes, checksum: bytes) -> Iterator[bytes | memoryview]:
    """The kind and the content of a chunk that holds the pixels as they are."""
    yield b"IDAT" + _STORED
    view = memoryview(pixels)
    for start in range(0, len(view), _BLOCK):
        block = view[start : start + _BLOCK]
        last = start + _BLOCK >= len(view)
        yield struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield checksum
