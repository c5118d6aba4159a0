"""Framed radiographs of a manifest in one memory-mapped array: made once, opened at once.

A store is a folder of four files:

- `images.npy`: uint8 `(n, size, size)`, one row an image, in the manifest's order;
- `frames.csv`: for each row `image_id`, the crop's `left`, `top`, `right` and `bottom` in pixels of
  the radiograph, its `rotation` in degrees and `why`: `hand`, or why it is the whole radiograph;
- `checksums.npy`: uint32 `(n,)`, the CRC-32 of every row;
- `store.json`: the version of this layout, image ids, framing, and the digests of what the store
  was made from.

It is built in a sibling folder ending in `.partial` and renamed when the last row stands, so a
folder of the final name is complete. After a kill, rows whose checksum holds are kept.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.pipeline.store_builder import build, clear, link, locked, store_digest
from boneage.radiographs.framing import framing_key
from boneage.recipe import Framing

VERSION = 3
SAMPLED_ROWS = 64


class Store:
    """A complete store, read-only and memory-mapped; pickled by reference to its folder.

    Attributes:
        folder: Where it stands.
        images: Memory map `(n, size, size)`, uint8.
        image_ids: One for each row, as in the manifest.
        digest: Hex digest of everything in it: ids, framing and pixels.
        framing: How the rows were made.
    """

    def __init__(
        self,
        folder: Path,
        images: np.memmap[Any, np.dtype[np.uint8]],
        image_ids: list[str],
        digest: str,
        framing: Framing,
    ) -> None:
        """Holds what `open_store` and `prepare` have checked; call one of those."""
        self.folder = folder
        self.images = images
        self.image_ids = image_ids
        self.digest = digest
        self.framing = framing
        # Rows are read, not looked at through the map: one that is no longer there is then an
        # error, where the map's is a signal that ends the process, and no page of it is held.
        self._file = os.open(folder / "images.npy", os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._offset = int(images.offset)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, size, size)`."""
        count, height, width = self.images.shape
        return count, height, width

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """Returns the image of a row: array `(size, size)`, uint8, read-only.

        Raises:
            InputError: The file has been cut short, or can't be read, since it was opened.
        """
        row = operator.index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        _, height, width = self.images.shape
        length = height * width
        try:
            pixels = os.pread(self._file, length, self._offset + row * length)
        except OSError as error:
            raise InputError(_damaged(self.folder, f"row {row}: {error.strerror}")) from None
        if len(pixels) < length:
            raise InputError(_damaged(self.folder, f"images.npy was cut short before row {row}"))
        return np.frombuffer(pixels, np.uint8).reshape(height, width)

    def frames(self) -> pd.DataFrame:
        """How every image was cropped: the table in `frames.csv`, in the order of the rows."""
        # An id may be any text, NA and null too: none of the columns ever lacks a value.
        path = self.folder / "frames.csv"
        return pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False)

    def select(self, image_ids: Sequence[str]) -> StoreView:
        """Returns the rows of these ids, in this order.

        Raises:
            InputError: Some of the ids are not in the store (all of them are named).
        """
        row_of = {image_id: row for row, image_id in enumerate(self.image_ids)}
        faults = [
            Fault(
                str(self.folder),
                f"it holds no image_id {image_id}",
                "Prepare the manifest again with `boneage data prepare`.",
                expected="an image of the manifest it was prepared from",
            )
            for image_id in image_ids
            if image_id not in row_of
        ]
        if faults:
            raise InputError(faults)
        return StoreView(self, np.array([row_of[image_id] for image_id in image_ids], np.int64))

    def metadata(self) -> dict[str, Any]:
        """Return what `run.json` records of this store."""
        return {
            "folder": str(self.folder.resolve()),
            "digest": self.digest,
            "version": VERSION,
        }

    def differs_from(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether the images are known to differ from those of the recorded metadata.

        Digests of different versions can't be compared, so they count as equal.
        """
        return metadata.get("version") == VERSION and metadata["digest"] != self.digest

    def __reduce__(self) -> tuple[Callable[[Path, str], Store], tuple[Path, str]]:
        return _reopen, (self.folder, self.digest)


@dataclass(frozen=True)
class StoreView:
    """Some rows of a store, in an order of their own.

    Attributes:
        store: The store they are rows of.
        rows: Array `(n,)`, int64: the store's row for each of the view's.
    """

    store: Store
    rows: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, size, size)`."""
        return len(self.rows), *self.store.shape[1:]

    @property
    def image_ids(self) -> list[str]:
        """One for each row of the view."""
        return [self.store.image_ids[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """Returns the image of a row: array `(size, size)`, uint8, read-only."""
        return self.store[self.rows[index]]


def open_store(folder: str | Path, *, verify: bool = False) -> Store:
    """Opens a complete store.

    Its size, its shape, its digest and the checksums of 64 rows spread over it are checked
    always; those of all rows (a read of the whole file) only on request.

    Args:
        folder: As made by `prepare`.
        verify: Whether to read and check every row.

    Raises:
        InputError: There is no complete store, it is of another version, or it is damaged.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        if described["version"] != VERSION:
            raise InputError(_of_another_version(folder, described["version"]))
        (folder / "frames.csv").stat()
        checksums = np.load(folder / "checksums.npy")
        images = np.load(folder / "images.npy", mmap_mode="r")
        image_ids = list(described["image_ids"])
        framing = Framing.model_validate(described["framing"])
        expected = (len(image_ids), framing.size, framing.size)
        recorded = described["digest"]
        whole = store_digest(described, checksums) == recorded
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        # With its store.json it passes for complete, and would not be made anew.
        delete = "" if missing == "store.json" else "Delete that folder first. "
        raise InputError(
            Fault(
                str(folder),
                f"there is no complete store ({missing} is missing)",
                f"{delete}Make it with `boneage data prepare`.",
                expected="images.npy, frames.csv, checksums.npy and store.json",
            )
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(_damaged(folder, str(error))) from None
    if not whole or checksums.shape != expected[:1]:
        raise InputError(_damaged(folder, "its digest does not fit"))
    if images.shape != expected or images.dtype != np.uint8:
        raise InputError(_damaged(folder, f"images.npy is {images.dtype} {images.shape}"))
    step = 1 if verify else max(1, len(image_ids) // SAMPLED_ROWS)
    rows = sorted({*range(0, len(image_ids), step), len(image_ids) - 1})
    faults = [
        _damaged(folder, f"row {row} (image_id {image_ids[row]}) has another checksum")
        for row in rows
        if zlib.crc32(images[row].data) != checksums[row]
    ]
    if faults:
        raise InputError(faults)
    return Store(folder, images, image_ids, recorded, framing)


def prepare(
    manifest: Manifest,
    framing: Framing,
    *,
    folder: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Opens the manifest's store, making or finishing it first where that is needed.

    Args:
        manifest: Whose images, all of them, are wanted.
        framing: How they are to be framed.
        folder: Where the store is to stand. If not given: beside the manifest where one stands
            already; else in `$BONEAGE_CACHE` where that is set; else beside the manifest, or in
            `~/.cache/boneage` where that can't be written to.
        workers: Threads that decode, or processes where there are many; one for each core if not
            given.
        progress: Whether to draw a progress bar on standard error.

    Raises:
        InputError: Images that can't be read (all of them are named), no images at all, or no
            room on the disk. Nothing is left behind.
    """
    if len(manifest) == 0:
        raise InputError(
            Fault(
                str(manifest.path),
                "it has no rows",
                "Add images to it.",
                expected="at least one image",
            )
        )
    paths = manifest.image_paths()
    plan = _plan(manifest, framing, paths)
    if folder is None:
        folder = _default_folder(manifest, f"{framing.size}px-{plan['key'][:8]}")
    store = _open_if_current(folder, plan)
    if store is not None:
        return store
    console = Console(stderr=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, console if progress else None):
        store = _open_if_current(folder, plan)  # the other process may have made it meanwhile
        if store is None:
            clear(folder)
            shown = console if progress else None
            build(folder, plan, framing, paths, manifest.regions(), workers, shown)
            store = open_store(folder)
    return store


def prepare_from(
    other: Manifest, manifest: Manifest, framing: Framing, *, progress: bool = True
) -> Store:
    """Opens a manifest's store as `prepare` does; the rows come from another manifest's store.

    Nothing is decoded twice, and no disk is taken where the file system has hard links.

    Args:
        other: The same images, in the same order; only splits and labels may differ.
        manifest: Whose store is wanted.
        framing: How the images are to be framed.
        progress: As `prepare` takes it, for the other's store.

    Raises:
        InputError: As `prepare`, of the other's store.
        ValueError: They are not the same images.
    """
    paths = manifest.image_paths()
    plan = _plan(manifest, framing, paths)
    folder = _default_folder(manifest, f"{framing.size}px-{plan['key'][:8]}")
    store = _open_if_current(folder, plan)
    if store is not None:
        return store
    alike = (
        list(other.table["image_id"]) == list(manifest.table["image_id"])
        and other.image_paths() == paths
        and other.regions() == manifest.regions()
    )
    if not alike:
        raise ValueError(f"{manifest.path} does not have the images of {other.path} in their order")
    made = prepare(other, framing, progress=progress)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, None):
        store = _open_if_current(folder, plan)  # the other process may have made it meanwhile
        if store is None:
            clear(folder)
            link(made.folder, folder, plan)
            store = open_store(folder)
    return store


def _reopen(folder: Path, digest: str) -> Store:
    store = open_store(folder)
    if store.digest != digest:
        raise InputError(_damaged(folder, "it was made anew while in use"))
    return store


def _of_another_version(folder: Path, version: object) -> Fault:
    return Fault(
        str(folder),
        f"it is a store of version {version}",
        "Prepare the manifest again with `boneage data prepare`.",
        expected=f"version {VERSION}, which this boneage makes",
    )


def _damaged(folder: Path, what: str) -> Fault:
    return Fault(
        str(folder),
        f"the store is damaged: {what}",
        "Delete that folder and prepare the manifest again.",
        expected="a store as `boneage data prepare` wrote it",
    )


def _plan(manifest: Manifest, framing: Framing, paths: list[Path]) -> dict[str, Any]:
    """What the store is made from: all of store.json but the final digest."""
    image_ids = [str(image_id) for image_id in manifest.table["image_id"]]
    key = hashlib.sha256()
    for part in (str(VERSION), manifest.digest, framing_key(framing), *image_ids):
        key.update(part.encode() + b"\0")
    return {
        "version": VERSION,
        "key": key.hexdigest(),
        "manifest_digest": manifest.digest,
        "sources_digest": _sources_digest(paths),
        "framing": framing.model_dump(mode="json"),
        "image_ids": image_ids,
    }


def _sources_digest(paths: list[Path]) -> str:
    # Size and time of every file stand for its content: 12,611 files take 0.1 s instead of 9 GB.
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"unreadable\n")  # decoding it tells why, with all others
    return digest.hexdigest()


def _default_folder(manifest: Manifest, name: str) -> Path:
    home = manifest.path.resolve()
    beside = home.parent / f"{home.stem}.store"
    chosen = os.environ.get("BONEAGE_CACHE")
    writable = os.access(beside if beside.exists() else home.parent, os.W_OK)
    if (beside / name).exists() or (writable and not chosen):
        return beside / name
    cache = Path(chosen or Path.home() / ".cache" / "boneage")
    place = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    return cache / "stores" / f"{home.stem}-{place}" / name


def _open_if_current(folder: Path, plan: dict[str, Any]) -> Store | None:
    try:
        described = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(described, dict):
        return None
    # The version is in the plan: a store of another one is made anew like any other.
    if any(described.get(name) != value for name, value in plan.items()):
        return None
    return open_store(folder)
