"""The images of the benchmarks: the user's, or phantoms in full size, and stores made from them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from boneage.cli.output import refuse
from boneage.datasets.phantom.cohort import phantom
from boneage.pipeline.store import VERSION
from boneage.pipeline.store_builder import FRAME_COLUMNS, store_digest
from boneage.radiographs.framing import REASONS, frame, framing_key
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

FULL_SIZE = (2044, 1514)
"""Height and width of the usual radiograph of the RSNA 2017 set, in pixels."""

NOISE_LEVELS = 2.0
"""Standard deviation of the noise in grey levels. Without noise, a file would be smaller than a
real one and take less time to read."""

PHANTOMS = 32
_DRAWN_SIDE = 1024
_PURPOSE = 0x42454E43  # keeps the noise apart from other random streams of the same seed
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"}


def find_radiographs(images: Sequence[Path] | None, folder: Path) -> tuple[list[Path], str]:
    """Return the radiographs named, or phantoms drawn into a folder; and which they are."""
    found: list[Path] = []
    for path in images or ():
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        radiographs = [each for each in inside if each.suffix.lower() in _SUFFIXES]
        if not radiographs:
            refuse(f"--images {path}", "no radiograph was found", "Name a file or a folder.")
        found += radiographs
    if found:
        return found, f"{len(found)} radiographs given"
    drawn = draw_radiographs(folder, PHANTOMS)
    return drawn, f"{len(drawn)} phantom radiographs drawn in full size"


def draw_radiographs(
    folder: Path, count: int, shape: tuple[int, int] = FULL_SIZE, seed: int = 0
) -> list[Path]:
    """Draw phantom radiographs as 8-bit grey PNG files, and return their paths.

    Args:
        folder: Folder of the files, made if missing.
        count: Number of radiographs.
        shape: Height and width in pixels.
        seed: Seed of the children and of the noise.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def draw(index: int) -> Path:
        radiograph = phantom(seed, index, min(_DRAWN_SIDE, max(64, *shape))).image
        large = cv2.resize(radiograph, shape[::-1], interpolation=cv2.INTER_LINEAR)
        rng = np.random.default_rng([seed, _PURPOSE, index])
        noise = rng.standard_normal(shape, np.float32) * np.float32(NOISE_LEVELS)
        noisy = cv2.add(large, noise, dtype=cv2.CV_8U)  # rounded, and clipped to 0-255
        path = folder / f"{index:06d}.png"
        path.write_bytes(cv2.imencode(".png", noisy)[1].tobytes())
        return path

    with threads(usable_cores()) as pool:
        return list(pool.map(draw, range(count)))


def frame_radiographs(radiographs: Sequence[Path], size: int) -> npt.NDArray[np.uint8]:
    """Return the whole radiographs framed to one size: uint8 `(n, size, size)`."""
    framing = Framing(size=size, crop="none")
    with threads(usable_cores()) as pool:
        framed = pool.map(lambda path: frame(read_radiograph(path), framing).pixels, radiographs)
        return np.stack(list(framed))


def write_pictures(folder: Path, rows: npt.NDArray[np.uint8]) -> list[Path]:
    """Write framed images as PNG files, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.png" for number in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        path.write_bytes(cv2.imencode(".png", row)[1].tobytes())
    return paths


def write_phantom_store(folder: Path, count: int, size: int) -> None:
    """Write a store of phantoms, repeated up to `count` rows."""
    drawn = [phantom(0, index, max(64, size)).image for index in range(min(count, PHANTOMS))]
    write_store(folder, count, size, np.stack([cv2.resize(image, (size, size)) for image in drawn]))


def write_store(
    folder: Path, count: int, size: int, rows: npt.NDArray[np.uint8] | None = None
) -> None:
    """Write a store that `open_store` opens, without a manifest or radiographs.

    Args:
        folder: Folder of the store. It must not exist.
        count: Rows of the store.
        size: Side in pixels.
        rows: uint8 `(m, size, size)`, repeated up to `count` rows. None makes black images, in a
            sparse file that takes no space on the disk.
    """
    folder.mkdir(parents=True)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size))
    if rows is None:
        checksums = np.full(count, zlib.crc32(bytes(size * size)), np.uint32)
    else:
        for start in range(0, count, len(rows)):
            stop = min(count, start + len(rows))
            images[start:stop] = rows[: stop - start]
        checksums = np.resize(np.array([zlib.crc32(row.tobytes()) for row in rows]), count)
        checksums = checksums.astype(np.uint32)
    del images
    np.save(folder / "checksums.npy", checksums)
    framing = Framing(size=size, crop="none")
    image_ids = [f"{number:06d}" for number in range(count)]
    crops = pd.DataFrame(0, index=range(count), columns=list(FRAME_COLUMNS))
    crops[FRAME_COLUMNS[0]] = image_ids
    crops["why"], crops["gain"] = REASONS[-1], 1.0
    crops.to_csv(folder / "frames.csv", index=False)
    described = {
        "version": VERSION,
        "key": framing_key(framing),
        "manifest_digest": "",
        "sources_digest": "",
        "framing": framing.recorded(),
        "image_ids": image_ids,
    }
    described["digest"] = store_digest(described, checksums)
    (folder / "store.json").write_text(json.dumps(described), encoding="utf-8")
