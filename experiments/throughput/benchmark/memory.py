"""The benchmark `memory`: does the memory of a training grow with the number of images?

Each count is measured in a process of its own: `fit` of a tiny model on a store of black images,
shuffled and augmented, with as many images for every count. Pages of mapped files are not counted.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from boneage.cli.output import JsonOption, log
from boneage.errors import Fault, InputError
from boneage.runtime.provenance import usable_cores
from experiments.throughput.benchmark.processes import memory_mb
from experiments.throughput.benchmark.radiographs import write_store
from experiments.throughput.benchmark.result import (
    FileOption,
    Row,
    SizeOption,
    WorkersOption,
    document,
    show,
)

MODES = ("threads", "processes")
COUNTS = (1_000, 10_000, 50_000)
BATCH = 32
SAMPLE_EVERY = 16  # batches

COLUMNS = {
    "images": "images",
    "peak_memory_mb": "memory, MB",
    "anonymous_mb": "anonymous, MB",
    "shared_mb": "shared, MB",
    "proportional_mb": "counted once, MB",
    "growth_mb": "growth, MB",
    "ratio": "to the first",
}


def bench_memory(
    count: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images of a store. Default: 1,000, 10,000 and 50,000."),
    ] = None,
    size: SizeOption = 299,
    images: Annotated[int, typer.Option(min=1, help="Images of a training.")] = 50_000,
    workers: WorkersOption = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder on a disk, for the sparse stores.")
    ] = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> dict[str, Any]:
    """Memory of a training against the number of images, without the page cache."""
    counts, workers = count or COUNTS, workers or usable_cores()
    check_folder(folder or Path(tempfile.gettempdir()))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="boneage-bench-", dir=folder) as temporary:
        stores = {count: Path(temporary) / str(count) for count in counts}
        for number, store in stores.items():
            write_store(store, number, size)
        for mode in MODES:
            log(f"{mode}, {', '.join(f'{number:,}' for number in counts)} images")
            rows += _rows(mode, stores, images, workers)
    growths = [row["growth_mb"] for row in rows if row["images"] == counts[-1] and "ratio" in row]
    settings = {
        "counts": list(counts),
        "size": size,
        "batch": BATCH,
        "images": images,
        "workers": workers,
        "augmentation": "the full policy",
    }
    result = document(settings, rows, growth_mb=max(growths, default=None))
    return show(result, COLUMNS, as_json, out)


def _rows(mode: str, stores: dict[int, Path], images: int, workers: int) -> Sequence[Row]:
    rows: list[Row] = []
    for count, store in stores.items():
        row: Row = {"name": f"{mode}, {count:,} images", "images": count}
        # Whole epochs of as many images for every count: memory that grows with time would
        # otherwise seem to grow with the number of images.
        epochs = max(1, images // count)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            try:
                row |= process.submit(train, store, mode, epochs, workers, BATCH).result()
            except Exception as error:  # noqa: BLE001 - the row of the table says it
                row["error"] = f"{type(error).__name__}: {error}"
        rows.append(row)
        if "error" not in row and "error" not in rows[0]:
            row["growth_mb"] = round(row["peak_memory_mb"] - rows[0]["peak_memory_mb"], 1)
            row["ratio"] = round(row["peak_memory_mb"] / rows[0]["peak_memory_mb"], 4)
    return rows


def train(folder: Path, mode: str, epochs: int, workers: int, batch: int) -> dict[str, float]:
    """Train a tiny model from a store, and return the most memory in use.

    Returns:
        `anonymous_mb`, `shared_mb` and `proportional_mb` (see `memory_mb`), each at most, and
        `peak_memory_mb`, the most that the first two were together.
    """
    import keras

    from boneage.pipeline.store import open_store
    from experiments.throughput.benchmark.keras_datasets import make_generator

    count, size, _ = open_store(folder).shape
    image = keras.Input((size, size, 1), name="image")
    gender = keras.Input((1,), name="gender")
    small = keras.layers.AveragePooling2D(min(32, size))(image)
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(small), gender])
    model = keras.Model([image, gender], keras.layers.Dense(1, name="age_months")(joined))
    model.compile(loss="mae")
    most = dict.fromkeys(("peak_memory_mb", "anonymous_mb", "shared_mb", "proportional_mb"), 0.0)

    def watch(step: int, logs: object = None) -> None:
        if step % SAMPLE_EVERY:
            return
        held = memory_mb(os.getpid())
        held["peak_memory_mb"] = held["anonymous_mb"] + held["shared_mb"]
        for key, value in most.items():
            most[key] = max(value, round(held[key], 1))

    watching = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    # A short queue: the number of waiting batches would otherwise hide the growth.
    settings = {"workers": workers, "processes": mode == "processes", "max_queue_size": 2}
    with make_generator(str(folder), count, batch, **settings) as generator:
        model.fit(generator, epochs=epochs, shuffle=False, verbose=0, callbacks=[watching])
    return most


def check_folder(folder: Path) -> None:
    """Refuse a folder in memory, whose pages would be counted as the training's own."""
    kinds = {Path(disk.mountpoint): disk.fstype for disk in psutil.disk_partitions(all=True)}
    above = [folder.resolve(), *folder.resolve().parents]
    if next((kinds[path] for path in above if path in kinds), "") in ("tmpfs", "ramfs"):
        fix = "Name a folder on a disk with --folder."
        raise InputError(Fault(str(folder), "this folder is in memory (tmpfs)", fix))
