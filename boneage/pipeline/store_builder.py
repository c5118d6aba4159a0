"""The builder of a store: it decodes and frames every image of a manifest, and can be resumed.

An unfinished store has these files: `images.npy`; `plan.json`, what the store is made from;
`journal.npy`, int64 `(n,)`, the checksum of every finished row and -1 for the others; `crops.npy`,
float64 `(n, 7)`, the box, rotation, reason and gain of every finished row: later `frames.csv`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.progress import track

from boneage.errors import Fault, InputError
from boneage.pipeline.store_worker import Framer, FramerDiedError, FramingTask, Row, make_row
from boneage.radiographs.framing import REASONS
from boneage.radiographs.hand_detection import Box
from boneage.recipe import Framing
from boneage.runtime.arrays import ARRAY_ERRORS
from boneage.runtime.files import read_json
from boneage.runtime.machine import check_disk
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

JOURNAL_SECONDS = 2.0
FRAME_COLUMNS = ("image_id", "left", "top", "right", "bottom", "rotation", "why", "gain")
_UNDONE = -1
_BEGUN = ("journal", "crops", "images")  # arrays of an unfinished store
# With this many threads, they wait for one another. Starting processes takes a second, which this
# many radiographs are worth.
_PROCESSES_FROM_WORKERS, _PROCESSES_FROM_RADIOGRAPHS = 5, 1000


def store_digest(described: dict[str, Any], checksums: npt.NDArray[np.uint32]) -> str:
    """Return the hex digest of the image ids, the framing and the checksums of all rows.

    It does not depend on the paths or the times of the files.
    """
    text = json.dumps([described[key] for key in ("version", "framing", "image_ids")])
    return hashlib.sha256(text.encode() + checksums.tobytes()).hexdigest()


@contextlib.contextmanager
def locked(folder: Path, console: Console | None) -> Iterator[None]:
    """Lock the folder against other processes. If it has to wait, say so on the console."""
    lock = filelock.FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if console is not None:
            console.print(f"Another process is preparing {folder}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def clear(folder: Path) -> None:
    """Remove an outdated store, but no folder of anything else."""
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / "store.json").exists():
        raise InputError(
            Fault(
                str(folder),
                "this folder has something else than a store in it",
                "Choose a new folder, or that of an older store.",
            )
        )
    shutil.rmtree(folder)


def build(
    folder: Path,
    plan: dict[str, Any],
    framing: Framing,
    paths: list[Path],
    regions: list[Box | None],
    workers: int | None,
    console: Console | None,
) -> None:
    """Build a store in a `.partial` folder, and rename the folder when it is complete.

    Args:
        folder: Folder of the store. It must not exist.
        plan: What the store is made from. A partial store with another plan is deleted.
        framing: Framing of the images.
        paths: Files of the images, one per row.
        regions: The part of each file to use, or None for the whole image.
        workers: Number of threads (of processes for many images) that decode. Default: one per
            core.
        console: Console of the progress bar, or None for no progress bar.

    Raises:
        InputError: Some images can't be read (it names all of them), the disk has too little
            space, or a worker process died. In the last case, the finished rows are kept.
    """
    partial = folder.with_name(folder.name + ".partial")
    journal, crops, start = _begin(partial, plan, (len(paths), framing.size, framing.size))
    area = framing.size * framing.size
    faults: list[Fault] = []
    todo = np.flatnonzero(journal == _UNDONE).tolist()
    workers = workers or usable_cores()
    with (
        (partial / "images.npy").open("r+b") as file,
        _framers(file.fileno(), workers, len(todo)) as framed,
    ):

        def make(row: int) -> tuple[int, int, Sequence[Fault]]:
            try:
                done = framed(FramingTask(paths[row], regions[row], framing, start + row * area))
            except FramerDiedError:
                raise
            except InputError as error:
                return row, _UNDONE, _with_path(error.faults, paths[row])
            crops[row] = done.crop
            return row, done.checksum, ()

        saved = time.monotonic()
        try:
            with threads(workers) as pool:
                rows = pool.map(make, todo)
                if console is not None:
                    title = f"Preparing {framing.size} px"
                    rows = iter(track(rows, title, len(todo), console=console))
                for row, checksum, found in rows:
                    journal[row] = checksum
                    faults.extend(found)
                    if time.monotonic() - saved > JOURNAL_SECONDS:
                        _save_progress(partial, journal, crops)
                        saved = time.monotonic()
        finally:
            _save_progress(partial, journal, crops)
        os.fsync(file.fileno())
    if faults:
        shutil.rmtree(partial)
        raise InputError(faults)
    _write_frames(partial, plan["image_ids"], crops)
    _finish(folder, partial, plan, journal.astype(np.uint32))


def link(made: Path, folder: Path, plan: dict[str, Any]) -> None:
    """Make a store from the files of another store, with hard links where possible.

    Args:
        made: A complete store with the same rows.
        folder: Folder of the new store. It must not exist.
        plan: What the new store is made from.
    """
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    for name in ("images.npy", "frames.csv", "checksums.npy"):
        try:
            os.link(made / name, partial / name)
        except OSError:  # another file system, or no hard links
            shutil.copyfile(made / name, partial / name)
    _describe(partial, plan, np.load(partial / "checksums.npy"))
    partial.rename(folder)


@contextlib.contextmanager
def _framers(file: int, workers: int, radiographs: int) -> Iterator[Callable[[FramingTask], Row]]:
    """Give the function that makes a row, in this process or, for many rows, in others."""
    has_many = workers >= _PROCESSES_FROM_WORKERS and radiographs >= _PROCESSES_FROM_RADIOGRAPHS
    if not has_many or os.name != "posix":
        yield lambda radiograph: make_row(radiograph, file)
        return
    framers: queue.SimpleQueue[Framer] = queue.SimpleQueue()
    with contextlib.ExitStack() as started:
        for _ in range(workers):
            framer = Framer(file)
            started.callback(framer.close)
            framers.put(framer)

        def make(radiograph: FramingTask) -> Row:
            framer = framers.get()  # as many as threads, so none waits
            try:
                return framer.make_row(radiograph)
            finally:
                framers.put(framer)

        yield make


def _with_path(faults: Sequence[Fault], path: Path) -> list[Fault]:
    """Return the faults of a row. Those of its region get the path of the image."""
    return [
        replace(fault, where=f"{path}: {fault.where}") if fault.where == "region" else fault
        for fault in faults
    ]


def _begin(
    partial: Path, plan: dict[str, Any], shape: tuple[int, int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int]:
    """Return the journal and the crops so far, and the offset of the pixels in images.npy."""
    begun = _read_begun(partial, plan, shape)
    if begun is not None:
        journal, crops, images = begun
        for row in np.flatnonzero(journal != _UNDONE):
            if zlib.crc32(images[row].data) != journal[row]:
                journal[row] = _UNDONE
        return journal, crops, images.offset
    if partial.exists():
        shutil.rmtree(partial)
    fix = "Free some space, or set BONEAGE_CACHE to a folder on another disk."
    check_disk(partial.parent, int(np.prod(shape)), fix)
    partial.mkdir()
    images = np.lib.format.open_memmap(partial / "images.npy", "w+", np.uint8, shape)
    journal = np.full(shape[0], _UNDONE, np.int64)
    crops = np.zeros((shape[0], 7))
    _save_progress(partial, journal, crops)
    (partial / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return journal, crops, images.offset


def _read_begun(
    partial: Path, plan: dict[str, Any], shape: tuple[int, int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], Any] | None:
    """Return the journal, the crops and the images of an unfinished store; None if unusable."""
    try:
        is_same = read_json(partial / "plan.json") == plan
        # Mapped, so that a header which claims more than the file has reserves no memory.
        journal, crops, images = (
            np.load(partial / f"{name}.npy", mmap_mode="r") for name in _BEGUN
        )
    except (InputError, *ARRAY_ERRORS):
        return None
    count = shape[0]
    kinds = [(array.shape, array.dtype) for array in (journal, crops, images)]
    expected = [((count,), np.int64), ((count, 7), np.float64), (shape, np.uint8)]
    if not is_same or kinds != expected or not _are_crops(crops):
        return None
    return np.array(journal), np.array(crops), images


def _are_crops(crops: npt.NDArray[np.float64]) -> bool:
    reasons = crops[:, 5]
    return bool(np.isfinite(crops).all() and ((reasons >= 0) & (reasons < len(REASONS))).all())


def _save_progress(
    partial: Path, journal: npt.NDArray[np.int64], crops: npt.NDArray[np.float64]
) -> None:
    done = journal.copy()  # copied first: a row that is finished later is then made again
    _save(partial / "crops.npy", crops)
    _save(partial / "journal.npy", done)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    new = path.with_name(f"new-{path.name}")
    np.save(new, array)
    new.replace(path)


def _write_frames(partial: Path, image_ids: list[str], crops: npt.NDArray[np.float64]) -> None:
    table = pd.DataFrame(crops[:, :5].astype(np.int64), columns=list(FRAME_COLUMNS[1:6]))
    table.insert(0, FRAME_COLUMNS[0], image_ids)
    table[FRAME_COLUMNS[6]] = [REASONS[int(reason)] for reason in crops[:, 5]]
    table[FRAME_COLUMNS[7]] = crops[:, 6]
    table.to_csv(partial / "frames.csv", index=False)


def _finish(
    folder: Path, partial: Path, plan: dict[str, Any], checksums: npt.NDArray[np.uint32]
) -> None:
    _save(partial / "checksums.npy", checksums)
    _describe(partial, plan, checksums)
    (partial / "journal.npy").unlink()
    (partial / "crops.npy").unlink()
    (partial / "plan.json").unlink()
    partial.rename(folder)


def _describe(partial: Path, plan: dict[str, Any], checksums: npt.NDArray[np.uint32]) -> None:
    described = {**plan, "digest": store_digest(plan, checksums)}
    (partial / "store.json").write_text(json.dumps(described), encoding="utf-8")
