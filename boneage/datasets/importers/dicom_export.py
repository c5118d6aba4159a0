"""Copies of DICOM films that hold pixels and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.dicom_headers import DicomFilm
from boneage.errors import Fault, InputError
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.files import write_bytes
from boneage.runtime.threads import threads

_WORKERS = 4


def write_pixels(
    films: Sequence[DicomFilm],
    names: Sequence[str],
    folder: Path,
    places: Sequence[str],
    *,
    progress: bool = True,
) -> list[Path]:
    """Writes `folder/<name>.png` for each film: 8 or 16 bit grey, and no other byte of the file.

    Args:
        films: What to decode.
        names: What to call each.
        folder: Where to; made if need be. Older copies of the same names are replaced.
        places: What names each in a message when its path must not be shown.
        progress: Show progress on standard error.

    Returns:
        The files that were not there before.

    Raises:
        InputError: Films can't be decoded (all of them at once) or written. No new file is left.
    """
    made: list[Path] = []

    def write(index: int) -> tuple[Fault, ...]:
        path = folder / f"{names[index]}.png"
        try:
            done, png = cv2.imencode(".png", read_radiograph(films[index].path))
            if not done:
                raise RuntimeError(f"OpenCV could not encode film {names[index]}")
            if not path.exists():
                made.append(path)
            write_bytes(path, png.tobytes())
        except InputError as error:
            return error.faults
        return ()

    console = Console(stderr=True)
    # By name, or the times of the files would keep the order of the table.
    order = sorted(range(len(films)), key=names.__getitem__)
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
    except BaseException:  # Ctrl-C stops as soon as the films at hand are done
        _remove(made)
        raise
    if faults:
        _remove(made)
        raise InputError(
            [
                _veiled(fault, films[index], places[index])
                for index in sorted(faults)
                for fault in faults[index]
            ]
        )
    return made


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _veiled(fault: Fault, film: DicomFilm, place: str) -> Fault:
    """The fault under another name, if the path tells who the child is."""
    if not film.discloses:
        return fault

    def veil(text: str) -> str:
        return text.replace(str(film.path), place)

    return Fault(veil(fault.where), veil(fault.what), veil(fault.expected), veil(fault.fix))
