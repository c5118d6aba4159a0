"""`boneage bench prepare`: radiographs a second into a store, beside decoding and resizing alone."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from boneage.datasets.manifest import Manifest, write_manifest
from boneage.pipeline.store import prepare
from boneage.recipe import Framing
from boneage.runtime.threads import threads
from experiments.throughput.benchmark.processes import cpu_seconds
from experiments.throughput.benchmark.radiographs import draw_radiographs
from experiments.throughput.benchmark.result import (
    Row,
    add_ratios,
    document,
    rates_row,
    significant,
)

DRAWN_RADIOGRAPHS = 32

COLUMNS = {
    "images_per_second": "films/s",
    "low": "low",
    "high": "high",
    "ratio": "ours / it",
    "cpu_seconds_per_1000": "CPU s/1,000",
}

HAND, RADIOGRAPH = "boneage, crop = hand", "boneage, crop = film"
BARE = "decode and area resize alone"


def bench_prepare(
    *,
    size: int,
    count: int,
    workers: int,
    rounds: int,
    radiographs: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Prepares the same radiographs in turns: as `boneage data prepare` does, and bare.

    Args:
        size: Side of the pictures, pixels.
        count: Radiographs of each turn; fewer files are read several times over.
        workers: Threads that decode.
        rounds: Turns.
        radiographs: Radiographs; phantoms in the usual size are drawn if there are none.
        say: Shows what is being done.

    Returns:
        `machine`, `settings` and `rows`; `ratio` is our usual way (`crop = hand`) over the row's,
        and `film_ratio` that of the whole radiograph over bare decoding and resizing.

    Raises:
        InputError: A radiograph can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="boneage-bench-") as temporary:
        folder = Path(temporary)
        say("making films")
        paths = list(radiographs) or draw_radiographs(folder / "films", DRAWN_RADIOGRAPHS)
        manifest = _manifest(folder, paths, count)
        ways: dict[str, Callable[[Path], None]] = {
            HAND: lambda out: _prepare(manifest, Framing(size=size, crop="hand"), out, workers),
            RADIOGRAPH: lambda out: _prepare(
                manifest, Framing(size=size, crop="film"), out, workers
            ),
            BARE: lambda _: bare(manifest.image_paths(), size, workers),
        }
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "warming up")
            for name, way in ways.items():
                out = Path(tempfile.mkdtemp(dir=folder)) / "store"
                spent = _timed(way, out)
                if number:  # before that, files come from the disk and code for the first time
                    turns[name].append(spent)
    rows = [_row(name, spent, count) for name, spent in turns.items()]
    whole = [row for row in rows if row["name"] != HAND]
    add_ratios(whole, RADIOGRAPH)
    radiograph_ratio = whole[-1]["ratio"]
    add_ratios(rows, HAND)
    settings = {
        "size": size,
        "count": count,
        "workers": workers,
        "rounds": rounds,
        "films": f"{len(paths)} {'given' if radiographs else 'phantom'} radiographs, read again up to {count}",
        "ours": HAND,
    }
    return document(settings, rows, radiograph_ratio=radiograph_ratio)


def bare(paths: Sequence[Path], size: int, workers: int) -> None:
    """Decodes files and shrinks them by area to fit the size, on all cores, and keeps nothing."""

    def read(path: Path) -> None:
        radiograph = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        scale = size / max(radiograph.shape)
        inner = (
            max(1, round(radiograph.shape[1] * scale)),
            max(1, round(radiograph.shape[0] * scale)),
        )
        cv2.resize(radiograph, inner, interpolation=cv2.INTER_AREA)

    with _one_thread_each(), threads(workers) as pool:
        for _ in pool.map(read, paths):
            pass


def _manifest(folder: Path, paths: Sequence[Path], count: int) -> Manifest:
    numbers = range(count)
    table = pd.DataFrame(
        {
            "image_id": [f"{number:06d}" for number in numbers],
            "image": [os.path.relpath(paths[n % len(paths)].resolve(), folder) for n in numbers],
            "age_months": 120.0,
            "sex": ["F" if number % 2 else "M" for number in numbers],
            "split": "train",
        }
    )
    return write_manifest(table, folder / "manifest.csv")


def _prepare(manifest: Manifest, framing: Framing, out: Path, workers: int) -> None:
    prepare(manifest, framing, folder=out, workers=workers, progress=False)


def _timed(way: Callable[[Path], None], out: Path) -> tuple[float, float]:
    """Seconds and CPU seconds of one turn."""
    used, started = cpu_seconds(os.getpid()), time.perf_counter()
    way(out)
    return time.perf_counter() - started, cpu_seconds(os.getpid()) - used


def _row(name: str, turns: Sequence[tuple[float, float]], count: int) -> Row:
    spent = sorted(1000 * used / count for _, used in turns)[len(turns) // 2]
    rates = [count / seconds for seconds, _ in turns]
    return rates_row(name, rates, cpu_seconds_per_1000=significant(spent))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # Threads of OpenCV's own inside ours would only make the bare way slower.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
