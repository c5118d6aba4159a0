"""Estimate what a recipe costs on this machine: hours, from a few timed steps, and disk space."""

from __future__ import annotations

import math
import os
import time
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

_MOST_STEPS = 10
_RADIOGRAPHS = 8
_READS_PER_RADIOGRAPH = 2  # the data check decodes every radiograph, and so does preparing
_VALIDATION_SHARE = 1 / 3  # of a training step's time: a forward pass only


def estimate_cost(recipe: Recipe, manifest: Manifest, *, seconds: float = 20.0) -> dict[str, Any]:
    """Time some radiographs and some training steps, and estimate the cost of the training.

    Making batches is not timed, because it runs in parallel with the steps.

    Args:
        recipe: What to train.
        manifest: The data, with train and val splits.
        seconds: Time limit for the training steps after the first, which compiles.

    Returns:
        JSON-ready values, which `describe_cost` explains. `hours` and `epoch_seconds` are upper
        limits. `run_bytes` counts models and checkpoint twice, as they exist during a replacement.

    Raises:
        InputError: A radiograph can't be read, a split is missing, the network can't be built, or
            a batch does not fit into memory.
    """
    settings, paths, regions = recipe.training, manifest.image_paths(), manifest.regions()
    started = time.perf_counter()
    images = np.stack(
        [
            frame(read_radiograph(paths[row]), recipe.framing, regions[row]).pixels
            for row in np.unique(np.linspace(0, len(paths) - 1, _RADIOGRAPHS, dtype=int))
        ]
    )
    radiograph_seconds = (time.perf_counter() - started) / len(images)
    train, val = len(manifest.split("train")), len(manifest.split("val"))
    batch = np.resize(images, (min(settings.batch_size, train), *images.shape[1:]))
    parameters, steps = _time_steps(recipe, batch, seconds)
    step_seconds = float(np.median(steps))
    epoch_seconds = step_seconds * (
        math.ceil(train / settings.batch_size)
        + _VALIDATION_SHARE * math.ceil(val / settings.batch_size)
    )
    cores = usable_cores()
    preparation_seconds = _READS_PER_RADIOGRAPH * radiograph_seconds * len(paths) / cores
    copies = 2 * (1 + 3 + (1 if settings.ema else 0))  # the checkpoint has two moments more
    return {
        "device": accelerator() or provenance()["device"],
        "cores": cores,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "images": len(paths),
        "parameters": parameters,
        "batch_size": settings.batch_size,
        "steps_timed": len(steps),
        "step_seconds": step_seconds,
        "epochs": settings.epochs,
        "epoch_seconds": epoch_seconds,
        "preparation_seconds": preparation_seconds,
        "hours": (preparation_seconds + settings.epochs * epoch_seconds) / 3600,
        "store_bytes": len(paths) * recipe.framing.size**2,
        "run_bytes": copies * 4 * parameters,
    }


def describe_cost(cost: dict[str, Any]) -> list[str]:
    """Return an estimate as lines of text."""
    lines = [
        f"{cost['device']}, {cost['cores']} cores: {_format_time(cost['step_seconds'])} per step "
        f"of {cost['batch_size']} images ({cost['steps_timed']} steps timed)",
        f"{cost['epochs']:,} epochs of {_format_time(cost['epoch_seconds'])}: at most "
        f"{_format_time(cost['epochs'] * cost['epoch_seconds'])}",
        f"checking and framing {cost['images']:,} radiographs: about "
        f"{_format_time(cost['preparation_seconds'])}",
        f"disk: {cost['store_bytes'] / 1e9:.1f} GB for the framed radiographs, "
        f"{cost['run_bytes'] / 1e9:.1f} GB for the run ({cost['parameters']:,} parameters)",
    ]
    if cost["load"] > 2 * cost["cores"]:
        lines.append(f"This machine is busy (load {cost['load']:.0f}). An idle one is faster.")
    return lines


def _time_steps(recipe: Recipe, images: np.ndarray, seconds: float) -> tuple[int, list[float]]:
    """Return the number of parameters, and the seconds of each timed training step."""
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
        times: list[float] = []
        with explain_out_of_memory(count):
            model.train_on_batch(x, y)  # compiles
            while not times or (sum(times) + times[-1] <= seconds and len(times) < _MOST_STEPS):
                started = time.perf_counter()
                model.train_on_batch(x, y)  # returns the loss, so the device has finished
                times.append(time.perf_counter() - started)
        return network.count_params(), times
    finally:
        keras.backend.clear_session()  # layers of the training get their usual names


def _format_time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
