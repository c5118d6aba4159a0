"""`boneage bench memory`: does the memory of a training grow with the number of images?

A store is mapped, not read, so 50,000 images should need no more memory of one's own than 1,000.
Each count is measured in a process of its own: plain `fit` of a tiny model on a store of black
images (sparse files, next to no disk), shuffled and augmented, as many images for every count.
What is measured is resident memory of the training process and of all its workers, but for pages of
mapped files: those are the kernel's to drop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from experiments.throughput.benchmark.radiographs import write_store
from experiments.throughput.benchmark.result import Row, document

CLONE = Path(__file__).parents[3]
MODES = ("threads", "processes")

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
    *,
    counts: Sequence[int],
    size: int,
    images: int,
    workers: int,
    modes: Sequence[str] = MODES,
    batch: int = 32,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains on stores of several sizes and says how much memory was in use at most.

    Args:
        counts: Images of each store.
        size: Side of the pictures, pixels.
        images: How many to train on for every count, in whole epochs: what grows with time would
            else look like growth with the number of images.
        workers: Threads or processes of the generator.
        modes: Out of `MODES`.
        batch: Images a step.
        folder: Where the sparse stores are written; not in a file system that is memory itself.
        say: Shows what is being done.

    Returns:
        `machine`, `settings`, `rows` and `growth_mb`: the most, over the modes, that the last
        count took more than the first.

    Raises:
        InputError: The folder is in memory.
    """
    rows: list[Row] = []
    _check_folder(folder or Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix="boneage-bench-", dir=folder) as temporary:
        stores = {count: Path(temporary) / str(count) for count in counts}
        for count, store in stores.items():
            write_store(store, count, size)
        for mode in modes:
            first: float | None = None
            for count, store in stores.items():
                say(f"{mode}, {count:,} images")
                row = _measured(store, mode, max(1, images // count), workers, batch)
                row = {"name": f"{mode}, {count:,} images", "images": count, **row}
                if "error" not in row:
                    held = row["peak_memory_mb"]
                    first = held if first is None else first
                    row["growth_mb"] = round(held - first, 1)
                    row["ratio"] = round(held / first, 4)
                rows.append(row)
    growths = [row["growth_mb"] for row in rows if row["images"] == counts[-1] and "ratio" in row]
    settings = {
        "counts": list(counts),
        "size": size,
        "batch": batch,
        "images": images,
        "workers": workers,
        "augmentation": "the full policy",
    }
    return document(settings, rows, growth_mb=max(growths, default=None))


def _measured(store: Path, mode: str, epochs: int, workers: int, batch: int) -> Row:
    module = "experiments.throughput.benchmark.memory_training"
    arguments = [str(store), mode, str(epochs), str(workers), str(batch)]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=CLONE,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"it ended with status {done.returncode}"}
    measured: Row = json.loads(done.stdout.splitlines()[-1])
    return measured


def _check_folder(folder: Path) -> None:
    """Refuses a folder in a tmpfs: pages of its files would be counted as the training's own."""
    if _file_system(folder.resolve()) in ("tmpfs", "ramfs"):
        raise InputError(
            Fault(
                str(folder),
                "it is in memory (tmpfs)",
                "Name another one with --folder.",
                expected="a folder on a disk",
            )
        )


def _file_system(folder: Path) -> str:
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    kinds = {Path(fields[1]): fields[2] for fields in map(str.split, lines)}
    return next((kinds[place] for place in (folder, *folder.parents) if place in kinds), "")
