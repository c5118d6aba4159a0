r"""Make the 100-pixel thumbnails that the RSNA rows are trained on, from the public originals.

Each thumbnail is Pillow's `convert("L").resize((100, 100), NEAREST)` of the original. Of the 12,611
ids of the training set, 11,320 are used. An id is held out if the sha256 of its digits, as a
number, leaves a remainder of 7 on division by 10.

    python experiments/rsna-best/thumbnails.py DIR data/thumbnails
    boneage data import rsna data/thumbnails --out data/rsna.csv

DIR is the unpacked training set, the official one or Kaggle's. Repeat the command after an
interruption: finished thumbnails are kept. To score a model on the ids that are held out:

    python experiments/rsna-best/thumbnails.py DIR data/held-out --held-out
    boneage data import rsna data/held-out --out data/held-out.csv \
      --labels test=data/held-out/boneage-training-dataset.csv
    boneage evaluate rsna-best --data data/held-out.csv

To make the larger radiographs of `rsna-half`, 512 pixels on the longer side, by averaging:

    python experiments/rsna-best/thumbnails.py DIR data/half --longer-side 512 \
      --ids experiments/rsna-half/ids.txt
    boneage data import rsna data/half --out data/half.csv
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.folder import by_stem, files_below, with_suffix
from boneage.datasets.importers.rsna import OFFICIAL_SOURCE, import_rsna
from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.runtime.files import read_text, replacing, temporary_folder, write_text

NAME = "boneage-training-dataset"  # as Kaggle calls the table, and the folder in a folder
PIXELS = (100, 100)
COUNTS = {False: 11_320, True: 1_291}
"""Thumbnails of the complete set: of the ids that are used, and of those that are held out."""


def is_held_out(image_id: str) -> bool:
    """Return whether the thumbnail of this id is in no training, validation or test split."""
    return int(hashlib.sha256(image_id.encode()).hexdigest(), 16) % 10 == 7


def thumbnail(original: Path, longer_side: int | None = None) -> Image.Image:
    """Return the thumbnail of an original: 100 x 100 pixels, 8-bit grey, picked not averaged.

    With `longer_side`, the aspect is kept and pixels are averaged: 2 x 2 of them first.

    Raises:
        OSError: The file can't be decoded.
    """
    with warnings.catch_warnings(), Image.open(original) as image:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        grey = image.convert("L")
        if longer_side is None:
            return grey.resize(PIXELS, Image.Resampling.NEAREST)
        halved = cv2.resize(np.asarray(grey), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        size = [round(side * longer_side / max(grey.size)) for side in grey.size]
        return Image.fromarray(cv2.resize(halved, size, interpolation=cv2.INTER_AREA))


def make_thumbnail(longer_side: int | None, original: Path, path: Path) -> str:
    """Write a thumbnail unless it exists. Return what is wrong with the original, or ""."""
    try:
        if not path.is_file():
            made = thumbnail(original, longer_side)
            with replacing(path, ".png") as part:
                made.save(part)
    except (
        *(OSError, SyntaxError, ValueError, Warning),
        *(Image.DecompressionBombError, cv2.error),
    ) as error:
        return f"it can't be decoded ({error})"
    return ""


def read_originals(
    folder: Path, *, held_out: bool, ids: frozenset[str] | None, progress: bool
) -> tuple[Manifest, list[int]]:
    """Read and check the training set. Return its manifest and the rows that are asked for.

    Args:
        folder: The unpacked training set.
        held_out: Whether to return the ids that are held out, not the others.
        ids: Return these ids instead.
        progress: Whether to show progress.

    Raises:
        InputError: Tables or images are missing or wrong (all at once).
    """
    with temporary_folder() as scratch:
        manifest = import_rsna(folder, scratch / "manifest.csv", progress=progress)
        manifest.image_paths()
    table = manifest.table
    is_training = (table["source"] != OFFICIAL_SOURCE) | (table["split"] == "train")
    names = table["image_id"]
    chosen = [is_held_out(name) is held_out if ids is None else name in ids for name in names]
    return manifest, np.flatnonzero(is_training & np.array(chosen)).tolist()


def write_thumbnails(
    originals: Path,
    out: Path,
    *,
    held_out: bool = False,
    ids: frozenset[str] | None = None,
    longer_side: int | None = None,
    workers: int,
    progress: bool = True,
) -> int:
    """Write the thumbnails and their table in Kaggle's layout, and return their number.

    The table is written last, so a folder that has one is complete.

    Raises:
        InputError: Originals are missing or damaged (all at once), or nothing can be written.
    """
    manifest, rows = read_originals(originals, held_out=held_out, ids=ids, progress=progress)
    table, paths = manifest.table.iloc[rows], manifest.image_paths()
    sources = [paths[row] for row in rows]
    targets = [out / NAME / NAME / f"{name}.png" for name in table["image_id"]]
    with contextlib.ExitStack() as stack:
        make = functools.partial(make_thumbnail, longer_side)
        answers = map(make, sources, targets)
        if workers > 1:
            spawn = multiprocessing.get_context("spawn")
            pool = concurrent.futures.ProcessPoolExecutor(workers, spawn)
            answers = stack.enter_context(pool).map(make, sources, targets, chunksize=16)
        shown = track(
            answers,
            "Making thumbnails",
            total=len(rows),
            console=Console(stderr=True),
            disable=not progress,
        )
        faults = [
            Fault(str(source), what, "Unpack this file again, then repeat the command.")
            for source, what in zip(sources, shown, strict=True)
            if what
        ]
    if faults:
        raise InputError(faults)
    lines = [
        f"{name},{age:g},{sex == 'M'}\n"
        for name, age, sex in zip(table["image_id"], table["age_months"], table["sex"], strict=True)
    ]
    write_text(out / f"{NAME}.csv", "".join(["id,boneage,male\n", *lines]))
    return len(rows)


def count_identical(made: Path, others: Path) -> tuple[int, list[str]]:
    """Compare thumbnails with others of the same names.

    Returns:
        The number in both folders, and the names of those that differ in any pixel.
    """
    known = by_stem(with_suffix(files_below(others, progress=False), (".png",)))
    common = [path for path in sorted(made.rglob("*.png")) if path.stem in known]
    different = [
        path.stem
        for path in common
        if not np.array_equal(_pixels(path), _pixels(known[path.stem][0]))
    ]
    return len(common), different


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def main(arguments: Iterable[str] | None = None) -> int:
    """Make the thumbnails. Return the exit code: 1 if --verify finds a difference, 2 for faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("originals", type=Path, help="folder of the unpacked training set")
    parser.add_argument("out", type=Path, help="folder for thumbnails and table")
    parser.add_argument(
        "--held-out", action="store_true", help="make the thumbnails of the held-out ids instead"
    )
    parser.add_argument("--ids", type=Path, help="text file: make those of these ids, one a line")
    parser.add_argument(
        "--longer-side", type=int, metavar="PIXELS", help="average to this size; keep the aspect"
    )
    parser.add_argument(
        "--verify", type=Path, metavar="FOLDER", help="compare with thumbnails of the same names"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        ids = None if options.ids is None else frozenset(read_text(options.ids).split())
        count = write_thumbnails(
            options.originals,
            options.out,
            held_out=options.held_out,
            ids=ids,
            longer_side=options.longer_side,
            workers=options.workers,
        )
        expected = COUNTS[options.held_out] if ids is None else len(ids)
        print(f"{options.out}: {count:,} of {expected:,} images")
        if options.verify is None:
            return 0
        common, different = count_identical(options.out, options.verify)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{common - len(different):,} of {common:,} identical to the pixel")
    if different:
        print(f"different: {', '.join(different[:20])}")
    return 1 if different or not common else 0


if __name__ == "__main__":
    sys.exit(main())
