"""Measure throughput and memory: `python -m experiments.throughput.benchmark VERB`, in a clone."""

from __future__ import annotations

import sys

import typer

from boneage.cli.output import make_app
from boneage.errors import InputError
from experiments.throughput.benchmark.inference import bench_inference
from experiments.throughput.benchmark.memory import bench_memory
from experiments.throughput.benchmark.pipeline import bench_pipeline
from experiments.throughput.benchmark.prepare import bench_prepare
from experiments.throughput.benchmark.training import bench_training

bench_app = make_app(None, "Measure the speed and the memory on this machine.")
for verb in (bench_pipeline, bench_prepare, bench_training, bench_memory, bench_inference):
    bench_app.command(verb.__name__.removeprefix("bench_"))(verb)


def main() -> None:
    """Run a benchmark. The exit code is 0, or 2 for invalid input."""
    try:
        bench_app()
    except InputError as error:
        for fault in error.faults:
            typer.echo(f"error: {fault}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
