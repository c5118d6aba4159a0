"""Write the pixels of DICOM radiographs as PNG files, without any other byte of the originals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import track

from boneage.errors import Fault, InputError
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.files import write_bytes
from boneage.runtime.threads import threads

_WORKERS = 4


def write_images(
    radiographs: Sequence[Path],
    images: Sequence[Path],
    where: Sequence[str],
    *,
    progress: bool = True,
) -> None:
    """Write each radiograph as a grey PNG file of 8 or 16 bits.

    Args:
        radiographs: The DICOM files.
        images: The file to write for each; an older file is replaced.
        where: What a message calls each radiograph, because its path may hold a name.
        progress: Show progress on standard error.

    Raises:
        InputError: Radiographs can't be decoded (all of them at once), or an image can't be
            written.
    """

    def write(index: int) -> list[Fault]:
        radiograph, image = radiographs[index], images[index]
        try:
            is_encoded, png = cv2.imencode(".png", read_radiograph(radiograph))
        except InputError as error:
            whats = [fault.what.replace(str(radiograph), "the file") for fault in error.faults]
            pairs = zip(error.faults, whats, strict=True)
            return [replace(fault, where=where[index], what=what) for fault, what in pairs]
        if not is_encoded:
            raise RuntimeError(f"OpenCV could not encode {image.name}")
        write_bytes(image, png.tobytes())
        return []

    # In the order of the pseudonyms: the files' times must not keep the order of the table.
    order = sorted(range(len(images)), key=images.__getitem__)
    console = Console(stderr=True)
    with threads(_WORKERS) as pool:
        results = track(
            pool.map(write, order),
            "Writing images",
            total=len(order),
            console=console,
            disable=not progress,
        )
        faults = dict(zip(order, results, strict=True))
    if any(faults.values()):
        raise InputError([fault for index in sorted(faults) for fault in faults[index]])
