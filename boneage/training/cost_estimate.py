"""What a recipe will cost on this machine: hours, by timing a few of its steps, and disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from boneage.datasets.manifest import Manifest
from boneage.models.builder import build_model
from boneage.models.losses import compile_for_training
from boneage.pipeline.generator import DataGenerator
from boneage.radiographs.framing import frame
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Recipe
from boneage.runtime.provenance import provenance, usable_cores
from boneage.training.batch_memory import check_batch, within_memory
from boneage.training.distributed.device_group import accelerator

SECONDS = 20.0
"""So long training steps are timed at most, and at least one of them."""

_MOST_STEPS = 10
_RADIOGRAPHS = 8
_READS_OF_A_RADIOGRAPH = 2  # the check decodes every radiograph, and preparing frames it
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Effort:
    """What one training of a recipe on one manifest will take here.

    Attributes:
        device: What computes.
        cores: Of the processor.
        load: How many processes wanted a core meanwhile; what was timed is longer for it.
        images: Rows of the manifest.
        parameters: Of the network.
        batch_size: Images a step.
        steps_timed: Training steps behind `step_seconds`, after one that compiles.
        step_seconds: Of a training step, without waiting for its batch.
        validation_step_seconds: The same of a validation step.
        film_seconds: Decoding and framing one radiograph, on one core.
        epochs: As many as there can be; early stopping may end sooner.
        epoch_seconds: Training on all of train and validating on all of val.
        preparation_seconds: Checking and framing all radiographs, on all cores.
        hours: All of it together, at most.
        store_bytes: The framed radiographs.
        run_bytes: The run folder's models and checkpoint, while they are being replaced.
    """

    device: str
    cores: int
    load: float
    images: int
    parameters: int
    batch_size: int
    steps_timed: int
    step_seconds: float
    validation_step_seconds: float
    radiograph_seconds: float
    epochs: int
    epoch_seconds: float
    preparation_seconds: float
    hours: float
    store_bytes: int
    run_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON-able values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The estimate for people."""
        at_most = "at most " if self.epochs > 1 else ""
        busy = (
            [f"this machine is busy (load {self.load:.0f}); left alone it is quicker"]
            if self.load > 2 * self.cores
            else []
        )
        return [
            f"on {self.device}, {self.cores} cores: {_span(self.step_seconds)} a step of "
            f"{self.batch_size} images ({self.steps_timed} timed), {_span(self.epoch_seconds)} "
            f"an epoch, {at_most}{self.epochs:,} epochs: "
            f"{at_most}{_span(self.epochs * self.epoch_seconds)}",
            f"checking and framing {self.images:,} radiographs: about {_span(self.preparation_seconds)}",
            f"disk: {_size(self.store_bytes)} for the framed radiographs, {_size(self.run_bytes)} for "
            f"the run ({self.parameters:,} parameters)",
            *busy,
        ]


def measure_effort(recipe: Recipe, manifest: Manifest, *, seconds: float = SECONDS) -> Effort:
    """Times some radiographs and some training steps of a recipe on this machine.

    Batches are augmented radiographs of the manifest. Making them is not timed: that goes on beside
    the steps (`boneage bench training`). Nothing is kept of the network that is timed.

    Args:
        recipe: What is to be trained.
        manifest: What on, with train and val splits.
        seconds: Time for training steps, after the first, which compiles.

    Raises:
        InputError: A radiograph can't be read, there is no such split, or the network can't be
            built: no such backbone, no such weights file, an image size too small; or its batches
            don't fit into memory.
    """
    counts = {name: len(manifest.split(name)) for name in ("train", "val")}
    paths = manifest.image_paths()
    some = sorted({int(row) for row in np.linspace(0, len(paths) - 1, _RADIOGRAPHS)})
    began = time.perf_counter()
    radiographs = [_framed(paths[row], manifest.regions()[row], recipe) for row in some]
    radiograph_seconds = (time.perf_counter() - began) / len(some)
    settings = recipe.training
    batch_size = min(settings.batch_size, counts["train"])
    parameters, trained, validated = _time_steps(recipe, radiographs, batch_size, seconds)
    step_seconds, validation_seconds = _median(trained), _median(validated)
    epoch_seconds = sum(
        math.ceil(counts[split] / settings.batch_size) * each
        for split, each in (("train", step_seconds), ("val", validation_seconds))
    )
    cores = usable_cores()
    preparation_seconds = _READS_OF_A_RADIOGRAPH * radiograph_seconds * len(paths) / cores
    # Best model and checkpoint, the latter with the optimizer's two moments, each with its
    # successor beside it while that is being written.
    copies = 2 * (1 + 3 + (1 if settings.ema else 0))
    return Effort(
        device=accelerator() or provenance()["device"],
        cores=cores,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        images=len(paths),
        parameters=parameters,
        batch_size=settings.batch_size,
        steps_timed=len(trained),
        step_seconds=step_seconds,
        validation_step_seconds=validation_seconds,
        radiograph_seconds=radiograph_seconds,
        epochs=settings.epochs,
        epoch_seconds=epoch_seconds,
        preparation_seconds=preparation_seconds,
        hours=(preparation_seconds + settings.epochs * epoch_seconds) / 3600,
        store_bytes=len(paths) * recipe.framing.size**2,
        run_bytes=copies * _FLOAT_BYTES * parameters,
    )


def _framed(path: Path, region: Any, recipe: Recipe) -> np.ndarray:
    return frame(read_radiograph(path), recipe.framing, region).pixels


def _time_steps(
    recipe: Recipe, radiographs: list[np.ndarray], batch_size: int, seconds: float
) -> tuple[int, list[float], list[float]]:
    """Parameters of the network, seconds of its training steps, and of its validation steps."""
    settings = recipe.training
    images = np.stack([radiographs[row % len(radiographs)] for row in range(batch_size)])
    gender, age = np.arange(batch_size) % 2, np.linspace(12.0, 216.0, batch_size)
    augmentation = recipe.augmentation
    with DataGenerator(images, gender, age, batch_size, augmentation=augmentation) as batches:
        (x, y) = batches[0]
    try:
        network = build_model(
            image_size=recipe.framing.size,
            precision=settings.precision,
            **recipe.model.model_dump(),
        )
        average = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
        optimizer = keras.optimizers.Adam(settings.learning_rate, **average)
        model = compile_for_training(network, recipe, optimizer)
        check_batch(model, batch_size)
        with within_memory(model, batch_size):
            model.optimizer.build(model.trainable_variables)  # as the training does
            trained = _timed(lambda: model.train_on_batch(x, y), seconds)
            validated = _timed(lambda: model.test_on_batch(x, y), seconds / 4)
        return network.count_params(), trained, validated
    finally:
        keras.backend.clear_session()  # layers of the training are called what they always are


def _timed(step: Callable[[], Any], seconds: float) -> list[float]:
    step()  # compiles
    taken: list[float] = []
    while not taken or (sum(taken) + taken[-1] <= seconds and len(taken) < _MOST_STEPS):
        began = time.perf_counter()
        step()  # gives its loss as a number, so the device has done it
        taken.append(time.perf_counter() - began)
    return taken


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
