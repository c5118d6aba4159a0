"""Measure throughput and memory: `python -m experiments.throughput.benchmark VERB`, in a clone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from boneage.cli.output import JsonOption, make_app, print_json, refuse
from boneage.errors import InputError
from boneage.runtime.provenance import usable_cores

FileOption = Annotated[Path | None, typer.Option("--out", help="Also write the JSON there.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Turns that each gets, interleaved.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images a batch.")]
SizeOption = Annotated[int, typer.Option(min=32, max=2048, help="Side of the images, pixels.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads or processes; one for each core if not said.")
]
RadiographsOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH", help="A radiograph, or a folder of radiographs; else phantoms are drawn."
    ),
]
SecondsOption = Annotated[float, typer.Option(min=0.01, help="Of every turn, at least.")]

_RADIOGRAPH_NAMES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"}

bench_app = make_app(None, "Measure how fast it is here.")


@bench_app.command("pipeline")
def bench_pipeline(
    size: SizeOption = 299,
    batch: BatchOption = 32,
    workers: WorkersOption = None,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 3.0,
    radiographs: RadiographsOption = None,
    contender: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> None:
    """Images a second into training: ours, tutorials', tf.data, PyTorch, grain, and the limit."""
    from experiments.throughput.benchmark.contenders import BY_NAME
    from experiments.throughput.benchmark.pipeline import COLUMNS
    from experiments.throughput.benchmark.pipeline import bench_pipeline as measure

    unknown = [name for name in contender or () if name not in BY_NAME]
    if unknown:
        refuse(f"--contender {', '.join(unknown)}", "unknown", f"Name one of {', '.join(BY_NAME)}.")
    result = measure(
        size=size,
        batch=batch,
        workers=workers or usable_cores(),
        rounds=rounds,
        seconds=seconds,
        radiographs=_radiographs(radiographs),
        contenders=contender or (),
        say=_say,
    )
    _show(result, COLUMNS, as_json, out)


@bench_app.command("prepare")
def bench_prepare(
    size: SizeOption = 299,
    count: Annotated[int, typer.Option(min=1, help="Films of each turn.")] = 256,
    workers: WorkersOption = None,
    rounds: RoundsOption = 5,
    radiographs: RadiographsOption = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> None:
    """Films a second into a store, beside decoding and resizing alone."""
    from experiments.throughput.benchmark.preparing import COLUMNS
    from experiments.throughput.benchmark.preparing import bench_prepare as measure

    result = measure(
        size=size,
        count=count,
        workers=workers or usable_cores(),
        rounds=rounds,
        radiographs=_radiographs(radiographs),
        say=_say,
    )
    _show(result, COLUMNS, as_json, out)


@bench_app.command("training")
def bench_training(
    backbone: Annotated[str, typer.Option(help="As in a recipe.")] = "mini_xception",
    size: SizeOption = 128,
    batch: BatchOption = 32,
    steps: Annotated[int, typer.Option(min=1, help="Steps an epoch; two epochs a turn.")] = 20,
    rounds: RoundsOption = 5,
    workers: WorkersOption = None,
    precision: Annotated[
        Literal["float32", "mixed_bfloat16", "mixed_float16"], typer.Option(help="As in a recipe.")
    ] = "float32",
    as_json: JsonOption = False,
    out: FileOption = None,
) -> None:
    """What a step of fit costs with the generator, beside one on a constant batch."""
    from experiments.throughput.benchmark.training import COLUMNS
    from experiments.throughput.benchmark.training import bench_training as measure

    result = measure(
        backbone=backbone,
        size=size,
        batch=batch,
        steps=steps,
        rounds=rounds,
        workers=workers or usable_cores(),
        precision=precision,
        say=_say,
    )
    _show(result, COLUMNS, as_json, out)


@bench_app.command("memory")
def bench_memory(
    count: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images of a store; 1,000, 10,000 and 50,000 if not said."),
    ] = None,
    size: SizeOption = 299,
    images: Annotated[
        int, typer.Option(min=1, help="Images to train on, for every count.")
    ] = 50_000,
    workers: WorkersOption = None,
    folder: Annotated[Path | None, typer.Option(help="For the sparse stores: on a disk.")] = None,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> None:
    """Memory of a training against the number of images, page cache left out."""
    from experiments.throughput.benchmark.memory import COLUMNS
    from experiments.throughput.benchmark.memory import bench_memory as measure

    result = measure(
        counts=count or (1_000, 10_000, 50_000),
        size=size,
        images=images,
        workers=workers or usable_cores(),
        folder=folder,
        say=_say,
    )
    _show(result, COLUMNS, as_json, out)


@bench_app.command("inference")
def bench_inference(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe's model, with random weights.")
    ] = None,
    batch: BatchOption = 32,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 2.0,
    as_json: JsonOption = False,
    out: FileOption = None,
) -> None:
    """Predictions a second, and the wait for one."""
    if run is not None and recipe is not None:
        refuse("benchmark inference", "a run and a recipe were given", "Name one of them.")
    from experiments.throughput.benchmark.inference import COLUMNS, networks
    from experiments.throughput.benchmark.inference import bench_inference as measure

    result = measure(networks(run, recipe), batch=batch, rounds=rounds, seconds=seconds, say=_say)
    _show(result, COLUMNS, as_json, out)


def _show(
    result: dict[str, Any], columns: Mapping[str, str], as_json: bool, out: Path | None
) -> None:
    from experiments.throughput.benchmark.result import table

    if out is not None:
        out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
        return
    machine = result["machine"]
    typer.echo(f"{machine['device']}, {machine['cores']} cores\n")
    typer.echo(table(result["rows"], columns))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _radiographs(paths: list[Path] | None) -> list[Path]:
    """The radiographs named, and those in the folders named."""
    radiographs: list[Path] = []
    for path in paths or ():
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found = [one for one in inside if one.suffix.lower() in _RADIOGRAPH_NAMES]
        if not found:
            refuse(f"--films {path}", "there is no radiograph", "Name a file or a folder.")
        radiographs += found
    return radiographs


def main() -> None:
    """Run a benchmark: exit code 0 when done, 2 for invalid input."""
    try:
        bench_app()
    except InputError as error:
        for fault in error.faults:
            typer.echo(f"error: {fault}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
