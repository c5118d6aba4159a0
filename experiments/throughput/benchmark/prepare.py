"""The benchmark `prepare`: radiographs per second into a store, and decoding and resizing alone."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import pandas as pd
import typer

from boneage.cli.output import JsonOption, log
from boneage.datasets.manifest import Manifest, write_manifest
from boneage.pipeline.store import prepare
from boneage.recipe import Framing
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads
from experiments.throughput.benchmark.processes import cpu_seconds
from experiments.throughput.benchmark.radiographs import find_radiographs
from experiments.throughput.benchmark.result import (
    FileOption,
    ImagesOption,
    RoundsOption,
    SizeOption,
    WorkersOption,
    add_ratios,
    document,
    rates_row,
    show,
    significant,
)

COLUMNS = {
    "images_per_second": "radiographs/s",
    "low": "low",
    "high": "high",
    "ratio": "ours / it",
    "cpu_seconds_per_1000": "CPU s/1,000",
}

HAND, WHOLE = "boneage, hand cut out", "boneage, whole radiograph"
BARE = "decode and area resize alone"


def bench_prepare(
    size: SizeOption = 299,
    count: Annotated[int, typer.Option(min=1, help="Radiographs of each turn.")] = 256,
    workers: WorkersOption = None,
    rounds: RoundsOption = 5,
    images: ImagesOption = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> dict[str, Any]:
    """Radiographs per second into a store, next to decoding and resizing alone."""
    workers = workers or usable_cores()
    with tempfile.TemporaryDirectory(prefix="boneage-bench-") as temporary:
        folder = Path(temporary)
        log("making radiographs")
        paths, source = find_radiographs(images, folder / "radiographs")
        manifest = _write_manifest(folder, paths, count)
        hand, whole = Framing(size=size, crop="hand"), Framing(size=size, crop="none")
        ways: dict[str, Callable[[Path], object]] = {
            HAND: lambda to: prepare(manifest, hand, folder=to, workers=workers, progress=False),
            WHOLE: lambda to: prepare(manifest, whole, folder=to, workers=workers, progress=False),
            BARE: lambda _: decode_and_resize(manifest.image_paths(), size, workers),
        }
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            log(f"round {number} of {rounds}" if number else "warming up")
            for name, way in ways.items():
                used, started = cpu_seconds(os.getpid()), time.perf_counter()
                way(Path(tempfile.mkdtemp(dir=folder)) / "store")
                spent = time.perf_counter() - started, cpu_seconds(os.getpid()) - used
                if number:  # the warm-up also reads the files from the disk
                    turns[name].append(spent)
    rows = [
        rates_row(
            name,
            [count / seconds for seconds, _ in spent],
            cpu_seconds_per_1000=significant(
                statistics.median(1000 * used / count for _, used in spent)
            ),
        )
        for name, spent in turns.items()
    ]
    add_ratios(rows[1:], WHOLE)
    whole_ratio = rows[-1]["ratio"]
    add_ratios(rows, HAND)
    settings = {
        "size": size,
        "count": count,
        "workers": workers,
        "rounds": rounds,
        "radiographs": f"{source}, read repeatedly up to {count}",
        "ours": HAND,
    }
    return show(document(settings, rows, whole_ratio=whole_ratio), COLUMNS, as_json, out)


def decode_and_resize(paths: Sequence[Path], size: int, workers: int) -> None:
    """Decode files and shrink them by area to fit the size, on all cores, and keep nothing."""

    def read(path: Path) -> None:
        radiograph = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        height, width = radiograph.shape
        scale = size / max(height, width)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        cv2.resize(radiograph, inner, interpolation=cv2.INTER_AREA)

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # OpenCV's own threads inside ours would only slow it down
    try:
        with threads(workers) as pool:
            for _ in pool.map(read, paths):
                pass
    finally:
        cv2.setNumThreads(before)


def _write_manifest(folder: Path, paths: Sequence[Path], count: int) -> Manifest:
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
