"""Every image of a manifest decoded and framed into the files of a store, resumably.

What stands in the folder while it is being made: `images.npy`, `plan.json` (what it is made from)
and `journal.npy` (int64 `(n,)`: the checksum of every row that is done, -1 for the others).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from boneage.errors import Fault, InputError
from boneage.pipeline.framing import frame
from boneage.pipeline.radiograph import read_radiograph
from boneage.recipe import Framing

JOURNAL_SECONDS = 2.0
_UNDONE = -1


def store_digest(described: dict[str, Any], checksums: npt.NDArray[np.uint32]) -> str:
    """Returns the hex digest of what store.json says and, by their checksums, of all rows."""
    text = json.dumps({**described, "digest": None}, sort_keys=True)
    return hashlib.sha256(text.encode() + checksums.tobytes()).hexdigest()


@contextlib.contextmanager
def locked(folder: Path, console: Console | None) -> Iterator[None]:
    """Holds the folder against other processes; says so on the console if it has to wait."""
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
    """Removes a store made from something else, and nothing that is not a store."""
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / "store.json").exists():
        raise InputError(
            Fault(
                str(folder),
                "there is something else than a store in it",
                "a new folder, or that of an older store",
                "Name another folder.",
            )
        )
    shutil.rmtree(folder)


def build(
    folder: Path,
    plan: dict[str, Any],
    framing: Framing,
    paths: list[Path],
    workers: int | None,
    console: Console | None,
) -> None:
    """Makes all files of a store, beside it, and gives them its name when they are complete.

    Args:
        folder: The name; nothing may stand there.
        plan: What the store is made from; a partial one with another plan is thrown away.
        framing: How the images are to be framed.
        paths: The images, one for each row.
        workers: Threads that decode; one for each core if not given.
        console: Where the progress bar goes; none is drawn if not given.

    Raises:
        InputError: Images that can't be read (all of them are named), or no room on the disk.
    """
    partial = folder.with_name(folder.name + ".partial")
    journal, start = _begin(partial, plan, (len(paths), framing.size, framing.size))
    area = framing.size * framing.size
    faults: list[Fault] = []
    with (partial / "images.npy").open("r+b") as file:

        def make_row(row: int) -> tuple[int, int, tuple[Fault, ...]]:
            try:
                pixels = frame(read_radiograph(paths[row]), framing).tobytes()
            except InputError as error:
                return row, _UNDONE, error.faults
            os.pwrite(file.fileno(), pixels, start + row * area)
            return row, zlib.crc32(pixels), ()

        todo = np.flatnonzero(journal == _UNDONE).tolist()
        executor = ThreadPoolExecutor(workers or os.cpu_count() or 1, "prepare")
        saved = time.monotonic()
        try:
            rows = executor.map(make_row, todo)
            if console is not None:
                rows = iter(track(rows, f"Preparing {framing.size} px", len(todo), console=console))
            for row, checksum, found in rows:
                journal[row] = checksum
                faults.extend(found)
                if time.monotonic() - saved > JOURNAL_SECONDS:
                    _save(partial / "journal.npy", journal)
                    saved = time.monotonic()
        finally:
            executor.shutdown(cancel_futures=True)
            _save(partial / "journal.npy", journal)
        os.fsync(file.fileno())
    if faults:
        shutil.rmtree(partial)
        raise InputError(faults)
    _finish(folder, partial, plan, journal.astype(np.uint32))


def _begin(
    partial: Path, plan: dict[str, Any], shape: tuple[int, int, int]
) -> tuple[npt.NDArray[np.int64], int]:
    """Returns every row's checksum so far (-1 where there is none), and where the rows begin."""
    try:
        resumed = json.loads((partial / "plan.json").read_text(encoding="utf-8")) == plan
        journal = np.load(partial / "journal.npy")
        images = np.load(partial / "images.npy", mmap_mode="r")
        resumed = resumed and journal.shape == shape[:1] and images.shape == shape
    except (OSError, ValueError):
        resumed = False
    if resumed:
        for row in np.flatnonzero(journal != _UNDONE):
            if zlib.crc32(images[row].data) != journal[row]:
                journal[row] = _UNDONE
        return journal, images.offset
    if partial.exists():
        shutil.rmtree(partial)
    needed = int(np.prod(shape))
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise InputError(
            Fault(
                str(partial.parent),
                f"the disk has {free / 1e9:.1f} GB left",
                f"{needed / 1e9:.1f} GB for the store",
                "Make room, or set BONEAGE_CACHE to another disk.",
            )
        )
    partial.mkdir()
    images = np.lib.format.open_memmap(partial / "images.npy", "w+", np.uint8, shape)
    journal = np.full(shape[0], _UNDONE, np.int64)
    _save(partial / "journal.npy", journal)
    (partial / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return journal, images.offset


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    beside = path.with_name(f"new-{path.name}")
    np.save(beside, array)
    beside.replace(path)


def _finish(
    folder: Path, partial: Path, plan: dict[str, Any], checksums: npt.NDArray[np.uint32]
) -> None:
    _save(partial / "checksums.npy", checksums)
    described = {**plan, "digest": store_digest(plan, checksums)}
    (partial / "store.json").write_text(json.dumps(described), encoding="utf-8")
    (partial / "journal.npy").unlink()
    (partial / "plan.json").unlink()
    partial.rename(folder)
