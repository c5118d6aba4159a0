"""A radiograph file as received, decoded to one grey array, or refused with the reason."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.radiographs.dicom import is_dicom
from boneage.radiographs.dicom_pixels import decode_dicom, read_dicom_dimensions
from boneage.radiographs.file_structure import (
    LARGEST_PIXELS,
    LARGEST_SIDE,
    SMALLEST_SIDE,
    Layout,
    StructureError,
    check_dimensions,
    check_whole,
    open_regular,
    picture_fault,
    read_layout,
)
from boneage.radiographs.png_inflate import inflated
from boneage.radiographs.tiff import without_alpha

__all__ = [
    "LARGEST_PIXELS",
    "LARGEST_SIDE",
    "SMALLEST_SIDE",
    "Radiograph",
    "read_dimensions",
    "read_radiograph",
]

Radiograph = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_SNIFFED = 256  # bytes that tell DICOM from the rest


def read_radiograph(path: str | Path) -> Radiograph:
    """Decodes a PNG, JPEG, TIFF, BMP or DICOM file to grey, upright, dense is as it was shown.

    What the file is follows from its content, never from its name alone. Its dimensions are
    looked at before memory is taken for them, and its structure is walked before it is decoded.
    JPEG and LZW carry no checksum: a bit that fell over inside them may be seen in the picture.

    Args:
        path: The picture's file. Colour is turned to grey, transparency ignored.

    Returns:
        Array `(h, w)`, uint8 or, for radiographs of more than 8 bits, uint16.

    Raises:
        InputError: The file is missing, empty, truncated, damaged, not a picture or several, of an
            unsuitable depth, of absurd dimensions, or in need of a decoder that is not installed.
    """
    path = Path(path)
    data = _read_bytes(path)
    if is_dicom(data[:_SNIFFED], path):
        return decode_dicom(data, path)
    try:
        layout = read_layout(lambda offset, count: _slice(data, offset, count), len(data))
        check_dimensions(path, layout.width, layout.height)
        check_whole(data, layout)
    except StructureError as broken:
        raise InputError(picture_fault(path, str(broken), broken.fix)) from None
    return _decode(data, layout, path)


def read_dimensions(path: str | Path) -> tuple[int, int]:
    """Reads a radiograph's width and height, upright, from its header alone.

    Args:
        path: The picture's file; whether the rest of it is whole is not looked at.

    Returns:
        Width and height of what `read_radiograph` gives, pixels.

    Raises:
        InputError: The file is missing, empty, not a picture, or of absurd dimensions.
    """
    path = Path(path)
    with open_regular(path) as file:
        try:
            dicom = is_dicom(file.read(_SNIFFED), path)
            if not dicom:
                layout = read_layout(file.take, file.size)
        except StructureError as broken:
            raise InputError(picture_fault(path, str(broken), broken.fix)) from None
        except OSError as error:
            raise InputError(picture_fault(path, _unread(error))) from None
    if dicom:
        return read_dicom_dimensions(path)
    check_dimensions(path, layout.width, layout.height)
    return layout.width, layout.height


def _read_bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise InputError(picture_fault(path, _unread(error))) from None


def _unread(error: OSError) -> str:
    return f"it can't be read ({error.strerror or error})"


def _slice(data: bytes, offset: int, count: int) -> bytes:
    if offset + count > len(data):
        raise struct.error("truncated")
    return data[offset : offset + count]


def _decode(data: bytes, layout: Layout, path: Path) -> Radiograph:
    data = inflated(data) if layout.tiff is None else without_alpha(data, layout.tiff)
    try:
        # Grey and any depth, rather than "unchanged", because only then is EXIF rotation applied.
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        raise InputError(picture_fault(path, f"it can't be decoded ({error.err})")) from None
    if image is None:
        raise InputError(picture_fault(path, "it can't be decoded"))
    if image.shape != (layout.height, layout.width):
        what = f"it was decoded to {image.shape[1]} x {image.shape[0]} pixels, not to its header's"
        raise InputError(picture_fault(path, f"{what} {layout.width} x {layout.height}"))
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype != np.uint16:
        raise InputError(
            Fault(
                str(path),
                f"its pixels are {image.dtype}",
                "Convert it to a 16-bit PNG.",
                expected="8 or 16 bit whole numbers",
            )
        )
    deep = np.asarray(image, np.uint16)
    if layout.tiff is not None and layout.tiff.white_is_zero:
        # OpenCV turns such radiographs round in 8 bits, but not in more.
        return np.subtract(_white(layout.tiff.bits), deep)
    return deep


def _white(bits: int) -> np.uint16:
    """Returns the largest value that OpenCV gives to samples of so many bits, in 16."""
    return np.uint16((2**bits - 1) << (16 - bits))
