"""The store: the framed images of a manifest in one memory-mapped array, made once.

A store is a folder of four files:

- `images.npy`: uint8 `(n, size, size)`, one row per image, in the order of the manifest.
- `frames.csv`: for each row the `image_id`, the crop's `left`, `top`, `right` and `bottom` in
  pixels of the radiograph, its `rotation` in degrees, `why`: `hand`, or the reason for keeping
  the whole radiograph, and `gain`: levels of the image for one level of the radiograph.
- `checksums.npy`: uint32 `(n,)`, the CRC-32 of every row.
- `store.json`: the version of this layout, the image ids, the framing, and digests of what the
  store was made from.

The store is built in a folder whose name ends in `.partial`, and renamed when it is complete. After
a kill, the rows with a correct checksum are kept.
"""

from __future__ import annotations

import functools
import hashlib
import io
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
from boneage.pipeline.store_builder import FRAME_COLUMNS, build, clear, link, locked, store_digest
from boneage.radiographs.framing import framing_key
from boneage.recipe import Framing
from boneage.runtime.arrays import ARRAY_ERRORS
from boneage.runtime.files import LARGEST_FILE, cache_folder, open_regular, read_bytes, read_json
from boneage.runtime.machine import check_workers
from boneage.runtime.schemas import FileSchema, Text, check_values, shown

VERSION = 5
SAMPLED_ROWS = 64


class Store:
    """A complete store, read-only and memory-mapped. Pickling it keeps only its folder and digest.

    Attributes:
        folder: Folder of the store.
        images: Memory map `(n, size, size)`, uint8.
        image_ids: Names of the rows, as in the manifest.
        digest: Hex digest of the ids, the framing and the pixels.
        framing: Framing of the rows.
    """

    def __init__(
        self,
        folder: Path,
        images: np.memmap[Any, np.dtype[np.uint8]],
        image_ids: list[str],
        digest: str,
        framing: Framing,
    ) -> None:
        """Keep what `open_store` or `prepare` has checked. Call one of those instead."""
        self.folder = folder
        self.images = images
        self.image_ids = image_ids
        self.digest = digest
        self.framing = framing
        # Rows are read from the file, not through the memory map. If the file was cut short, the
        # map would end the process with a signal. It would also hold pages in memory.
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
        """Return the image of a row: uint8 `(size, size)`, read-only.

        Args:
            index: The row, counted from the end if negative.

        Raises:
            IndexError: There is no such row.
            InputError: The file was cut short or became unreadable after it was opened.
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

    def image_and_gain(self, index: int) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the image of a row, and its gain (see `Framed.gain`).

        Args:
            index: The row, counted from the end if negative.

        Raises:
            InputError: `images.npy` or `frames.csv` is damaged.
        """
        return self[index], float(self._gains[index])

    @functools.cached_property
    def _gains(self) -> npt.NDArray[np.float64]:
        return self.frames()["gain"].to_numpy()

    def frames(self) -> pd.DataFrame:
        """Return the crop of every image: the table `frames.csv`, in the order of the rows.

        Raises:
            InputError: The table is damaged.
        """
        # No value is ever missing, so an id may be "NA" or "null".
        types = {"image_id": str, "why": str, "gain": np.float64}
        numbers = dict.fromkeys(FRAME_COLUMNS[1:6], np.int64)
        content = io.BytesIO(read_bytes(self.folder / "frames.csv"))
        try:
            table = pd.read_csv(content, dtype={**types, **numbers}, keep_default_na=False)
        except ValueError as error:
            what = f"frames.csv: {str(error).splitlines()[0]:.200}"
            raise InputError(_damaged(self.folder, what)) from None
        if list(table) != list(FRAME_COLUMNS) or table["image_id"].tolist() != self.image_ids:
            raise InputError(_damaged(self.folder, "frames.csv does not have the images"))
        return table

    def select(self, image_ids: Sequence[str]) -> StoreView:
        """Return the rows of these ids, in this order.

        Args:
            image_ids: Names of images, as in the manifest.

        Raises:
            InputError: Some ids are not in the store. It names all of them.
        """
        row_of = {image_id: row for row, image_id in enumerate(self.image_ids)}
        faults = [
            Fault(
                str(self.folder),
                f"the store has no image_id {image_id}",
                "Prepare the manifest again with `boneage data prepare`.",
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

        Args:
            metadata: The key `store` of `run.json`.
        """
        return metadata.get("version") == VERSION and metadata["digest"] != self.digest

    def __reduce__(self) -> tuple[Callable[[Path, str], Store], tuple[Path, str]]:
        return _reopen, (self.folder, self.digest)


@dataclass(frozen=True)
class StoreView:
    """Some rows of a store, in any order.

    Attributes:
        store: The store.
        rows: int64 `(n,)`: the row in the store of each row of the view.
    """

    store: Store
    rows: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, size, size)`."""
        return len(self.rows), *self.store.shape[1:]

    @property
    def image_ids(self) -> list[str]:
        """Return the names of the rows."""
        return [self.store.image_ids[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the image of a row: uint8 `(size, size)`, read-only.

        Args:
            index: The row, counted from the end if negative.
        """
        return self.store[self.rows[index]]

    def image_and_gain(self, index: int) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the image of a row, and its gain.

        Args:
            index: The row, counted from the end if negative.
        """
        return self.store.image_and_gain(self.rows[index])


def open_store(folder: str | Path, *, verify: bool = False) -> Store:
    """Open a complete store.

    The size, the shape, the digest and the checksums of 64 rows are always checked. The checksums
    of all rows are checked on request, which reads the whole file.

    Args:
        folder: Folder of the store, made by `prepare`.
        verify: Whether to check every row.

    Returns:
        The store, whose images are read from the disk when they are used.

    Raises:
        InputError: The store is missing or incomplete, has another version, or is damaged.
    """
    folder = Path(folder)
    _check_files(folder, "store.json")
    described = _read_description(folder)
    _check_files(folder, "frames.csv", "checksums.npy", "images.npy")
    try:
        framing = Framing.model_validate(described["framing"])
        # Mapped, so that a header which claims more than the file has reserves no memory.
        checksums = np.load(folder / "checksums.npy", mmap_mode="r")
        images = np.load(folder / "images.npy", mmap_mode="r")
    except ARRAY_ERRORS as error:
        raise InputError(_damaged(folder, f"{error!s:.200}")) from None
    image_ids, recorded = list(described["image_ids"]), described["digest"]
    expected = (len(image_ids), framing.size, framing.size)
    if (checksums.shape, checksums.dtype) != (expected[:1], np.uint32) or not image_ids:
        raise InputError(_damaged(folder, f"checksums.npy is {checksums.dtype} {checksums.shape}"))
    if store_digest(described, checksums) != recorded:
        raise InputError(_damaged(folder, "the digest in store.json does not match the files"))
    if images.shape != expected or images.dtype != np.uint8:
        raise InputError(_damaged(folder, f"images.npy is {images.dtype} {images.shape}"))
    step = 1 if verify else max(1, len(image_ids) // SAMPLED_ROWS)
    rows = sorted({*range(0, len(image_ids), step), len(image_ids) - 1})
    faults = [
        _damaged(folder, f"row {row} (image_id {image_ids[row]}) has a wrong checksum")
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
    """Open the store of a manifest, after making or finishing it if needed.

    Args:
        manifest: The manifest. All of its images go into the store.
        framing: Framing of the images.
        folder: Folder of the store. Default: next to the manifest if the store is there already;
            else in `$BONEAGE_CACHE` if set; else next to the manifest; or in `~/.cache/boneage`
            if the manifest's folder is read-only.
        workers: Number of threads (of processes for many images) that decode. Default: one per
            core.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The store.

    Raises:
        InputError: Some images can't be read (it names all of them), the manifest has no images,
            or the disk has too little space. No files are left behind.
    """
    if len(manifest) == 0:
        raise InputError(
            Fault(
                str(manifest.path),
                "the manifest has no rows",
                "Add at least one image.",
            )
        )
    if workers is not None:
        check_workers(workers, "workers")
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
        store = _open_if_current(folder, plan)  # another process may have made it
        if store is None:
            clear(folder)
            shown = console if progress else None
            build(folder, plan, framing, paths, manifest.regions(), workers, shown)
            store = open_store(folder)
    return store


def prepare_from(
    other: Manifest, manifest: Manifest, framing: Framing, *, progress: bool = True
) -> Store:
    """Open the store of a manifest, made from the rows of another manifest's store if needed.

    No image is decoded twice. With hard links, the second store takes no disk space.

    Args:
        other: A manifest of the same images in the same order. Splits and labels may differ.
        manifest: The manifest whose store to open.
        framing: Framing of the images.
        progress: Whether to draw a progress bar on standard error.

    Raises:
        InputError: As raised by `prepare` for the other manifest.
        ValueError: The manifests have different images.
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
        store = _open_if_current(folder, plan)  # another process may have made it
        if store is None:
            clear(folder)
            link(made.folder, folder, plan)
            store = open_store(folder)
    return store


def _reopen(folder: Path, digest: str) -> Store:
    store = open_store(folder)
    if store.digest != digest:
        raise InputError(_damaged(folder, "it was replaced while in use"))
    return store


class Description(FileSchema):
    """The keys of `store.json`."""

    key: Text
    manifest_digest: Text
    sources_digest: Text
    digest: Text
    framing: dict[Text, Any]
    image_ids: list[Text]


def _check_files(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).exists():
            # A folder with a store.json counts as complete: `prepare` would not build it again.
            delete = "" if name == "store.json" else "Delete this folder first. "
            raise InputError(
                Fault(
                    str(folder),
                    f"this folder has no complete store ({name} is missing)",
                    f"{delete}Prepare the manifest with `boneage data prepare`.",
                )
            )
        open_regular(folder / name, LARGEST_FILE).close()  # raises for a pipe


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    try:
        described = read_json(path)
    except InputError as error:
        raise InputError(_damaged(folder, error.faults[0].what)) from None
    if described.get("version") != VERSION:
        raise InputError(_of_another_version(folder, described.get("version")))
    try:
        return check_values(described, Description, str(path))
    except InputError as error:
        raise InputError(_damaged(folder, f"store.json: {error.faults[0].what}")) from None


def _of_another_version(folder: Path, version: object) -> Fault:
    return Fault(
        str(folder),
        f"the store has version {shown(version)}, and this version of boneage needs {VERSION}",
        "Prepare the manifest again with `boneage data prepare`.",
    )


def _damaged(folder: Path, what: str) -> Fault:
    return Fault(
        str(folder),
        f"the store is damaged: {what}",
        "Delete this folder, and prepare the manifest again with `boneage data prepare`.",
    )


def _plan(manifest: Manifest, framing: Framing, paths: list[Path]) -> dict[str, Any]:
    """Return what the store is made from: store.json without the final digest."""
    image_ids = [str(image_id) for image_id in manifest.table["image_id"]]
    key = hashlib.sha256()
    for part in (str(VERSION), manifest.digest, framing_key(framing), *image_ids):
        key.update(part.encode() + b"\0")
    return {
        "version": VERSION,
        "key": key.hexdigest(),
        "manifest_digest": manifest.digest,
        "sources_digest": _sources_digest(paths),
        "framing": framing.recorded(),
        "image_ids": image_ids,
    }


def _sources_digest(paths: list[Path]) -> str:
    # The size and time of a file represent its content: 0.1 s instead of a read of 9 GB.
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"unreadable\n")  # the error comes when the file is decoded
    return digest.hexdigest()


def _default_folder(manifest: Manifest, name: str) -> Path:
    path = manifest.path.resolve()
    adjacent = path.parent / f"{path.stem}.store"
    chosen = os.environ.get("BONEAGE_CACHE")
    is_writable = os.access(adjacent if adjacent.exists() else path.parent, os.W_OK)
    if (adjacent / name).exists() or (is_writable and not chosen):
        return adjacent / name
    key = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return cache_folder() / "stores" / f"{path.stem}-{key}" / name


def _open_if_current(folder: Path, plan: dict[str, Any]) -> Store | None:
    try:
        described = read_json(folder / "store.json")
    except InputError:
        return None
    # The plan includes the version, so a store of another version is made again.
    if any(described.get(name) != value for name, value in plan.items()):
        return None
    return open_store(folder)
