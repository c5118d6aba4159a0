"""The header of a compressed frame within a DICOM file, looked at before a decoder sees it.

A decoder takes the memory that the frame's own header asks for, and some run wild on a header that
makes no sense. So the frame must say what the DICOM header says, and must have an end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"  # JPEG 2000 ends with the same two bytes
_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
_DHT, _DQT, _DRI, _SOS, _LSE = 0xC4, 0xDB, 0xDD, 0xDA, 0xF8
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})
_BEFORE_SCAN = frozenset({_DHT, _DQT, _DRI, _LSE, 0xFE, *range(0xE0, 0xF0)}) | _FRAME_HEADERS
_SOT, _SOD, _COD, _COC = 0xFF90, 0xFF93, 0xFF52, 0xFF53
_MOST_TILES = 4096
_MOST_LAYERS = 64
_MOST_PRECINCTS = 100_000  # a 30 megapixel radiograph in precincts of 64 x 64 has half of them
_MOST_SEGMENTS = 1000
_MOST_RUNS = 4_000_000  # of a byte plane: seconds; 30 megapixels of 12 bits with noise have fewer
MOST_SCANS = 50
"""Each scan of a progressive JPEG runs over the whole picture, however few bytes it has: encoders
write about ten, and a thousand would take minutes."""


class CodestreamError(ValueError):
    """Why a compressed frame is not decoded."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a compressed frame says of itself.

    Attributes:
        process: The frame's marker: 0xC0 to 0xC3 of JPEG, 0xF7 of JPEG-LS, 0x51 of JPEG 2000.
        width: Pixels.
        height: Pixels.
        samples: Per pixel.
        bits: Of each sample.
        signed: Whether samples may be below zero (JPEG 2000 alone knows that).
    """

    process: int
    width: int
    height: int
    samples: int
    bits: int
    signed: bool = False


def read_frame_header(frame: bytes) -> FrameHeader:
    """Reads the header of a JPEG, JPEG-LS or JPEG 2000 frame, and looks for its end.

    Raises:
        CodestreamError: It is none of them, truncated, or its header makes no sense.
    """
    try:
        if frame.startswith(_SOC_SIZ):
            header = _read_jpeg_2000(frame)
        elif frame.startswith(_SOI):
            header = _read_jpeg(frame)
        else:
            raise CodestreamError("its compressed pixels are of no known kind")
    except (struct.error, IndexError):
        raise CodestreamError("its compressed pixels are truncated") from None
    # One byte makes the length even, and some programs fill up blocks.
    if not frame[-1024:].rstrip(b"\0").endswith(_EOI):
        raise CodestreamError("its compressed pixels are truncated (no end marker)")
    return header


def decode_rle(frame: bytes, size: int, planes: int) -> bytes:
    """Unfolds a run-length coded frame to its byte planes, one after the other.

    pydicom would unfold whatever is there, 64 times the file's size at worst; this stops at `size`.

    Args:
        frame: The frame, from its table of segments on (PS3.5, annex G).
        size: Pixels.
        planes: Samples times bytes a sample.

    Returns:
        `size * planes` bytes; the most significant byte of the first sample comes first.
    """
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != planes or list(offsets[:count]) != sorted(offsets[:count]) or offsets[0] < 64:
        raise CodestreamError("its run-length coded pixels have a damaged header")
    ends = [*offsets[1:count], len(frame)]
    longest = 2 * size + 1024  # at worst each pixel is a run of its own; some fill up blocks
    if any(end - start > longest for start, end in zip(offsets, ends, strict=False)):
        raise CodestreamError("its run-length coded pixels are longer than its header allows")
    return b"".join(
        _unpack_bits(frame[start:end], size) for start, end in zip(offsets, ends, strict=False)
    )


def _unpack_bits(segment: bytes, size: int) -> bytearray:
    plane = bytearray()
    position = 0
    left = min(size + 1024, _MOST_RUNS)  # a run may be empty, so the length alone is no bound
    try:
        while len(plane) < size:
            left -= 1
            if left < 0:
                raise CodestreamError("its run-length coded pixels are in too many runs")
            length = segment[position]
            if length < 128:
                plane += segment[position + 1 : position + 2 + length]
                position += 2 + length
            else:
                if length > 128:
                    plane += segment[position + 1 : position + 2] * (257 - length)
                position += 2 if length > 128 else 1
    except IndexError:
        position = len(segment) + 1
    if position > len(segment) or len(plane) != size:
        raise CodestreamError("its run-length coded pixels are truncated")
    return plane


def strip_jp2(frame: bytes) -> bytes:
    """Takes the codestream out of a JP2 file, which some programs wrongly put around it."""
    start = frame.find(_SOC_SIZ) if frame.startswith(_JP2_BOX) else 0
    return frame[max(start, 0) :]


def _read_jpeg(frame: bytes) -> FrameHeader:
    header: FrameHeader | None = None
    tables = 0
    position = 2
    if frame.count(b"\xff\xda") > MOST_SCANS:
        raise CodestreamError(f"its compressed pixels have more than {MOST_SCANS} scans")
    for _ in range(_MOST_SEGMENTS):
        lead, kind, length = struct.unpack_from(">BBH", frame, position)
        body = frame[position + 4 : position + 2 + length]
        if lead != 0xFF or length < 2 or len(body) != length - 2:
            raise CodestreamError("its compressed pixels have a damaged header")
        if kind == _SOS:
            _check_scan(body, header, tables)
            assert header is not None
            return header
        if kind not in _BEFORE_SCAN or (kind in _FRAME_HEADERS and header is not None):
            raise CodestreamError("its compressed pixels have a damaged header")
        if kind == _DHT:
            tables += _count_tables(body)
        if kind in _FRAME_HEADERS:
            bits, height, width, samples = struct.unpack_from(">BHHB", body)
            header = FrameHeader(kind, width, height, samples, bits)
            if len(body) != 6 + 3 * samples:
                raise CodestreamError("its compressed pixels have a damaged header")
        position += 2 + length
    raise CodestreamError("its compressed pixels have a damaged header")


def _check_scan(body: bytes, header: FrameHeader | None, tables: int) -> None:
    samples = body[0]
    if header is None or not 1 <= samples <= header.samples or len(body) != 4 + 2 * samples:
        raise CodestreamError("its compressed pixels have a damaged header")
    if header.process != 0xF7 and not tables:
        raise CodestreamError("its compressed pixels lack their tables")
    if header.process == 0xC3 and not 1 <= body[1 + 2 * samples] <= 7:  # the predictor
        raise CodestreamError("its compressed pixels have a damaged header")


def _count_tables(body: bytes) -> int:
    """Counts a DHT segment's Huffman tables, each of 16 counts and so many symbols."""
    position = tables = 0
    while position < len(body):
        symbols = sum(body[position + 1 : position + 17])
        if body[position] & 0xEF > 3 or not 0 < symbols <= 256:
            raise CodestreamError("its compressed pixels have a damaged header")
        position += 17 + symbols
        tables += 1
    if position != len(body):
        raise CodestreamError("its compressed pixels have a damaged header")
    return tables


def _read_jpeg_2000(frame: bytes) -> FrameHeader:
    length, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, samples = (
        struct.unpack_from(">HH8IH", frame, 4)
    )
    width, height = right - left, bottom - top
    if length != 38 + 3 * samples or min(width, height, tile_width, tile_height) < 1:
        raise CodestreamError("its compressed pixels have a damaged header")
    across = -(-(right - tile_left) // tile_width)
    down = -(-(bottom - tile_top) // tile_height)
    if not 1 <= across * down <= _MOST_TILES or tile_left > left or tile_top > top:
        raise CodestreamError("its compressed pixels have a damaged header")
    components = [struct.unpack_from(">BBB", frame, 42 + 3 * i) for i in range(samples)]
    if not components or {(c[0], c[1], c[2]) for c in components} != {(components[0][0], 1, 1)}:
        raise CodestreamError("its compressed pixels are subsampled or of several depths")
    _check_coding(frame, 4 + length, width, height)
    depth = components[0][0]
    return FrameHeader(0x51, width, height, samples, (depth & 0x7F) + 1, depth > 0x7F)


def _check_coding(frame: bytes, position: int, width: int, height: int) -> None:
    """Sees, in the main header and in those of the tiles, that no table grows without reason.

    A picture cut into precincts of 4 x 4 pixels in 65,535 layers takes gigabytes to be decoded.
    """
    tile_part = 0
    for _ in range(16 * _MOST_TILES):
        if frame.startswith(_EOI, position):
            return
        kind, length = struct.unpack_from(">HH", frame, position)
        body = frame[position + 4 : position + 2 + length]
        if kind == _SOT:
            tile_part = position
        elif kind == _SOD:
            (part_length,) = struct.unpack_from(">I", frame, tile_part + 6)
            if not part_length:  # it runs to the end
                return
            if tile_part + part_length < position + 2:
                break
            position = tile_part + part_length
            continue
        elif kind in (_COD, _COC):
            style, first = (body[0], 5) if kind == _COD else (body[1], 2)
            layers = struct.unpack_from(">H", body, 2)[0] if kind == _COD else 0
            precincts = body[first + 5 :] if style & 1 else b""
            if layers > _MOST_LAYERS or _count(precincts, width, height) > _MOST_PRECINCTS:
                break
        if length < 2 or kind < 0xFF00:
            break
        position += 2 + length
    raise CodestreamError("its compressed pixels have a header that makes no sense")


def _count(precincts: bytes, width: int, height: int) -> int:
    """Counts precincts, given the logarithms of their sides from the lowest resolution up."""
    levels = range(len(precincts) - 1, -1, -1)  # how often the picture was halved
    return sum(
        -(-width // (1 << level + (size & 15))) * -(-height // (1 << level + (size >> 4)))
        for level, size in zip(levels, precincts, strict=True)
    )
