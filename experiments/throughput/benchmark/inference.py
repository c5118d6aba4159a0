"""The benchmark `inference`: images per second in batches, and the wait for one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer

from boneage.cli.output import JsonOption, log, refuse
from experiments.throughput.benchmark.result import (
    BatchOption,
    FileOption,
    RoundsOption,
    Row,
    SecondsOption,
    add_ratios,
    document,
    rates_row,
    show,
    significant,
)

if TYPE_CHECKING:
    import keras

    from boneage.prediction.engines import Engine

COLUMNS = {
    "images_per_second": "images/s",
    "low": "low",
    "high": "high",
    "ratio": "ours / it",
    "latency_ms": "median, ms",
    "latency_95_ms": "95 %, ms",
}

DEFAULTS = (("mini_xception", 128), ("xception", 299))
"""Backbones and sides that are measured without a run or a recipe."""


class Network(NamedTuple):
    """A model to measure: its name in the table, the side of its input in pixels, its engine."""

    name: str
    model: keras.Model
    size: int
    engine: Engine | None = None


def bench_inference(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe, whose model gets random weights.")
    ] = None,
    batch: BatchOption = 32,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 2.0,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> dict[str, Any]:
    """Predictions per second, and the wait for one."""
    if run is not None and recipe is not None:
        refuse("benchmark inference", "a run and a recipe were given", "Name one of them.")
    import keras

    from boneage.training.distributed import accelerator

    networks = _networks(run, recipe)
    ways: dict[str, tuple[Callable[[], Any], int]] = {}
    for network in networks:
        ways.update(_ways(network, batch))
    log("warming up")
    for way, _ in ways.values():
        way()
        way()
    times: dict[str, list[list[float]]] = {name: [] for name in ways}
    for number in range(rounds):
        log(f"round {number + 1} of {rounds}")
        for name, (way, _) in ways.items():
            times[name].append(_repeat(way, seconds))
    rows = [_row(name, times[name], images) for name, (_, images) in ways.items()]
    for network in networks:
        for kind in (f"{batch} images", "one image"):
            title = f"{network.name}, {kind}"
            add_ratios([row for row in rows if row["name"].startswith(title)], f"{title}: boneage")
    settings = {
        "backend": keras.backend.backend(),
        "batch": batch,
        "rounds": rounds,
        "seconds": seconds,
        "models": [
            {"name": each.name, "size": each.size, "parameters": each.model.count_params()}
            for each in networks
        ],
        "ours": "boneage",
    }
    return show(document(settings, rows, device=accelerator()), COLUMNS, as_json, out)


def _networks(run: Path | None, recipe: Path | None) -> list[Network]:
    """Return the model of a run, a recipe's with random weights, or the default models."""
    from boneage.models.builder import build_model
    from boneage.models.saved import load_model
    from boneage.prediction.engines import load_engine
    from boneage.prediction.shipped import open_run
    from boneage.recipe import read_recipe

    if run is not None:
        opened = open_run(run)
        size = opened.read_recipe().framing.size
        return [Network(str(run), load_model(opened), size, load_engine(opened))]
    if recipe is not None:
        settings = read_recipe(recipe)
        size, precision = settings.framing.size, settings.training.precision
        model = build_model(image_size=size, precision=precision, **settings.model.model_dump())
        return [Network(settings.name, model, size)]
    return [Network(f"{name} {size} px", build_model(name, size), size) for name, size in DEFAULTS]


def _ways(network: Network, batch: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return functions that predict, by the name of their row, with their number of images."""
    from keras import ops

    from boneage.prediction.engines import KerasEngine
    from boneage.prediction.test_time_views import mean_of_views

    name, model, size, own = network
    engine = own or KerasEngine(model)  # of a run, the one that `predict` uses
    rng = np.random.default_rng(0)
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for kind, count in ((f"{batch} images", 4 * batch), ("one image", 1)):
        pixels = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        gender = np.zeros((count, 1), np.float32)
        image = pixels[..., None].astype(np.float32) / 255

        def ours(pixels: Any = pixels, gender: Any = gender) -> Any:
            return mean_of_views(engine, pixels, gender, batch_size=batch)

        def keras_predict(image: Any = image, gender: Any = gender) -> Any:
            return model.predict([image, gender], batch_size=batch, verbose=0)

        def call(image: Any = image, gender: Any = gender) -> Any:
            return ops.convert_to_numpy(model([image, gender], training=False))

        found[f"{name}, {kind}: boneage"] = (ours, count)
        found[f"{name}, {kind}: keras predict"] = (keras_predict, count)
        if count == 1:
            found[f"{name}, {kind}: call of the model"] = (call, count)
    return found


def _repeat(way: Callable[[], Any], seconds: float) -> list[float]:
    """Return the seconds of each call, for `seconds` and at least three calls."""
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
