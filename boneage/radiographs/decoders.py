"""Decode a tiny file of each compressed kind, to see whether the decoders work here."""

from __future__ import annotations

import base64
import io

import numpy as np
import simplejpeg

from boneage.errors import InputError
from boneage.radiographs.file_limits import Upload
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.extras import has_package

_PIXELS = np.asarray(np.add.outer(np.arange(16), np.arange(16)) * 8, np.uint8)
# Those pixels as GDCM compresses them, each with the end of its transfer syntax.
_FRAMES = {
    "JPEG 2000": (
        ".4.90",
        "/0//UQApAAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABBwEB/1IADAAAAAEAAwQEAAH/XAANQEBI"
        "SFBISFBISFD/ZAAqAAFDcmVhdGVkIGJ5IEdEQ00vT3BlbkpQRUcgdmVyc2lvbiAyLjMuMP+QAAoAAAAAAEAAAf+T"
        "34AoB8/3XvnD6gOH1AYNAhELPYrB84WD5wgiGghdfwN/3VHA+QJA+QIANqGZzz2mNF//2Q==",
    ),
    "JPEG-LS": (
        ".4.80",
        "/9j/9wALCAAQABABAREA/9oACAEBAAAAAIcdo7Vp/d27uwgRzFI7MzK2wTbbaSSSU6qqqqplVVV9X/9o/3/v/3z/"
        "f8//fP9/z/96/3/f/3v/f3//YP/ZAA==",
    ),
    "lossless JPEG": (
        ".4.70",
        "/9j/wwALCAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAABAj/2gAIAQEAAQAAn9CEIQhCEIQhCEIQhCEIQhCE"
        "IQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQh"
        "CEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEIQhCEI"
        "QhCEIQhCEIQhCEf/2QA=",
    ),
}
NEED_GDCM = ("JPEG-LS", "lossless JPEG")


def try_decoders() -> dict[str, str]:
    """Return what is wrong with each decoder; an empty text for one that works.

    Those that need gdcm are left out where it is not installed.
    """
    files = {"JPEG": Upload("tiny.jpg", simplejpeg.encode_jpeg(_PIXELS[..., None], 95, "GRAY"))}
    for name, (syntax, frame) in _FRAMES.items():
        if name not in NEED_GDCM or has_package("gdcm"):
            files[name] = Upload("tiny.dcm", _dicom(syntax, base64.b64decode(frame)))
    return {name: _try(file) for name, file in files.items()}


def _try(file: Upload) -> str:
    try:
        found = read_radiograph(file).astype(np.int64)
    except InputError as error:
        return error.faults[0].what
    largest = int(np.abs(found - _PIXELS).max())
    return "" if largest <= 8 else "it gives wrong pixels"  # JPEG loses a little


def _dicom(syntax: str, frame: bytes) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "2.25.17"
    dataset.Rows, dataset.Columns = _PIXELS.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(f"1.2.840.10008.1.2{syntax}")
    dataset.PixelData = encapsulate([frame])
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()
