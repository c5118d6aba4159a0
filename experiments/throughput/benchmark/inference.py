"""`boneage bench inference`: images a second in batches, and the wait for one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from boneage.models.builder import build_model
from boneage.models.saved import load_model
from boneage.prediction.engines import KerasEngine
from boneage.prediction.predict import predict_images
from boneage.prediction.shipped import open_run
from boneage.recipe import read_recipe
from boneage.training.distributed import accelerator
from experiments.throughput.benchmark.result import (
    Row,
    add_ratios,
    document,
    rates_row,
    significant,
)

COLUMNS = {
    "images_per_second": "images/s",
    "low": "low",
    "high": "high",
    "ratio": "ours / it",
    "latency_ms": "median, ms",
    "latency_95_ms": "95 %, ms",
}

DEFAULTS = (("mini_xception", 128), ("xception", 299))
"""Backbones and sides that are measured when no run and no recipe is named."""


class Network(NamedTuple):
    """A model to measure: its name in the table, and the side of its input in pixels."""

    name: str
    model: keras.Model
    size: int


def networks(
    run: Path | None = None,
    recipe: Path | None = None,
    defaults: Sequence[tuple[str, int]] = DEFAULTS,
) -> list[Network]:
    """The model of a run, a recipe's with random weights, or the default ones.

    Raises:
        InputError: Run or recipe can't be read, or no such model be built.
    """
    if run is not None:
        opened = open_run(run)
        framing = opened.read_recipe().framing
        return [Network(str(run), load_model(opened.best_path), framing.size)]
    if recipe is not None:
        settings = read_recipe(recipe)
        size = settings.framing.size
        model = build_model(
            image_size=size, precision=settings.training.precision, **settings.model.model_dump()
        )
        return [Network(settings.name, model, size)]
    return [Network(f"{name} {size} px", build_model(name, size), size) for name, size in defaults]


def bench_inference(
    chosen: Sequence[Network],
    *,
    batch: int,
    rounds: int,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures models in turns.

    Args:
        chosen: As `networks` gives them.
        batch: Images a batch.
        rounds: Turns.
        seconds: Of each turn, at least.
        say: Shows what is being done.

    Returns:
        `machine`, `settings` and `rows`; `ratio` is ours over the row's, of the same model and
        number of images.
    """
    ways: dict[str, tuple[Callable[[], Any], int]] = {}
    for network in chosen:
        ways.update(_ways(network, batch))
    say("warming up")
    for way, _ in ways.values():
        way()
        way()
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, (way, _) in ways.items():
            times[name].append(_repeated(way, seconds))
    rows = [_row(name, times[name], images) for name, (_, images) in ways.items()]
    for network in chosen:
        for kind in (f"{batch} images", "one image"):
            title = f"{network.name}, {kind}"
            add_ratios([row for row in rows if row["name"].startswith(title)], f"{title}: boneage")
    settings = {
        "backend": keras.backend.backend(),
        "batch": batch,
        "rounds": rounds,
        "seconds": seconds,
        "models": [
            {"name": one.name, "size": one.size, "parameters": one.model.count_params()}
            for one in chosen
        ],
        "ours": "boneage",
    }
    return document(settings, rows, device=accelerator())


def _ways(network: Network, batch: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Functions that answer for images, by the row's name, with how many images they take."""
    name, model, size = network
    rng = np.random.default_rng(0)
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for kind, count in ((f"{batch} images", 4 * batch), ("one image", 1)):
        pixels = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        gender = np.zeros((count, 1), np.float32)
        image = pixels[..., None].astype(np.float32) / 255
        found[f"{name}, {kind}: boneage"] = (_boneage(model, pixels, gender, batch), count)
        found[f"{name}, {kind}: keras predict"] = (_keras(model, image, gender, batch), count)
    found[f"{name}, one image: call of the model"] = (_call(model, image, gender), 1)
    return found


def _boneage(
    model: keras.Model, pixels: np.ndarray, gender: np.ndarray, batch: int
) -> Callable[[], Any]:
    engine = KerasEngine(model)
    return lambda: predict_images(engine, pixels, gender, batch_size=batch)


def _keras(
    model: keras.Model, image: np.ndarray, gender: np.ndarray, batch: int
) -> Callable[[], Any]:
    return lambda: model.predict([image, gender], batch_size=batch, verbose=0)


def _call(model: keras.Model, image: np.ndarray, gender: np.ndarray) -> Callable[[], Any]:
    return lambda: np.asarray(keras.ops.convert_to_numpy(model([image, gender], training=False)))


def _repeated(way: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each call, as many calls as it takes; at least three."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        started = time.perf_counter()
        way()
        times.append(time.perf_counter() - started)
    return times


def _row(name: str, times: Sequence[Sequence[float]], images: int) -> Row:
    row = rates_row(name, [images * len(calls) / sum(calls) for calls in times])
    if images == 1:
        calls = [1000 * seconds for part in times for seconds in part]
        row["latency_ms"] = significant(statistics.median(calls))
        row["latency_95_ms"] = significant(float(np.percentile(calls, 95)))
    return row
