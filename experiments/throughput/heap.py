"""What it is worth on a CPU that a training keeps the memory it frees.

    python experiments/throughput/heap.py RECIPE.toml [--data MANIFEST] --out results/heap.json

The same training with and without, in turns; the first epoch of each also builds the graph, and is
left out.
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

from boneage.files import write_json
from boneage.provenance import command_line, provenance

VERB = [sys.executable, "-c", "from boneage.cli import main; main()", "train"]
AS_GLIBC_COMES = {"MALLOC_PERTURB_": "0"}  # changes nothing but that malloc counts as tuned
ROWS: dict[str, dict[str, str]] = {"kept": {}, "as glibc comes": AS_GLIBC_COMES}


def main() -> None:
    """Trains in turns and compares the epochs."""
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
    pairs = zip(*(turns[name] for name in ROWS), strict=True)
    ratios = [other["epoch_seconds"] / kept["epoch_seconds"] for kept, other in pairs]
    result: dict[str, Any] = {
        "command": command_line(),
        "provenance": provenance(),
        "overrides": options.set,
        "turns": turns,
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
    }
    print(result["ratio"])
    if options.out:
        write_json(options.out, result)


def turn(begin: list[str], variables: dict[str, str]) -> dict[str, float]:
    """One training: the median of its epochs but the first, and the most memory it had."""
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
