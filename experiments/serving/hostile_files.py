"""Files that a decoder should survive: mutated radiographs, decompression bombs, other formats."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from experiments.serving.uploads import IDENTITY, dicom, draw, encode

Rng = np.random.Generator
_MEGABYTE = 2**20


def flip_bits(content: bytes, rng: Rng) -> bytes:
    """Flip 1 to 64 bits."""
    changed = np.frombuffer(content, np.uint8).copy()
    for _ in range(rng.integers(1, 65)):
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return changed.tobytes()


def flip_header_bits(content: bytes, rng: Rng) -> bytes:
    """Flip 1 to 8 bits of the first 512 bytes."""
    return flip_bits_of(content, rng, 512)


def flip_bits_of(content: bytes, rng: Rng, first: int) -> bytes:
    """Flip 1 to 8 bits of the first bytes."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        changed[rng.integers(min(first, len(content)))] ^= 1 << rng.integers(8)
    return bytes(changed)


def cut(content: bytes, rng: Rng) -> bytes:
    """Keep the beginning alone."""
    return content[: rng.integers(1, len(content))]


def lie_about_a_length(content: bytes, rng: Rng) -> bytes:
    """Overwrite four bytes, mostly of the header, with a length that is wrong."""
    value = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x10000]))
    last = len(content) - 4 if rng.random() < 0.3 else min(600, len(content) - 4)
    place = int(rng.integers(4, last))
    packed = struct.pack("<I" if rng.random() < 0.5 else ">I", value)
    return content[:place] + packed + content[place + 4 :]


def repeat_a_part(content: bytes, rng: Rng) -> bytes:
    """Insert a part of the file again, up to 50 times."""
    begin, end = sorted(int(each) for each in rng.integers(0, min(len(content), 4096), 2))
    part = content[begin:end] * int(rng.integers(1, 50))
    return content[:end] + part + content[end:]


def erase_a_part(content: bytes, rng: Rng) -> bytes:
    """Overwrite a part with zeros."""
    begin = int(rng.integers(len(content)))
    count = min(int(rng.integers(1, 20_000)), len(content) - begin)
    return content[:begin] + bytes(count) + content[begin + count :]


MUTATIONS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    flip_bits,
    flip_header_bits,
    cut,
    lie_about_a_length,
    repeat_a_part,
    erase_a_part,
)


def deflated_zeros(megabytes: int, head: bytes = b"", window: int = 15) -> bytes:
    """Return compressed zeros after some bytes."""
    packer = zlib.compressobj(1, wbits=window)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(_MEGABYTE)) for _ in range(megabytes)]
    return b"".join([*parts, packer.flush()])


def png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG file of any header and any chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@cache
def _zeros(megabytes: int) -> bytes:
    return deflated_zeros(megabytes)


def huge_png() -> bytes:
    """30,000 x 30,000 zeros."""
    return png(30_000, 30_000, 8, 0, (b"IDAT", _zeros(860)))


def largest_png() -> bytes:
    """The largest dimensions that are read: 5,000 x 6,000 zeros."""
    return png(5000, 6000, 8, 0, (b"IDAT", deflated_zeros(28, bytes(5001 * 6000 - 28 * _MEGABYTE))))


def largest_colour_png() -> bytes:
    """5,000 x 6,000 zeros in 16-bit colours with transparency: 240 MB of pixels."""
    rest = 40_001 * 6000 - 228 * _MEGABYTE
    return png(5000, 6000, 16, 6, (b"IDAT", deflated_zeros(228, bytes(rest))))


def png_of_text() -> bytes:
    """Compressed text and a colour profile of 200 MB each in a small image."""
    text = b"Comment\0\0" + _zeros(200)
    pixels = (b"IDAT", zlib.compress(bytes(65 * 64)))
    return png(64, 64, 8, 0, (b"zTXt", text), (b"iCCP", b"x\0\0" + _zeros(200)), pixels)


def png_of_chunks() -> bytes:
    """200,000 empty chunks."""
    pixels = (b"IDAT", zlib.compress(bytes(65 * 64)))
    return png(64, 64, 8, 0, *[(b"tEXt", b"a\0")] * 100_000, pixels, *[(b"IDAT", b"")] * 100_000)


def png_of_too_many_pixels() -> bytes:
    """A small image with 500 MB of pixels."""
    return png(64, 64, 8, 0, (b"IDAT", _zeros(500)))


def huge_jpeg() -> bytes:
    """A JPEG that says it has 65,500 x 65,500 pixels."""
    return _jpeg_of_size(65_500, 65_500)


def largest_jpeg() -> bytes:
    """A JPEG that says it has 5,400 x 5,400 pixels, nearly all of them missing."""
    return _jpeg_of_size(5400, 5400)


def _jpeg_of_size(width: int, height: int) -> bytes:
    content = bytearray(encode(draw(0, 64), "jpeg"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_of_scans() -> bytes:
    """A progressive JPEG whose last scan comes 2,000 times."""
    content = encode(np.ascontiguousarray(draw(0, 256)), "jpeg", progressive=True)
    last, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:end] + content[last:end] * 2000 + content[end:]


def tiff_of_entries() -> bytes:
    """A TIFF directory of 65,535 entries, each of which claims four billion values."""
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 0xFFFFFFFF, 8) for tag in range(1, 65_536) if tag
    )
    return struct.pack("<2sHIH", b"II", 42, 8, 65_535) + entries + bytes(4)


def tiff_loop() -> bytes:
    """TIFF directories that follow one another in a circle."""
    entries = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 64), (279, 4, 1, 4096)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + packed + struct.pack("<I", 4104)
    return struct.pack("<2sHI", b"II", 42, 4104) + bytes(4096) + directory


def tiff_of_directories() -> bytes:
    """50,000 TIFF directories in a row."""
    parts, place = [struct.pack("<2sHI", b"II", 42, 8)], 8
    for _ in range(50_000):
        place += 18
        parts.append(struct.pack("<HHHIII", 1, 256, 3, 1, 64, place))
    return b"".join(parts)


def tiff_of_strips() -> bytes:
    """Two million strips of one row, all at the same place."""
    count, start = 2_000_000, 8 + 2 + 12 * 9 + 4
    entries = [(256, 4, 1, 15), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (273, 4, count, start), (277, 3, 1, 1), (278, 4, 1, 1)]
    entries += [(279, 4, count, start)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + packed + bytes(4) + bytes(4 * count)


def _dicom_head() -> tuple[bytes, bytes]:
    content = dicom(np.zeros((64, 64), np.uint8))
    pixels = content.index(b"\xe0\x7f\x10\x00OB")
    meta_end = 132 + 12 + struct.unpack_from("<I", content, 140)[0]
    return content[:meta_end], content[meta_end:pixels]


def deflated_dicom() -> bytes:
    """A deflated DICOM file whose pixels are 500 MB of zeros."""
    small = dicom(np.zeros((64, 64), np.uint8), deflated=True)
    meta = small[: 132 + 12 + struct.unpack_from("<I", small, 140)[0]]
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", 500 * _MEGABYTE)
    return meta + deflated_zeros(500, _dicom_head()[1] + pixels, window=-15)


def dicom_of_sequences() -> bytes:
    """50,000 sequences in one another."""
    meta, head = _dicom_head()
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return meta + head + opened * 50_000


def dicom_of_elements() -> bytes:
    """A million private elements without a value."""
    meta, head = _dicom_head()
    elements = b"".join(
        struct.pack("<HH2sH", 0x09 + 2 * (number >> 16), number & 0xFFFF, b"LO", 0)
        for number in range(0x1000, 1_000_000)
    )
    return meta + elements + head


def huge_dicom() -> bytes:
    """A DICOM header that claims 65,535 x 65,535 pixels."""
    return dicom(np.zeros((64, 64), np.uint8), Rows=65_535, Columns=65_535)


def dicom_of_frames() -> bytes:
    """A DICOM header that claims two billion frames."""
    return dicom(np.zeros((64, 64), np.uint8), NumberOfFrames="2147483647")


def zip_file() -> bytes:
    """A ZIP file of 100 MB of zeros."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hand.png", bytes(100 * _MEGABYTE))
    return stream.getvalue()


def animation() -> bytes:
    """An animated GIF of 1,000 images."""
    stream = io.BytesIO()
    images = [Image.fromarray(np.full((64, 64), number % 256, np.uint8)) for number in range(1000)]
    images[0].save(stream, "gif", save_all=True, append_images=images[1:])
    return stream.getvalue()


def svg() -> bytes:
    """An SVG picture that refers to a file, and names that grow a thousand million times."""
    lines = [b'<!ENTITY e0 "aaaaaaaaaa"><!ENTITY x SYSTEM "file:///etc/passwd">']
    lines += [b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 9)]
    return b"<?xml version='1.0'?><!DOCTYPE svg [%s]><svg>&e8;&x;</svg>" % b"".join(lines)


BOMBS: tuple[Callable[[], bytes], ...] = tuple(
    map(
        cache,
        (
            huge_png,
            largest_png,
            largest_colour_png,
            png_of_text,
            png_of_chunks,
            png_of_too_many_pixels,
            huge_jpeg,
            largest_jpeg,
            jpeg_of_scans,
            tiff_of_entries,
            tiff_loop,
            tiff_of_directories,
            tiff_of_strips,
            deflated_dicom,
            dicom_of_sequences,
            dicom_of_elements,
            huge_dicom,
            dicom_of_frames,
            zip_file,
        ),
    )
)


def other_file(rng: Rng) -> bytes:
    """Return a file that is no radiograph."""
    noise = rng.integers(0, 256, (64, 64), np.uint8)
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: b"\x00",
        lambda: rng.bytes(10_000),
        lambda: b"%PDF-1.7\n" + rng.bytes(1000),
        lambda: f"<html><script>alert(1)</script>{IDENTITY}</html>".encode(),
        svg,
        animation,
        lambda: encode(noise, "webp"),
        lambda: encode(noise, "bmp"),
        lambda: encode(noise[:2, :2], "png"),
        lambda: b"\x89PNG\r\n\x1a\n",
        lambda: b"\xff\xd8\xff\xe0",
        lambda: bytes(128) + b"DICM",
        lambda: b"\x7fELF" + rng.bytes(1000),
        lambda: b"\x00" * 5_000_000,
        lambda: b"\x80\x04\x95" + rng.bytes(500),
    )
    return makers[rng.integers(len(makers))]()
