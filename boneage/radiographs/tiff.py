"""TIFF files: what their directories say, and whether all of their strips or tiles are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from boneage.radiographs.codestream import MOST_SCANS

Take = Callable[[int, int], bytes]
"""Gives from an offset so many bytes, or raises `struct.error` when there are fewer."""

SAVE_ANEW = "Save it as a grey PNG of 8 or 16 bits, one picture a file."

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR = 274, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBFILE = 322, 323, 338, 339, 254
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # strips, tiles
_READ = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP}
    | {_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBFILE}
    | {*_OFFSETS, *_COUNTS}
)
_KINDS = {1: "B", 3: "H", 4: "I"}
_MOST_ENTRIES = 4096
_MOST_DIRECTORIES = 64
_MOST_VALUES = 200_000  # 30 megapixels and more in tiles of 16 x 16
_MOST_UNFOLDED = 400 * 2**20  # they in 16-bit RGBA
_NOT_COMPRESSED = 1
# None, CCITT (three kinds), LZW, JPEG, deflate and PackBits: of what it does not know OpenCV
# makes a black picture.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32946, 32773})
_JPEG = 7
_DEFLATE = frozenset({8, 32946})
_WHITE_IS_ZERO = 0
_UNASSOCIATED_ALPHA, _ASSOCIATED_ALPHA = 2, 1
_FORMAT_NAMES = {2: "signed whole numbers", 3: "floating point", 5: "complex", 6: "complex"}


class TiffError(Exception):
    """Why a TIFF file is refused; a second argument says what to do about it."""


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """The first directory of a TIFF file.

    Attributes:
        tags: Those that matter here, by number.
        places: Where in the file each tag's value stands.
        order: "<" or ">".
        pictures: How many the file holds, small previews of the first not counted.
    """

    tags: dict[int, tuple[int, ...]]
    places: dict[int, int] = field(repr=False)
    order: str
    pictures: int

    def first(self, tag: int, default: int = 0) -> int:
        """Returns a tag's first value."""
        return self.tags.get(tag, (default,))[0]

    @property
    def width(self) -> int:
        """Columns as stored."""
        return self.first(_WIDTH)

    @property
    def height(self) -> int:
        """Rows as stored."""
        return self.first(_HEIGHT)

    @property
    def turned(self) -> bool:
        """Whether upright its width is what is stored as its height."""
        return 5 <= self.first(_ORIENTATION, 1) <= 8

    @property
    def white_is_zero(self) -> bool:
        """Whether the picture is stored as its own negative."""
        return self.first(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO

    @property
    def bits(self) -> int:
        """Bits of each sample."""
        return self.first(_BITS, 1)


def read_tiff_header(take: Take) -> TiffHeader:
    """Reads the first directory, and counts the pictures.

    Raises:
        struct.error: The file ends within.
        TiffError: The directories make no sense.
    """
    order = "<" if take(0, 2) == b"II" else ">"
    (place,) = struct.unpack(order + "I", take(4, 4))
    tags, places, place = _read_directory(take, place, order)
    pictures, seen = 1, 1
    while place:
        if seen == _MOST_DIRECTORIES:
            raise TiffError("its pages have no end")
        others, _, place = _read_directory(take, place, order)
        seen += 1
        # Bit 0: a smaller copy, bit 2: a mask of another picture in the file.
        pictures += not others.get(_SUBFILE, (0,))[0] & 0b101
    return TiffHeader(tags, places, order, pictures)


def _read_directory(
    take: Take, place: int, order: str
) -> tuple[dict[int, tuple[int, ...]], dict[int, int], int]:
    (entries,) = struct.unpack(order + "H", take(place, 2))
    if not 1 <= entries <= _MOST_ENTRIES:
        raise TiffError("its directory is damaged")
    directory = take(place + 2, 12 * entries + 4)
    tags: dict[int, tuple[int, ...]] = {}
    places: dict[int, int] = {}
    for position in range(0, 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", directory, position)
        if tag not in _READ or not count:
            continue
        if count > _MOST_VALUES:
            raise TiffError(f"its directory is damaged ({count} values of one kind)")
        layout = f"{order}{count}{_KINDS.get(kind, 'I')}"
        size = struct.calcsize(layout)
        value_place = place + 2 + position + 8
        if size > 4:
            (value_place,) = struct.unpack_from(order + "I", directory, position + 8)
        tags[tag] = struct.unpack(layout, take(value_place, size))
        places[tag] = value_place
    return tags, places, struct.unpack_from(order + "I", directory, 12 * entries)[0]


def check_tiff(data: bytes, header: TiffHeader) -> None:
    """Sees that the pixels are of a kind that is read, and all there.

    Deflated strips carry a checksum, which libtiff does not look at: of 200 flipped bits in an
    8-bit radiograph it took all 200 for granted. LZW has none, so a damaged one may be read as a
    picture.

    Raises:
        TiffError: Why they are not.
    """
    if header.pictures > 1:
        raise TiffError(f"it holds {header.pictures} pictures (a multi-page file)", SAVE_ANEW)
    samples = header.first(_SAMPLES, 1)
    depths, forms = set(header.tags.get(_BITS, (1,))), set(header.tags.get(_SAMPLE_FORMAT, (1,)))
    if forms - {1, 4}:
        name = next((_FORMAT_NAMES[form] for form in forms if form in _FORMAT_NAMES), "unknown")
        raise TiffError(f"its pixels are {name}, not unsigned whole numbers", SAVE_ANEW)
    if len(depths) != 1 or depths - {1, 8, 12, 16} or not 1 <= samples <= 5:
        bits = ", ".join(map(str, sorted(depths)))
        raise TiffError(f"its pixels have {samples} samples of {bits} bits", SAVE_ANEW)
    packed = header.first(_COMPRESSION, 1)
    if packed not in _COMPRESSIONS:
        raise TiffError(f"its compression (number {packed}) is not read", SAVE_ANEW)
    parts, rows, row_bytes = _parts(header, samples, depths.pop())
    for offsets, counts in zip(_OFFSETS, _COUNTS, strict=True):
        if offsets in header.tags:
            _check_parts(data, header, header.tags[offsets], header.tags.get(counts, ()), parts)
            if packed == _NOT_COMPRESSED:
                held = sum(header.tags.get(counts, ()))
                if held < rows * row_bytes:
                    raise TiffError(f"its strips hold {held} of {rows * row_bytes} bytes")
            return
    raise TiffError("its directory names no pixels")


def _parts(header: TiffHeader, samples: int, bits: int) -> tuple[int, int, int]:
    """Returns how many strips or tiles there must be, and the least rows and bytes a row."""
    planes = samples if header.first(_PLANAR, 1) == 2 else 1
    row_bytes = (header.width * bits * (samples if planes == 1 else 1) + 7) // 8
    if _OFFSETS[1] in header.tags:
        wide, high = header.first(_TILE_WIDTH), header.first(_TILE_HEIGHT)
        if not (1 <= wide <= header.width + 4096 and 1 <= high <= header.height + 4096):
            raise TiffError(f"its tiles have {wide} x {high} pixels")
        across, down = -(-header.width // wide), -(-header.height // high)
    else:
        across, down = 1, -(-header.height // max(1, header.first(_ROWS_PER_STRIP, 2**32 - 1)))
    return across * down * planes, header.height * planes, row_bytes


def _check_parts(
    data: bytes,
    header: TiffHeader,
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    parts: int,
) -> None:
    if len(offsets) < parts or len(counts) < parts:
        raise TiffError(f"it names {min(len(offsets), len(counts))} of its {parts} strips or tiles")
    packed = header.first(_COMPRESSION, 1)
    left = _MOST_UNFOLDED
    for offset, count in zip(offsets[:parts], counts[:parts], strict=True):
        if offset + count > len(data):
            raise TiffError(f"the file is truncated ({len(data)} of {offset + count} bytes)")
        if packed == _JPEG and data.count(b"\xff\xda", offset, offset + count) > MOST_SCANS:
            raise TiffError(f"a strip of it has more than {MOST_SCANS} scans")
        if packed in _DEFLATE:
            left -= _unfold(data[offset : offset + count], left)


def _unfold(part: bytes, most: int) -> int:
    """Unfolds a strip, a piece at a time so that a bomb takes no memory; returns its bytes."""
    unfolder = zlib.decompressobj()
    unfolded = 0
    try:
        while not unfolder.eof:
            piece = unfolder.decompress(part, 2**20)
            part = unfolder.unconsumed_tail
            unfolded += len(piece)
            if not (piece or unfolder.eof) or unfolded > most:
                raise TiffError("the file is damaged (its strips are truncated, or have no end)")
    except zlib.error:
        raise TiffError("the file is damaged (a checksum of its pixels)") from None
    return unfolded


def without_alpha(data: bytes, header: TiffHeader) -> bytes:
    """Returns the file with its transparency declared as applied already.

    Of 8-bit RGBA OpenCV would else return each pixel times its opacity.
    """
    extras = header.tags.get(_EXTRA_SAMPLES, ())
    if _UNASSOCIATED_ALPHA not in extras:
        return data
    place = header.places[_EXTRA_SAMPLES]
    applied = [_ASSOCIATED_ALPHA if extra == _UNASSOCIATED_ALPHA else extra for extra in extras]
    patch = struct.pack(f"{header.order}{len(applied)}H", *applied)
    return data[:place] + patch + data[place + len(patch) :]
