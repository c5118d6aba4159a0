"""The benchmark `training`: a step of `fit` with the generator, and on a constant batch."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from boneage.cli.output import JsonOption, log
from boneage.runtime.provenance import usable_cores
from experiments.throughput.benchmark.processes import cpu_seconds, memory_mb
from experiments.throughput.benchmark.radiographs import write_phantom_store
from experiments.throughput.benchmark.result import (
    BatchOption,
    FileOption,
    RoundsOption,
    Row,
    SizeOption,
    WorkersOption,
    add_ratios,
    document,
    rates_row,
    show,
    significant,
)

CONSTANT = "constant batch on the device"
OURS = "generator, processes"
MODES = ("generator, in line", "generator, threads", OURS)

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

MAX_ROWS = 2_048


@dataclass
class _Turns:
    """The measurements of a way to train, one per round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def bench_training(
    backbone: Annotated[str, typer.Option(help="Backbone of the model.")] = "mini_xception",
    size: SizeOption = 128,
    batch: BatchOption = 32,
    steps: Annotated[int, typer.Option(min=1, help="Steps per epoch; two epochs a turn.")] = 20,
    rounds: RoundsOption = 5,
    workers: WorkersOption = None,
    precision: Annotated[
        Literal["float32", "mixed_bfloat16", "mixed_float16"],
        typer.Option(help="Precision of the model."),
    ] = "float32",
    mode: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this row; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> dict[str, Any]:
    """Time of a step of fit with the generator, next to one on a constant batch."""
    import keras

    from boneage.models.builder import build_model
    from boneage.training.distributed import accelerator

    workers = workers or usable_cores()
    log("building the model")
    model = build_model(backbone, size, precision=precision)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss="mae")
    turns = _play(model, mode or MODES, rounds, size, batch, steps, workers)
    images = steps * batch
    rows = [_row(name, each, turns[CONSTANT], images, steps) for name, each in turns.items()]
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
    return show(document(settings, rows, device=accelerator()), COLUMNS, as_json, out)


def _play(
    model: Any, modes: Sequence[str], rounds: int, size: int, batch: int, steps: int, workers: int
) -> dict[str, _Turns]:
    """Train in turns on a constant batch and with each generator."""
    from experiments.throughput.benchmark.keras_datasets import make_generator

    turns = {name: _Turns() for name in (CONSTANT, *modes)}
    with tempfile.TemporaryDirectory(prefix="boneage-bench-") as temporary:
        folder = Path(temporary) / "store"
        write_phantom_store(folder, min(MAX_ROWS, steps * batch), size)
        generators = {
            name: make_generator(
                str(folder),
                steps * batch,
                batch,
                workers=1 if name.endswith("in line") else workers,
                processes=name == OURS,
            )
            for name in modes
        }
        one_batch = make_generator(str(folder), batch, batch, workers=1, processes=False)[0]
        ways = {CONSTANT: constant_batches(one_batch, steps), **generators}
        try:
            for number in range(rounds + 1):
                log(f"round {number} of {rounds}" if number else "warming up")
                for name, measured in turns.items():
                    _train(model, ways[name], measured if number else _Turns())
        finally:
            for generator in generators.values():
                generator.close()
    return turns


def constant_batches(batch: Any, steps: int) -> Any:
    """Return an epoch of one batch that is already on the device.

    On TensorFlow this is a `tf.data.Dataset` that repeats a tensor without Python. With a GPU, it
    prefetches to the GPU. Otherwise it is a dataset of device arrays.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.data.Options()
        options.autotune.enabled = False  # its thread may delay the end of an epoch
        repeated = tf.data.Dataset.from_tensors(batch).repeat(steps).with_options(options)
        if tf.config.list_physical_devices("GPU"):
            return repeated.apply(tf.data.experimental.prefetch_to_device("/GPU:0", 4))
        return repeated
    on_device = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)

    class ConstantDataset(keras.utils.PyDataset):
        def __len__(self) -> int:
            return steps

        def __getitem__(self, _: int) -> Any:
            return on_device

    return ConstantDataset()


def _train(model: Any, batches: Any, turns: _Turns) -> None:
    """Run `fit` for two epochs, and time the second from the end of the first."""
    import keras

    ends: list[tuple[float, float]] = []

    def note(_: int, logs: dict[str, Any]) -> None:
        float(logs["loss"])  # waits for the device
        ends.append((time.perf_counter(), cpu_seconds(os.getpid())))

    noting = keras.callbacks.LambdaCallback(on_epoch_end=note)
    model.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=[noting])
    (started, used), (ended, spent) = ends
    turns.seconds.append(ended - started)
    turns.cpu_seconds.append(spent - used)
    turns.memory_mb.append(memory_mb(os.getpid())["proportional_mb"])


def _row(name: str, turns: _Turns, constant: _Turns, images: int, steps: int) -> Row:
    pairs: Sequence[tuple[float, float]] = list(zip(turns.seconds, constant.seconds, strict=True))
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
        # Of the whole process, with the waiting workers of the other rows.
        peak_memory_mb=round(max(turns.memory_mb)),
    )
