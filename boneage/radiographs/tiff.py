"""TIFF files: what to check before decoding by libtiff, which is lenient."""

from __future__ import annotations

import zlib
from typing import BinaryIO, NamedTuple, cast

from PIL import Image, TiffImagePlugin

from boneage.radiographs.file_limits import SAVE_AS_PNG, CountedReads, RefusedPixelsError
from boneage.radiographs.jpeg import decode_jpeg

_MAX_DIRECTORIES = 16
_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS = 1, 5, 7, (8, 32946), 32773  # of the tag Compression


class Segment(NamedTuple):
    """A strip or a tile: its bytes, and what they must decode to.

    Attributes:
        data: The bytes.
        rows: Rows that it must have.
        most_rows: Rows that it may have: some programs fill up the last strip.
        row_bytes: Bytes of a row.
        width: Pixels of a row.
    """

    data: memoryview
    rows: int
    most_rows: int
    row_bytes: int
    width: int


def check_directories(file: BinaryIO) -> None:
    """Refuse several pages; a reduced preview is no page.

    Hold it within `quiet("PIL")`. Pillow reads no more values of a directory than the file has
    bytes.

    Raises:
        RefusedPixelsError: There are several pages, or a directory is damaged.
        ValueError: A directory has unreasonably many entries.
    """
    file.seek(0)
    start = file.read(8)
    page = TiffImagePlugin.ImageFileDirectory_v2(
        start + (file.read(8) if 43 in start[2:4] else b"")
    )
    counted = cast(BinaryIO, CountedReads(file))
    for number in range(_MAX_DIRECTORIES):
        if not (position := page.next):
            return
        file.seek(position)
        page.load(counted)
        if page.next == position:  # its end was not reached, or it points to itself
            raise RefusedPixelsError("the file is truncated or damaged: a directory has no end")
        if number and not page.get(254, 0) & 1:  # NewSubfileType: a reduced image
            raise RefusedPixelsError("the file holds several pages", SAVE_AS_PNG)
    raise RefusedPixelsError(f"the file holds more than {_MAX_DIRECTORIES} images", SAVE_AS_PNG)


def check_tiff(image: TiffImagePlugin.TiffImageFile, data: bytes) -> None:
    """Check what libtiff does not: the sample format, and how many pixels the strips hold.

    Raises:
        RefusedPixelsError: The kind of pixels is not supported, or pixels are missing.
    """
    tags = image.tag_v2
    if not {1, 4}.issuperset(tags.get(339, (1,))):
        what = "the pixels are signed or floating point, not unsigned integers"
        raise RefusedPixelsError(what, SAVE_AS_PNG)
    if 262 not in tags:  # libraries then differ in polarity
        raise RefusedPixelsError("the file does not say its PhotometricInterpretation", SAVE_AS_PNG)
    compression = tags.get(259, _NONE)
    if compression not in (_NONE, _LZW, _JPEG, *_DEFLATE, _PACKBITS):
        what = f"the compression {compression} of the TIFF file is not supported"
        raise RefusedPixelsError(what, SAVE_AS_PNG)
    if tags.get(262) == 6 and compression != _JPEG:
        raise RefusedPixelsError("the pixels are YCbCr without JPEG", SAVE_AS_PNG)
    for number, segment in enumerate(_segments(tags, data)):
        if not _is_whole(segment, compression, tags):
            what = (
                f"the file is truncated or damaged: strip {number + 1} has too few or many pixels"
            )
            raise RefusedPixelsError(what)


def _segments(tags: TiffImagePlugin.ImageFileDirectory_v2, data: bytes) -> list[Segment]:
    """Return the strips or tiles; there must be as many as the dimensions ask for."""
    width, height, samples = tags[256], tags[257], tags.get(277, 1)
    bits = tags.get(258, (1,))
    bits = bits * samples if len(bits) == 1 else bits
    planes = [(each,) for each in bits] if tags.get(284, 1) == 2 else [bits]
    offsets = tags.get(273) or tags.get(324) or ()
    counts = tags.get(279) or tags.get(325) or ()
    is_tiled = 322 in tags
    part_width = tags[322] if is_tiled else width
    part_rows = tags[323] if is_tiled else min(tags.get(278, height), height)
    across, down = -(-width // part_width), -(-height // part_rows)
    if not len(offsets) == len(counts) == len(planes) * across * down:
        raise RefusedPixelsError(
            f"the file is truncated or damaged: it has {len(offsets)} strips of pixels"
        )
    content = memoryview(data)
    found = []
    for number, (start, count) in enumerate(zip(offsets, counts, strict=True)):
        plane, place = divmod(number, across * down)
        rows = part_rows if is_tiled else min(part_rows, height - place * part_rows)
        row_bytes = -(-part_width * sum(planes[plane]) // 8)
        most_rows = part_rows if down > 1 else rows
        found.append(
            Segment(content[start : start + count], rows, most_rows, row_bytes, part_width)
        )
    return found


def _is_whole(
    segment: Segment, compression: int, tags: TiffImagePlugin.ImageFileDirectory_v2
) -> bool:
    """Return whether a strip or tile has its pixels, and less than a row more.

    libtiff itself refuses too few of LZW and PackBits. Too many of LZW can't be seen.
    """
    least = segment.rows * segment.row_bytes
    limit = (segment.most_rows + 1) * segment.row_bytes
    if compression == _NONE:
        return least <= len(segment.data) < limit
    if compression in _DEFLATE:
        inflater = zlib.decompressobj()
        held = len(inflater.decompress(segment.data, limit))
        return bool(inflater.eof) and least <= held < limit
    if compression == _PACKBITS:
        most = segment.most_rows * segment.row_bytes
        return not has_more_packbits(bytes(segment.data), most)
    if compression == _JPEG:
        tables = tags.get(347, b"")[:-2]  # JPEGTables: a start marker and what all strips share
        strip = tables + bytes(segment.data[2:]) if tables else bytes(segment.data)
        height, width = decode_jpeg(strip).shape[:2]
        return segment.rows <= height <= segment.most_rows and bool(width == segment.width)
    return True


def has_more_packbits(data: bytes, size: int) -> bool:
    """Return whether PackBits data decodes to more than `size` bytes, without zeros at its end."""
    try:
        Image.frombytes("L", (size + 1, 1), data.rstrip(b"\0"), "packbits", "L")
    except ValueError:
        return False
    return True
