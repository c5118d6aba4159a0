"""A radiograph file, decoded to one grey array or refused with the reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from boneage.errors import InputError
from boneage.radiographs.dicom import decode_dicom, is_dicom, read_dicom_dimensions
from boneage.radiographs.dicom_transformations import PARSING_ERRORS
from boneage.radiographs.file_limits import (
    LARGEST_FILE,
    LARGEST_PIXELS,
    LARGEST_SIDE,
    SAVE_AS_PNG,
    SMALLEST_SIDE,
    check_dimensions,
    image_fault,
    open_radiograph,
    quiet,
    read_radiograph_bytes,
)

__all__ = [
    "LARGEST_PIXELS",
    "LARGEST_SIDE",
    "SMALLEST_SIDE",
    "Radiograph",
    "read_dimensions",
    "read_radiograph",
]

Radiograph = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_SNIFFED_BYTES = 256  # enough to recognise DICOM
_MAX_CHUNKS = 200_000  # of a PNG file: libpng writes them of 8 kB
_MAX_PAGES = 64
_MAX_SCANS = 50  # each scan of a progressive JPEG runs over the whole image; encoders write ten
_GREY_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "YCbCr"})
_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L"})
_JPEG_STRIPS, _DEFLATE_STRIPS = 7, (8, 32946)  # values of TIFF's tag Compression

# What Pillow was seen to raise on damaged files, besides the errors of parsing: SyntaxError of bad
# headers, UserWarning of lost TIFF tags (`_open` makes it an error), DecompressionBombError.
_PILLOW_ERRORS = (
    *PARSING_ERRORS,
    SyntaxError,
    MemoryError,
    UserWarning,
    Image.DecompressionBombError,
    cv2.error,
)

# TIFF files of more than 8 bits in which white is zero, and big-endian ones of 12 bits: Pillow
# knows the other byte order alone. `_decode` inverts them.
for _order, _photometric, _bits in product((b"II", b"MM"), (0, 1), (12, 16)):
    _mode = "I;16B" if _order == b"MM" and _bits == 16 else "I;16"
    TiffImagePlugin.OPEN_INFO.setdefault(
        (_order, _photometric, (1,), 1, (_bits,), ()), (_mode, _mode if _bits == 16 else "I;12")
    )


class _RefusedError(Exception):
    """Why a file is refused; a second argument is what to do about it."""


def read_radiograph(path: str | Path) -> Radiograph:
    """Decode a PNG, JPEG, TIFF, BMP or DICOM file to an upright grey image.

    The kind of file follows from its content, never from its name alone. The dimensions in the
    header are checked before memory is reserved for the pixels. A decoder's warning is a refusal.
    Uncompressed pixels, JPEG and LZW carry no checksum: a flipped bit in them may go unseen.

    Args:
        path: The file. Colour is converted to grey, transparency is ignored.

    Returns:
        Array `(h, w)`, uint8 or, for radiographs of more than 8 bits, uint16. In DICOM files,
        dense is bright.

    Raises:
        InputError: The file is missing, empty, truncated or damaged; it holds no image or several;
            its depth or its dimensions are not supported; or it needs a decoder that is missing.
    """
    path = Path(path)
    data = read_radiograph_bytes(path)
    if is_dicom(data[:_SNIFFED_BYTES], path):
        return decode_dicom(data, path)
    try:
        image = _open(io.BytesIO(data), path)
        orientation = _orientation(image, io.BytesIO(data))
        pixels = _decode_jpeg(data) if _is_jpeg(image) else _decode(image, data)
    except _RefusedError as refused:
        raise InputError(image_fault(path, *refused.args)) from None
    except _PILLOW_ERRORS:
        what = f"the file is truncated or damaged, and can't be decoded ({len(data)} bytes)"
        raise InputError(image_fault(path, what)) from None
    return _upright(pixels, orientation)


def read_dimensions(path: str | Path) -> tuple[int, int]:
    """Read the width and height of the upright image from a radiograph's header.

    Args:
        path: The file. Its pixels are not decoded, so damage to them is not seen.

    Returns:
        Width and height of the array that `read_radiograph` returns, pixels.

    Raises:
        InputError: The file is missing, empty, not an image, or has unsupported dimensions.
    """
    path = Path(path)
    with open_radiograph(path) as file:
        try:
            start = file.read(_SNIFFED_BYTES)
            if not is_dicom(start, path):
                file.seek(0)
                image = _open(file, path)
                sides = image.size
                return sides[::-1] if _orientation(image, file) >= 5 else sides
        except _RefusedError as refused:
            raise InputError(image_fault(path, *refused.args)) from None
        except _PILLOW_ERRORS:
            what = "the file is truncated or damaged: its header can't be read"
            raise InputError(image_fault(path, what)) from None
    return read_dicom_dimensions(path)


def _open(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    """Read the header with Pillow, and check the dimensions in it."""
    with quiet("PIL"):
        warnings.filterwarnings("error", "Tag data larger|Tag offset too large")  # lost TIFF tags
        try:
            image = Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP"))
        except UnidentifiedImageError:
            file.seek(0)
            start = file.read(8)
            what = f"the file is truncated, or not a supported image (it begins with {start!r})"
            raise _RefusedError(what) from None
        check_dimensions(path, *image.size)
        _check_pages(image, file)
    return image


def _is_jpeg(image: ImageFile.ImageFile) -> bool:
    return image.format in ("JPEG", "MPO")  # MPO: a camera's JPEG with a second one behind it


def _check_pages(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Refuse animations and TIFF files of several pages; a TIFF's reduced preview is no page."""
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise _RefusedError("the file holds several images (an animation)", SAVE_AS_PNG)
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    file.seek(0)
    start = file.read(8)
    page = TiffImagePlugin.ImageFileDirectory_v2(start + (file.read(8) if start[2] == 43 else b""))
    page.next = image.tag_v2.next
    for _ in range(_MAX_PAGES):
        if not page.next:
            return
        file.seek(page.next)
        page.load(file)
        if not page.get(254, 0) & 1:  # NewSubfileType: a reduced image
            raise _RefusedError("the file holds several pages", SAVE_AS_PNG)
    raise _RefusedError(f"the file holds more than {_MAX_PAGES} images", SAVE_AS_PNG)


def _orientation(image: ImageFile.ImageFile, file: BinaryIO) -> int:
    """Return the EXIF orientation, 1 to 8; for TIFF files 1, because Pillow turns them itself."""
    if image.format == "TIFF":
        return 1
    with quiet("PIL"):
        if image.format != "PNG":
            return int(image.getexif().get(0x0112, 1))
        exif = Image.Exif()  # Pillow would decode the pixels to find data behind them
        for kind, length in _png_chunks(file):
            if kind == b"eXIf":
                exif.load(file.read(length))
        return int(exif.get(0x0112, 1))


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield kind and length of every chunk of a PNG file, which then stands at its content."""
    position = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        yield kind, length
        if kind == b"IEND":
            return
        position += 12 + length
    raise _RefusedError(f"the file is damaged: it has more than {_MAX_CHUNKS:,} chunks")


def _upright(pixels: Radiograph, orientation: int) -> Radiograph:
    """Turn an image by its EXIF orientation (CIPA DC-008, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return cast(Radiograph, np.ascontiguousarray(pixels))


def _decode_jpeg(data: bytes) -> Radiograph:
    """Decode with libjpeg-turbo in strict mode: its warnings are errors."""
    _check_scans(data)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0], np.uint8)
    except ValueError as error:
        raise _RefusedError(f"the JPEG file is truncated or damaged ({error})") from None


def _check_scans(data: bytes) -> None:
    if data.count(b"\xff\xda") > _MAX_SCANS:
        raise _RefusedError(f"the JPEG data is damaged: it has more than {_MAX_SCANS} scans")


def _decode(image: ImageFile.ImageFile, data: bytes) -> Radiograph:
    """Decode a PNG, TIFF or BMP file to grey."""
    if image.format == "PNG":
        _check_png(data)
        return _decode_with_opencv(image, data)  # in a fifth less time than Pillow
    is_inverted = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, data)
        is_inverted = image.mode in _DEEP_MODES and image.tag_v2.get(262) == 0
    elif image.info.get("compression") in (1, 2):
        raise _RefusedError("run-length coded BMP files are not supported", SAVE_AS_PNG)
    if image.mode not in _GREY_MODES | _DEEP_MODES:
        what = f"pixels of the kind {image.mode} are not supported (floating point, signed, CMYK)"
        raise _RefusedError(what, SAVE_AS_PNG)
    arguments = image.tile[0].args if image.tile else ""
    stored = str(arguments if isinstance(arguments, str) else (arguments or "")[:1])
    with quiet("PIL"):
        image.load()
    if image.mode in _DEEP_MODES:
        deep = np.asarray(image).astype(np.uint16)
        if is_inverted:
            deep = np.uint16(2 ** image.tag_v2[258][0] - 1) - deep  # type: ignore[attr-defined]
        return deep
    if "16" in stored or "a" in stored:
        # Pillow would cut colour to 8 bits, and divide premultiplied colour by its opacity.
        return _decode_with_opencv(image, data)
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0), np.uint8)
    opaque = image.convert("RGB") if image.mode in ("P", "PA", "RGBA") else image
    return np.asarray(opaque.convert("L"), np.uint8)


def _decode_with_opencv(image: ImageFile.ImageFile, data: bytes) -> Radiograph:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    if image.format == "PNG":
        flags |= cv2.IMREAD_IGNORE_ORIENTATION  # `_upright` turns the pixels
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != image.size[::-1]:
        raise _RefusedError("the file is damaged: its pixels can't be decoded")
    return cast(Radiograph, pixels)


def _check_png(data: bytes) -> None:
    """Check that all chunks are whole; decoders do not all read every checksum."""
    file = io.BytesIO(data)
    for kind, length in _png_chunks(file):
        file.seek(-4, io.SEEK_CUR)
        body = file.read(4 + length)
        if file.read(4) != struct.pack(">I", zlib.crc32(body)):
            raise _RefusedError(f"the file is truncated or damaged (checksum of {kind!r})")


def _check_tiff(image: TiffImagePlugin.TiffImageFile, data: bytes) -> None:
    """Check what libtiff does not: sample format, checksums of deflate, JPEG that is cut short."""
    tags = image.tag_v2
    if not {1, 4}.issuperset(tags.get(339, (1,))):
        what = "the pixels are signed or floating point, not unsigned integers"
        raise _RefusedError(what, SAVE_AS_PNG)
    offsets = tags.get(273) or tags.get(324) or ()
    counts = tags.get(279) or tags.get(325) or ()
    strips = [data[start : start + count] for start, count in zip(offsets, counts, strict=True)]
    if tags.get(259, 1) == 1:
        row = -(-tags[256] * sum(tags.get(258, (1,))) // 8)
        if sum(map(len, strips)) < tags[257] * row:
            raise _RefusedError("the file is truncated or damaged: its strips are too short")
    elif tags.get(259) in _DEFLATE_STRIPS:
        for strip in strips:
            inflater = zlib.decompressobj()
            inflater.decompress(strip, LARGEST_FILE)
            if not inflater.eof:
                raise _RefusedError("the file is truncated or damaged (a strip has no end)")
    elif tags.get(259) == _JPEG_STRIPS:
        _check_jpeg_strips(tags, strips)


def _check_jpeg_strips(tags: TiffImagePlugin.ImageFileDirectory_v2, strips: list[bytes]) -> None:
    """Decode strips or tiles in strict mode, and compare their sizes with the directory's."""
    tables = tags.get(347, b"")[:-2]  # JPEGTables: a start marker and what all strips share
    width, height = tags.get(322, tags[256]), tags[257]
    rows = tags.get(323, min(tags.get(278, height), height))
    for number, strip in enumerate(strips):
        pixels = _decode_jpeg(tables + strip[2:] if tables else strip)
        least = rows if 323 in tags else min(rows, height - number * rows)
        if pixels.shape[0] < least or pixels.shape[1] < width:
            raise _RefusedError("the file is damaged: a JPEG strip has too few pixels")
