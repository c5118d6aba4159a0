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
    kept, exif = [SIGNATURE], b""
    for kind, length, start in _chunks(file):
        if not pixels and kind == b"IDAT":
            length = 0
        elif not pixels and kind not in _PIXEL_CHUNKS | {b"eXIf", b"acTL"}:
            continue
        file.seek(start)
        body = file.read(length)
        checksum = file.read(4) if pixels else struct.pack(">I", zlib.crc32(kind + body))
        if pixels and checksum != struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))):
            raise RefusedPixelsError(f"the file is truncated or damaged (checksum of {kind!r})")
        if kind == b"acTL" and body[:4] != b"\0\0\0\1":
            raise RefusedPixelsError("the file holds several images (an animation)", SAVE_AS_PNG)
        if kind == b"eXIf":
            exif = exif or body
        elif kind in _PIXEL_CHUNKS:
            kept += [struct.pack(">I", length), kind, body, checksum]
        elif kind[0] & 32 == 0:
            raise RefusedPixelsError(f"the chunk {kind!r} is not supported", SAVE_AS_PNG)
    if len(exif) > _MAX_EXIF:
        raise RefusedPixelsError(f"the EXIF data has {len(exif):,} bytes", SAVE_AS_PNG)
    return b"".join(kept), exif


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
