"""Measure the cost of checkpoints: the time that a training spends on writing its state.

python experiments/resume/overhead.py RECIPE.toml --data MANIFEST --out results/NAME.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as the command line sets it
from boneage.datasets.manifest import read_manifest
from boneage.recipe import read_recipe
from boneage.runtime.files import write_json
from boneage.runtime.provenance import command_line, provenance
from boneage.training.recorder import RunRecorder
from boneage.training.trainer import train


def main() -> None:
    """Train, and time what the recorder does at the end of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe, manifest = read_recipe(options.recipe, options.set), read_manifest(options.data)
    spent: list[float] = []
    own = RunRecorder.on_epoch_end

    def timed(self: RunRecorder, epoch: int, logs: Any = None) -> None:
        started = time.perf_counter()
        own(self, epoch, logs)
        spent.append(time.perf_counter() - started)

    RunRecorder.on_epoch_end = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run = train(recipe, manifest, Path(folder) / "run", progress=False)
        rows = run.history_path.read_text().splitlines()[1:]
        checkpoint_bytes = run.checkpoint_path.stat().st_size
        parameters = run.read_info()["model"]["parameters"]
    epochs = [float(row.rsplit(",", 1)[1]) for row in rows]
    result = {
        "command": command_line(),
        "recipe": recipe.name,
        "provenance": provenance(),
        "parameters": parameters,
        "checkpoint_bytes": checkpoint_bytes,
        "epochs": len(epochs),
        "epoch_seconds_median": statistics.median(epochs[1:]),
        "writing_seconds": {"median": statistics.median(spent), "most": max(spent)},
        "share": sum(spent[1:]) / sum(epochs[1:]),  # the first epoch also builds the graph
    }
    print(
        f"{result['share']:.2%} of an epoch of {result['epoch_seconds_median']:.1f} s "
        f"({statistics.median(spent):.3f} s, {max(spent):.3f} s at most)"
    )
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
