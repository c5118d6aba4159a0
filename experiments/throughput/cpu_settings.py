"""The effect of the two settings that `boneage train` makes on a CPU: kept memory and oneDNN.

    python experiments/throughput/cpu_settings.py RECIPE.toml --out results/cpu-settings.json

The same training runs with both settings, with one and with none, in turns. The first epoch also
builds the graph, so it does not count.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from boneage.runtime.files import write_json
from boneage.runtime.provenance import command_line, provenance

VERB = [sys.executable, "-c", "from boneage.cli.main import main; main()", "train"]
NOT_KEPT = {"MALLOC_PERTURB_": "0"}  # has no effect, except that malloc counts as tuned
NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
ROWS: dict[str, dict[str, str]] = {
    "both": {},
    "memory is given back": NOT_KEPT,
    "no oneDNN": NO_ONEDNN,
    "neither": NOT_KEPT | NO_ONEDNN,
}


def main() -> None:
    """Train in turns, and compare the epochs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begin = [str(options.recipe), *(["--data", str(options.data)] if options.data else [])]
    begin += [part for pair in options.set for part in ("--set", pair)]
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    for _ in range(options.rounds):
        for name, variables in ROWS.items():
            turns[name].append(turn(begin, variables))
            print(f"{name}: {turns[name][-1]}", flush=True)
    ratios = {name: ratio(turns["both"], turns[name]) for name in ROWS if name != "both"}
    result: dict[str, Any] = {
        "command": command_line(),
        "provenance": provenance(),
        "overrides": options.set,
        "turns": turns,
        "ratio": ratios,
    }
    print(ratios)
    if options.out:
        write_json(options.out, result)


def ratio(first: list[dict[str, float]], second: list[dict[str, float]]) -> dict[str, float]:
    """Return how many times as long the second's epochs take, round by round."""
    pairs = zip(first, second, strict=True)
    found = [each["epoch_seconds"] / base["epoch_seconds"] for base, each in pairs]
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


def turn(begin: list[str], variables: dict[str, str]) -> dict[str, float]:
    """Train once. Return the median time of an epoch without the first, and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = subprocess.Popen(
            [*VERB, *begin, "--out", str(run)],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"boneage train {' '.join(begin)} failed")
        with (run / "history.csv").open() as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return {
        "epoch_seconds": round(statistics.median(seconds[1:]), 2),
        "peak_memory_mb": round(usage.ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
