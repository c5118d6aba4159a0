"""PNG files: their chunks, of which only those of the pixels reach a decoder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from boneage.radiographs.file_limits import SAVE_AS_PNG, RefusedPixelsError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 40_000  # libpng writes them of 8 kB
_MAX_EXIF = 65_536
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_READ_ALWAYS = _PIXEL_CHUNKS | {b"eXIf", b"acTL"}


def read_png(file: BinaryIO, *, pixels: bool) -> tuple[bytes, bytes]:
    """Return a PNG file without its texts, profiles and other metadata, and its EXIF data.

    A decoder may take a minute for ten megabytes of metadata.

    Args:
        file: The file.
        pixels: Whether to keep the pixels, too, and to check all checksums. Decoders do not all
            read every checksum.

    Raises:
        RefusedPixelsError: The file is truncated or damaged, or holds an animation.
    """
    kept: list[bytes | memoryview] = [SIGNATURE]
    exif = b""
    data = file.read() if pixels else b""
    content, has_metadata = memoryview(data), False
    for kind, length, start in _chunks(file):
        if pixels:
            body = content[start : start + length]
            checksum = content[start + length : start + length + 4]
            if checksum != struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))):
                part = kind.decode("latin-1")
                raise RefusedPixelsError(f"the file is truncated or damaged (checksum of {part})")
        elif kind not in _READ_ALWAYS:
            continue
        else:
            length = 0 if kind == b"IDAT" else length
            file.seek(start)
            body = memoryview(file.read(length))
            checksum = memoryview(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))
        has_metadata |= kind not in _PIXEL_CHUNKS
        if kind == b"acTL" and bytes(body[:4]) != b"\0\0\0\1":
            raise RefusedPixelsError("the file holds several images (an animation)", SAVE_AS_PNG)
        if kind == b"eXIf":
            exif = exif or bytes(body[: _MAX_EXIF + 1])
        elif kind in _PIXEL_CHUNKS:
            kept += [struct.pack(">I", length), kind, body, checksum]
        elif kind[0] & 32 == 0:
            raise RefusedPixelsError(f"the chunk {kind!r} is not supported", SAVE_AS_PNG)
    if len(exif) > _MAX_EXIF:
        raise RefusedPixelsError(f"the EXIF data has more than {_MAX_EXIF:,} bytes", SAVE_AS_PNG)
    return b"".join(kept) if has_metadata or not pixels else data, exif


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, length and the position of the content of every chunk."""
    position = len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            raise RefusedPixelsError("the file is truncated (it has no end)")
        length, kind = struct.unpack(">I4s", header)
        yield kind, length, position + 8
        if kind == b"IEND":
            return
        position += 12 + length
    raise RefusedPixelsError(f"the file is damaged: it has more than {_MAX_CHUNKS:,} chunks")
