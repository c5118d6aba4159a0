"""Phantom radiographs as files of every format, and the bodies of requests that upload them."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

import boneage
from boneage.datasets.phantom.cohort import draw_hand
from boneage.prediction.predict import Estimator

MODEL = "rsna-best"
BOUNDARY = "----------------boneage-serving"
MEDIA_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SIDE = 512
"""The side of most phantoms, in pixels."""
IDENTITY = "Mustermann"
"""A name that is part of every file name and DICOM header, and that no log may hold."""

Pixels = npt.NDArray[np.uint8]
Field = tuple[str, str | None, bytes]


@dataclass(frozen=True)
class Upload:
    """A radiograph to upload, and what the answer should be.

    Attributes:
        name: The name of the file.
        content: The file.
        sex: The sex to give; "" if it is not given.
        months: The answer of `Estimator.predict`; two of them if the sex is not known.
    """

    name: str
    content: bytes
    sex: str
    months: tuple[float, ...] = ()

    def body(self, **fields: str) -> bytes:
        """Return the request's body."""
        parts: list[Field] = [("image", self.name, self.content)]
        more = {"sex": self.sex, **fields}
        return form([*parts, *((key, None, value.encode()) for key, value in more.items())])

    def is_right(self, answer: dict[str, Any]) -> bool:
        """Return whether a JSON answer is `Estimator.predict`'s, to 0.01 month."""
        found = estimated_months(answer)
        return len(found) == len(self.months) and all(
            abs(one - other) <= 0.01 for one, other in zip(found, self.months, strict=True)
        )


def estimated_months(answer: dict[str, Any]) -> tuple[float, ...]:
    """Return the months of an answer's estimates: none, one, or one for each sex."""
    if answer["status"] != "answered":
        return ()
    estimates = answer.get("by_sex", {"": answer})
    return tuple(float(each["predicted_age_months"]) for each in estimates.values())


def form(fields: Sequence[Field], boundary: str = BOUNDARY) -> bytes:
    """Return fields as multipart/form-data. A field is its name, its file name, its value."""
    parts = []
    for name, file_name, value in fields:
        head = f'Content-Disposition: form-data; name="{name}"'
        if file_name is not None:
            head += f'; filename="{file_name}"\r\nContent-Type: application/octet-stream'
        head_bytes = head.encode("utf-8", "surrogateescape")
        parts += [f"--{boundary}\r\n".encode(), head_bytes, b"\r\n\r\n", value, b"\r\n"]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()])


def draw(number: int, size: int = SIDE) -> Pixels:
    """Return one of the phantom hands."""
    rng = np.random.default_rng([17, number])
    return draw_hand(48 + 18 * (number % 8), "FM"[number % 2], rng=rng, size=size)


def encode(pixels: Pixels, kind: str, **options: Any) -> bytes:
    """Return an image as a PNG, JPEG or TIFF file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def dicom(pixels: npt.NDArray[Any], *, deflated: bool = False, **values: Any) -> bytes:
    """Return a DICOM file with an identity in its header."""
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.10.999.2"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.10.999.3"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.10.999.4"
    dataset.PatientName, dataset.PatientID = f"{IDENTITY}^Erika", IDENTITY
    dataset.Modality, dataset.BodyPartExamined = "DX", "HAND"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PixelData = pixels.tobytes()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = (
        DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    )
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def phantom_files(count: int = 8) -> list[Upload]:
    """Return phantoms as PNG, JPEG, TIFF and DICOM files in turn, without answers."""
    made = []
    for number, kind in zip(range(count), itertools.cycle(("png", "jpeg", "tiff", "dcm"))):
        pixels, sex = draw(number), "FM"[number % 2]
        name = f"{IDENTITY} {number}.{kind}"
        if kind == "dcm":
            made.append(Upload(name, dicom(pixels, PatientSex=sex), ""))  # the header has the sex
        else:
            made.append(Upload(name, encode(pixels, kind), "" if kind == "tiff" else sex))
    return made


def png_phantoms(count: int = 8, size: int = SIDE) -> list[Upload]:
    """Return phantoms as PNG files, without answers."""
    return [
        Upload(f"{IDENTITY} {number}.png", encode(draw(number, size), "png"), "FM"[number % 2])
        for number in range(count)
    ]


def with_answers(uploads: Sequence[Upload], views: int = 1) -> list[Upload]:
    """Return uploads with the answers of `boneage.load(...).predict`."""
    estimator: Estimator = boneage.load(MODEL, views=views)
    answered = []
    with tempfile.TemporaryDirectory() as folder:
        for number, upload in enumerate(uploads):
            path = Path(folder) / f"{number}{Path(upload.name).suffix}"
            path.write_bytes(upload.content)
            answer = estimator.predict(path, sex=upload.sex or None).as_dict()
            months = estimated_months(answer)
            assert months, f"no answer for {upload.name}: {answer['reason']}"
            answered.append(Upload(upload.name, upload.content, upload.sex, months))
    return answered
