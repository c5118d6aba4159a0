"""Estimate what a recipe costs on this machine: hours, from a few timed steps, and disk space."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from boneage.datasets.manifest import Manifest
from boneage.models.builder import build_model
from boneage.models.losses import compile_for_training
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Recipe
from boneage.runtime.provenance import provenance, usable_cores
from boneage.training.batch_memory import explain_out_of_memory
from boneage.training.distributed import accelerator

SECONDS = 20.0
"""Time limit for the timed training steps. At least one step is timed."""

_MOST_STEPS = 10
_RADIOGRAPHS = 8
_READS_PER_RADIOGRAPH = 2  # the data check decodes every radiograph, and so does preparing
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class CostEstimate:
    """What one training of a recipe on one manifest costs on this machine.

    Attributes:
        device: Accelerator or processor.
        cores: Processor cores.
        load: Load average. Other processes make the timed steps slower.
        images: Rows of the manifest.
        parameters: Parameters of the network.
        batch_size: Images in a training step.
        steps_timed: Number of timed training steps.
        step_seconds: Median time of a training step, without waiting for its batch.
        epochs: Largest number of epochs. Early stopping may end the training sooner.
        epoch_seconds: Training on the train split and validation.
        preparation_seconds: Checking and framing all radiographs, on all cores.
        hours: Preparation and all epochs.
        store_bytes: Disk space of the framed radiographs.
        run_bytes: Disk space of the run's models and checkpoint, old and new.
    """

    device: str
    cores: int
    load: float
    images: int
    parameters: int
    batch_size: int
    steps_timed: int
    step_seconds: float
    epochs: int
    epoch_seconds: float
    preparation_seconds: float
    hours: float
    store_bytes: int
    run_bytes: int

    def lines(self) -> list[str]:
        """Return the estimate as text."""
        lines = [
            f"{self.device}, {self.cores} cores: {_format_time(self.step_seconds)} per step of "
            f"{self.batch_size} images ({self.steps_timed} steps timed)",
            f"{self.epochs:,} epochs of {_format_time(self.epoch_seconds)}: at most "
            f"{_format_time(self.epochs * self.epoch_seconds)}",
            f"checking and framing {self.images:,} radiographs: about "
            f"{_format_time(self.preparation_seconds)}",
            f"disk: {_format_size(self.store_bytes)} for the framed radiographs, "
            f"{_format_size(self.run_bytes)} for the run ({self.parameters:,} parameters)",
        ]
        if self.load > 2 * self.cores:
            lines.append(f"This machine is busy (load {self.load:.0f}). An idle one is faster.")
        return lines


def estimate_cost(recipe: Recipe, manifest: Manifest, *, seconds: float = SECONDS) -> CostEstimate:
    """Time some radiographs and some training steps of a recipe, and estimate the whole training.

    Making batches is not timed, because it runs in parallel with the steps.

    Args:
        recipe: What to train.
        manifest: The data, with train and val splits.
        seconds: Time limit for the training steps after the first, which compiles.

    Raises:
        InputError: A radiograph can't be read, a split is missing, the network can't be built, or
            a batch does not fit into memory.
    """
    settings, paths = recipe.training, manifest.image_paths()
    rows = np.unique(np.linspace(0, len(paths) - 1, _RADIOGRAPHS, dtype=int))
    started = time.perf_counter()
    images = np.stack(
        [
            frame(read_radiograph(paths[row]), recipe.framing, manifest.regions()[row]).pixels
            for row in rows
        ]
    )
    radiograph_seconds = (time.perf_counter() - started) / len(rows)
    counts = {split: len(manifest.split(split)) for split in ("train", "val")}
    batch_size = min(settings.batch_size, counts["train"])
    batch = np.resize(images, (batch_size, *images.shape[1:]))
    parameters, training, validation = _time_steps(recipe, batch, seconds)
    epoch_seconds = sum(
        math.ceil(counts[split] / settings.batch_size) * float(np.median(times))
        for split, times in (("train", training), ("val", validation))
    )
    cores = usable_cores()
    preparation_seconds = _READS_PER_RADIOGRAPH * radiograph_seconds * len(paths) / cores
    # The best model, and the checkpoint with two moments of the optimizer. Both exist twice while
    # they are replaced.
    copies = 2 * (1 + 3 + (1 if settings.ema else 0))
    return CostEstimate(
        device=accelerator() or provenance()["device"],
        cores=cores,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        images=len(paths),
        parameters=parameters,
        batch_size=settings.batch_size,
        steps_timed=len(training),
        step_seconds=float(np.median(training)),
        epochs=settings.epochs,
        epoch_seconds=epoch_seconds,
        preparation_seconds=preparation_seconds,
        hours=(preparation_seconds + settings.epochs * epoch_seconds) / 3600,
        store_bytes=len(paths) * recipe.framing.size**2,
        run_bytes=copies * _FLOAT_BYTES * parameters,
    )


def _time_steps(
    recipe: Recipe, images: np.ndarray, seconds: float
) -> tuple[int, list[float], list[float]]:
    """Return the number of parameters and the seconds of training and validation steps."""
    settings, count = recipe.training, len(images)
    gender = (np.arange(count) % 2).astype(np.float32)[:, None]
    x = (images[..., None].astype(np.float32) / 255, gender)
    y = np.linspace(12.0, 216.0, count, dtype=np.float32)[:, None]
    try:
        network = build_model(
            image_size=recipe.framing.size,
            precision=settings.precision,
            **recipe.model.model_dump(),
        )
        average = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
        optimizer = keras.optimizers.Adam(settings.learning_rate, **average)
        model = compile_for_training(network, recipe, optimizer)
        with explain_out_of_memory(count):
            model.optimizer.build(model.trainable_variables)  # as the training does
            training = _time(lambda: model.train_on_batch(x, y), seconds)
            validation = _time(lambda: model.test_on_batch(x, y), seconds / 4)
        return network.count_params(), training, validation
    finally:
        keras.backend.clear_session()  # layers of the training get their usual names


def _time(step: Callable[[], Any], seconds: float) -> list[float]:
    step()  # compiles
    times: list[float] = []
    while not times or (sum(times) + times[-1] <= seconds and len(times) < _MOST_STEPS):
        started = time.perf_counter()
        step()  # returns the loss as a number, so the device has finished
        times.append(time.perf_counter() - started)
    return times


def _format_time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _format_size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
