"""Estimate what a recipe costs on this machine: hours, from a few timed steps, and disk space."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import numpy as np

from boneage.datasets.manifest import Manifest
from boneage.models.builder import build_model
from boneage.models.losses import compile_for_training
from boneage.recipe import Recipe
from boneage.runtime.provenance import provenance
from boneage.training.batch_memory import explain_out_of_memory
from boneage.training.distributed import accelerator

_MOST_STEPS = 10
_VALIDATION_SHARE = 1 / 3  # of a training step's time: a forward pass only


def estimate_cost(recipe: Recipe, manifest: Manifest, *, seconds: float = 20.0) -> dict[str, Any]:
    """Time some training steps on noise, and estimate the cost of the training.

    Decoding the radiographs is not timed, and neither is making batches: both run in parallel.

    Args:
        recipe: What to train.
        manifest: The data, with train and val splits.
        seconds: Time limit for the training steps after the first, which compiles.

    Returns:
        JSON-ready values, which `describe_cost` explains. `hours` is an upper limit. `run_bytes`
        counts models and checkpoint twice, as they exist during a replacement.

    Raises:
        InputError: A split is missing, the network can't be built, or a batch does not fit into
            memory.
    """
    settings, size = recipe.training, recipe.framing.size
    train, val = len(manifest.split("train")), len(manifest.split("val"))
    parameters, steps = _time_steps(recipe, min(settings.batch_size, train), seconds)
    step_seconds = float(np.median(steps))
    epoch_seconds = step_seconds * (
        math.ceil(train / settings.batch_size)
        + _VALIDATION_SHARE * math.ceil(val / settings.batch_size)
    )
    copies = 2 * (1 + 3 + (1 if settings.ema else 0))  # the checkpoint has two moments more
    return {
        "device": accelerator() or provenance()["device"],
        "parameters": parameters,
        "batch_size": settings.batch_size,
        "steps_timed": len(steps),
        "step_seconds": step_seconds,
        "epochs": settings.epochs,
        "hours": settings.epochs * epoch_seconds / 3600,
        "store_bytes": len(recipe.framings()) * len(manifest) * size**2,
        "run_bytes": copies * 4 * parameters,
    }


def describe_cost(cost: dict[str, Any]) -> list[str]:
    """Return an estimate as lines of text."""
    return [
        f"{cost['device']}: {1000 * cost['step_seconds']:.0f} ms per step of {cost['batch_size']} "
        f"images ({cost['steps_timed']} steps timed)",
        f"{cost['epochs']:,} epochs: at most {cost['hours']:.1f} hours",
        f"disk: {cost['store_bytes'] / 1e9:.1f} GB for the framed radiographs, "
        f"{cost['run_bytes'] / 1e9:.1f} GB for the run ({cost['parameters']:,} parameters)",
    ]


def _time_steps(recipe: Recipe, count: int, seconds: float) -> tuple[int, list[float]]:
    """Return the number of parameters, and the seconds of each timed training step."""
    settings, size = recipe.training, recipe.framing.size
    gender = (np.arange(count) % 2).astype(np.float32)[:, None]
    x = (np.random.default_rng(0).random((count, size, size, 1), np.float32), gender)
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
