"""`boneage bench training`: what a step of `fit` costs with the generator, and without input."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from boneage.datasets.phantom.cohort import phantom
from boneage.models.builder import build_model
from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from boneage.training.distributed import accelerator
from experiments.throughput.benchmark.constant import constant_batches
from experiments.throughput.benchmark.processes import cpu_seconds, memory_mb
from experiments.throughput.benchmark.radiographs import write_store
from experiments.throughput.benchmark.result import (
    Row,
    add_ratios,
    document,
    rates_row,
    significant,
)

CONSTANT = "constant batch on the device"
MODES = {
    "generator, in line": (1, False),
    "generator, threads": (None, False),
    "generator, processes": (None, True),
}
OURS = "generator, processes"

COLUMNS = {
    "images_per_second": "images/s",
    "low": "low",
    "high": "high",
    "milliseconds_per_step": "ms/step",
    "step_ratio": "step / constant",
    "waiting_percent": "waiting, %",
    "cpu_seconds_per_1000": "CPU s/1,000",
    "peak_memory_mb": "memory, MB",
}

_DRAWN_RADIOGRAPHS = 32
_MOST_ROWS = 2_048


@dataclass
class _Turns:
    """What the rounds of one way gave: a value for each."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


class _Epochs(keras.callbacks.Callback):
    """Notes when epochs end: when their last step has been done, not only asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[float, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        float((logs or {})["loss"])  # waits for the device
        self.ends.append((time.perf_counter(), cpu_seconds(os.getpid())))


def bench_training(
    *,
    backbone: str,
    size: int,
    batch: int,
    steps: int,
    rounds: int,
    workers: int,
    precision: str,
    modes: Sequence[str] = tuple(MODES),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains one model in turns on the generator and on one constant batch.

    A turn is a `fit` of two epochs; the second one is timed, from the end of the first: the turn of
    the epoch is in it, starting is not.

    Args:
        backbone: As in a recipe.
        size: Side of the pictures, pixels.
        batch: Images a step.
        steps: An epoch's.
        rounds: Turns.
        workers: Threads or processes of the generator.
        precision: As in a recipe.
        modes: Names out of `MODES`.
        say: Shows what is being done.

    Returns:
        `machine`, `settings` and `rows`. Of a row, `step_ratio` is its step's time over that of the
        constant batch, and `waiting_percent` the share of its time that this is too long, with its
        least and most over the rounds; below zero is noise.

    Raises:
        InputError: There is no such backbone, or not at this size.
    """
    say("building the model")
    model = build_model(backbone, size, precision=precision)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss="mae")
    turns = {name: _Turns() for name in (CONSTANT, *modes)}
    with tempfile.TemporaryDirectory(prefix="boneage-bench-") as temporary:
        folder = Path(temporary) / "store"
        _draw_store(folder, min(_MOST_ROWS, steps * batch), size)
        generators = {
            name: _generator(folder, steps * batch, batch, MODES[name], workers) for name in modes
        }
        ways: dict[str, Any] = {CONSTANT: None, **generators}
        try:
            plain = _generator(folder, batch, batch, (1, False), 1)
            ways[CONSTANT] = constant_batches(plain[0], steps)
            for number in range(rounds + 1):
                say(f"round {number} of {rounds}" if number else "warming up")
                for name, way in ways.items():
                    _turn(model, way, turns[name] if number else _Turns())
        finally:
            for generator in generators.values():
                generator.close()
    rows = [_row(name, turn, turns[CONSTANT], steps * batch, steps) for name, turn in turns.items()]
    add_ratios(rows, OURS)
    settings = {
        "backend": keras.backend.backend(),
        "backbone": backbone,
        "parameters": model.count_params(),
        "size": size,
        "batch": batch,
        "steps": steps,
        "rounds": rounds,
        "workers": workers,
        "precision": precision,
        "ours": OURS,
    }
    return document(settings, rows, device=accelerator())


def _draw_store(folder: Path, count: int, size: int) -> None:
    radiographs = [
        phantom(0, index, max(64, size)).image for index in range(min(count, _DRAWN_RADIOGRAPHS))
    ]
    write_store(
        folder,
        count,
        size,
        np.stack([cv2.resize(radiograph, (size, size)) for radiograph in radiographs]),
    )


def _generator(
    folder: Path, count: int, batch: int, mode: tuple[int | None, bool], workers: int
) -> DataGenerator:
    store = open_store(folder)
    rows = np.arange(count) % len(store)
    number, processes = mode
    return DataGenerator(
        store.select([store.image_ids[row] for row in rows]),
        np.arange(count) % 2,
        np.linspace(1.0, 228.0, count),
        batch,
        shuffle=True,
        augmentation=Augmentation(),
        workers=number or workers,
        use_multiprocessing=processes,
    )


def _turn(model: keras.Model, batches: Any, turns: _Turns) -> None:
    epochs = _Epochs()
    model.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=[epochs])
    (started, used), (ended, spent) = epochs.ends
    turns.seconds.append(ended - started)
    turns.cpu_seconds.append(spent - used)
    turns.memory_mb.append(memory_mb(os.getpid())["proportional_mb"])


def _row(name: str, turns: _Turns, constant: _Turns, images: int, steps: int) -> Row:
    pairs = list(zip(turns.seconds, constant.seconds, strict=True))
    waiting = [100 * (own - base) / own for own, base in pairs]
    return rates_row(
        name,
        [images / seconds for seconds in turns.seconds],
        milliseconds_per_step=significant(1000 * statistics.median(turns.seconds) / steps),
        step_ratio=significant(statistics.median(own / base for own, base in pairs)),
        waiting_percent=round(statistics.median(waiting), 2),
        waiting_percent_low=round(min(waiting), 2),
        waiting_percent_high=round(max(waiting), 2),
        cpu_seconds_per_1000=significant(1000 * statistics.median(turns.cpu_seconds) / images),
        # Of the whole process, in which the other ways stand by.
        peak_memory_mb=round(max(turns.memory_mb)),
    )
