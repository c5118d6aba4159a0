"""What the two settings are worth that `boneage train` makes on a CPU: kept memory and oneDNN.

    python experiments/throughput/cpu_settings.py RECIPE.toml --out results/cpu-settings.json

The same training with both, with one and with neither, in turns; the first epoch of each also
builds the graph, and is left out.
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
NOT_KEPT = {"MALLOC_PERTURB_": "0"}  # changes nothing but that malloc counts as tuned
NO_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}
ROWS: dict[str, dict[str, str]] = {
    "both": {},
    "memory is given back": NOT_KEPT,
    "no oneDNN": NO_ONEDNN,
    "neither": NOT_KEPT | NO_ONEDNN,
}


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
    ratios = {name: over(turns["both"], turns[name]) for name in ROWS if name != "both"}
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


def over(ones: list[dict[str, float]], others: list[dict[str, float]]) -> dict[str, float]:
    """How many times as long the others' epochs take, round by round."""
    pairs = zip(ones, others, strict=True)
    found = [other["epoch_seconds"] / one["epoch_seconds"] for one, other in pairs]
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


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
