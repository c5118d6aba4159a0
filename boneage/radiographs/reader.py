"""A radiograph file, decoded to one grey array or refused with the reason."""

from __future__ import annotations

import io
import warnings
from itertools import product
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from boneage.errors import InputError
from boneage.radiographs.dicom import SNIFFED_BYTES, decode_dicom, is_dicom, read_dicom_dimensions
from boneage.radiographs.dicom_transformations import PARSING_ERRORS
from boneage.radiographs.file_limits import (
    LARGEST_PIXELS,
    LARGEST_SIDE,
    SAVE_AS_PNG,
    SMALLEST_SIDE,
    RefusedPixelsError,
    Upload,
    check_dimensions,
    image_fault,
    open_radiograph,
    quiet,
    read_radiograph_bytes,
)
from boneage.radiographs.jpeg import decode_jpeg, frame_header, read_segments
from boneage.radiographs.png import SIGNATURE, read_png
from boneage.radiographs.tiff import check_directories, check_tiff

__all__ = [
    "LARGEST_PIXELS",
    "LARGEST_SIDE",
    "SMALLEST_SIDE",
    "Radiograph",
    "read_dimensions",
    "read_radiograph",
]

Radiograph = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_JPEG_START = b"\xff\xd8\xff"
_TIFF_STARTS = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
_GREY_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "YCbCr"})
_DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L"})

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


def read_radiograph(path: str | Path | Upload) -> Radiograph:
    """Decode a PNG, JPEG, TIFF, BMP or DICOM file to an upright grey image.

    The kind of file follows from its content, never from its name alone. The dimensions in the
    header are checked before memory is reserved for the pixels. A decoder's warning is a refusal,
    and pixels that are missing or too many are. Uncompressed pixels, JPEG and LZW carry no
    checksum: a flipped bit in them may go unseen.

    Args:
        path: The file, or one in memory. Colour is converted to grey, transparency is ignored.

    Returns:
        Array `(h, w)`, uint8 or, for radiographs of more than 8 bits, uint16. In DICOM files,
        dense is bright.

    Raises:
        InputError: The file is missing, empty, truncated or damaged; it holds no image or several;
            its depth or its dimensions are not supported; or it needs a decoder that is missing.
    """
    data = read_radiograph_bytes(path if isinstance(path, Upload) else Path(path))
    path = Path(str(path))
    try:
        return _decode_file(data, path)
    except InputError:
        raise
    except Exception as error:  # a decoder's bug must not end the job of the other files
        what = f"the file can't be decoded ({type(error).__name__})"
        raise InputError(image_fault(path, what)) from error


def _decode_file(data: bytes, path: Path) -> Radiograph:
    if is_dicom(data[:SNIFFED_BYTES], path):
        return decode_dicom(data, path)
    try:
        if data.startswith(_JPEG_START):
            orientation = _jpeg_header(data, path)[2]
            pixels: Radiograph = decode_jpeg(data)[:, :, 0]
        else:
            image, cleaned, orientation = _open(io.BytesIO(data), path, pixels=True)
            pixels = _decode(image, cleaned or data)
    except RefusedPixelsError as refused:
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
            start = file.read(SNIFFED_BYTES)
            if not is_dicom(start, path):
                file.seek(0)
                if start.startswith(_JPEG_START):
                    width, height, orientation = _jpeg_header(file.read(), path)
                else:
                    image, _, orientation = _open(file, path, pixels=False)
                    width, height = image.size
                return (height, width) if orientation >= 5 else (width, height)
        except RefusedPixelsError as refused:
            raise InputError(image_fault(path, *refused.args)) from None
        except _PILLOW_ERRORS:
            what = "the file is truncated or damaged: its header can't be read"
            raise InputError(image_fault(path, what)) from None
    return read_dicom_dimensions(path)


def _open(file: BinaryIO, path: Path, *, pixels: bool) -> tuple[ImageFile.ImageFile, bytes, int]:
    """Read the header of a PNG, TIFF or BMP file, and check its dimensions.

    Returns:
        The image, the data to decode and the EXIF orientation, 1 to 8.
    """
    file.seek(0)
    start, exif = file.read(8), b""
    file.seek(0)
    if start == SIGNATURE:
        data, exif = read_png(file, pixels=pixels)
        file = io.BytesIO(data)
    with quiet("PIL"):
        warnings.filterwarnings("error", "Tag data larger|Tag offset too large")  # lost TIFF tags
        if start[:4] in _TIFF_STARTS:
            check_directories(file)
        try:
            file.seek(0)
            image = Image.open(file, formats=("PNG", "TIFF", "BMP"))
        except UnidentifiedImageError:
            begin = repr(start).removeprefix("b")
            what = f"the file is truncated, or not a supported image (it begins with {begin})"
            fix = "Save an image of another kind as PNG. Download or export a damaged file again."
            raise RefusedPixelsError(what, fix) from None
    check_dimensions(path, *image.size)
    return image, data if start == SIGNATURE else b"", _orientation(exif)


def _orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; Pillow turns TIFF files itself."""
    if not exif:
        return 1
    with quiet("PIL"):
        tags = Image.Exif()
        tags.load(exif)
        return int(tags.get(0x0112, 1))


def _jpeg_header(data: bytes, path: Path) -> tuple[int, int, int]:
    """Return width, height and EXIF orientation of a JPEG file."""
    segments = read_segments(data)
    width, height, _ = frame_header(segments)
    check_dimensions(path, width, height)
    exif = (body for marker, body in segments if marker == 0xE1 and body[:6] == b"Exif\0\0")
    return width, height, _orientation(next(exif, b""))


def _upright(pixels: Radiograph, orientation: int) -> Radiograph:
    """Turn an image by its EXIF orientation (CIPA DC-008, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return cast(Radiograph, np.ascontiguousarray(pixels))


def _decode(image: ImageFile.ImageFile, data: bytes) -> Radiograph:
    """Decode a PNG, TIFF or BMP file to grey."""
    if image.format == "PNG":
        return _decode_with_opencv(image, data)  # in a fifth less time than Pillow
    is_inverted = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        check_tiff(image, data)
        is_inverted = image.mode in _DEEP_MODES and image.tag_v2.get(262) == 0
    else:
        _check_bmp(image, data)
    if image.mode not in _GREY_MODES | _DEEP_MODES:
        what = f"pixels of the kind {image.mode} are not supported (floating point, signed, CMYK)"
        raise RefusedPixelsError(what, SAVE_AS_PNG)
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


def _check_bmp(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse run-length codes, and pixels that are more than the header says."""
    if image.info.get("compression") in (1, 2):
        raise RefusedPixelsError("run-length coded BMP files are not supported", SAVE_AS_PNG)
    _, row_bytes, _ = cast(tuple[str, int, int], image.tile[0].args)
    # A colour profile may come behind the pixels, so the header's number of bytes goes first.
    held = int.from_bytes(data[34:38], "little") or len(data) - image.tile[0].offset
    if held >= (image.size[1] + 1) * row_bytes:
        raise RefusedPixelsError("the file is damaged: it has more pixels than its header says")


def _decode_with_opencv(image: ImageFile.ImageFile, data: bytes) -> Radiograph:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    if image.format == "PNG":
        flags |= cv2.IMREAD_IGNORE_ORIENTATION  # `_upright` turns the pixels
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != image.size[::-1]:
        raise RefusedPixelsError("the file is damaged: its pixels can't be decoded")
    return cast(Radiograph, pixels)
