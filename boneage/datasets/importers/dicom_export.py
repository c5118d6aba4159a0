"""Copies of DICOM radiographs that hold pixels and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.dicom_headers import DicomRadiograph
from boneage.errors import Fault, InputError
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.files import write_bytes
from boneage.runtime.threads import threads

_WORKERS = 4


def write_pixels(
    radiographs: Sequence[DicomRadiograph],
    names: Sequence[str],
    folder: Path,
    places: Sequence[str],
    *,
    progress: bool = True,
) -> list[Path]:
    """Writes `folder/<name>.png` for each radiograph: 8 or 16 bit grey, and no other byte of the file.

    Args:
        radiographs: What to decode.
        names: What to call each.
        folder: Where to; made if need be. Older copies of the same names are replaced.
        places: What names each in a message when its path must not be shown.
        progress: Show progress on standard error.

    Returns:
        The files that were not there before.

    Raises:
        InputError: Radiographs can't be decoded (all of them at once) or written. No new file is
            left.
    """
    made: list[Path] = []

    def write(index: int) -> tuple[Fault, ...]:
        path = folder / f"{names[index]}.png"
        try:
            done, png = cv2.imencode(".png", read_radiograph(radiographs[index].path))
            if not done:
                raise RuntimeError(f"OpenCV could not encode radiograph {names[index]}")
            if not path.exists():
                made.append(path)
            write_bytes(path, png.tobytes())
        except InputError as error:
            return error.faults
        return ()

    console = Console(stderr=True)
    # By name, or the times of the files would keep the order of the table.
    order = sorted(range(len(radiographs)), key=names.__getitem__)
    try:
        with threads(_WORKERS) as pool:
            answers = track(
                pool.map(write, order),
                "Writing films",
                total=len(order),
                console=console,
                disable=not progress,
            )
            faults = {index: found for index, found in zip(order, answers, strict=True) if found}
    except BaseException:  # Ctrl-C stops as soon as the radiographs at hand are done
        _remove(made)
        raise
    if faults:
        _remove(made)
        raise InputError(
            [
                _veiled(fault, radiographs[index], places[index])
                for index in sorted(faults)
                for fault in faults[index]
            ]
        )
    return made


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _veiled(fault: Fault, radiograph: DicomRadiograph, place: str) -> Fault:
    """The fault under another name, if the path tells who the child is."""
    if not radiograph.discloses:
        return fault

    def veil(text: str) -> str:
        return text.replace(str(radiograph.path), place)

    return Fault(
        veil(fault.where), veil(fault.what), veil(fault.fix), expected=veil(fault.expected)
    )
