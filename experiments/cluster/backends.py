"""Do TensorFlow and JAX train the same recipe and seed alike?

    python experiments/cluster/backends.py [--seeds N] [--set KEY=VALUE ...] [--work FOLDER]

Both with `boneage train`, on phantom films. First one step over all training films, without
dropout and from the weights of one run: its loss must agree to 1e-4, in parts of it. (The weights
that a seed draws differ between backends, each has random numbers of its own; `--init` does not.)
Then whole trainings of N seeds on each: the difference of their mean test MAE must be within the
spread of the seeds, largest less smallest. Prints one JSON document.

What is finished in FOLDER is not trained again. About ten minutes on two quiet cores with three
seeds; without --work the runs are thrown away.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from boneage.provenance import provenance

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "experiments" / "phantom" / "recipe.toml"
BACKENDS = ("tensorflow", "jax")
COHORT = {"--count": "600", "--seed": "0", "--size": "128"}
SMALLER = ("framing.size=64", "training.epochs=12")
CLOSE = 1e-4


def boneage(*arguments: str | Path, backend: str = "tensorflow") -> None:
    """Runs one command; what it says goes to standard error."""
    command = [sys.executable, "-c", "from boneage.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


def train(out: Path, manifest: Path, settings: list[str], *options: str, backend: str) -> None:
    """Makes one run, or goes on with it, if it is not there."""
    if (out / "result.json").exists():
        return
    overrides = [part for setting in settings for part in ("--set", setting)]
    what = [RECIPE, "--data", manifest, "--out", out, *overrides, *options]
    boneage("train", *(["--resume", out] if out.exists() else what), backend=backend)


def first_step(work: Path, manifest: Path, settings: list[str]) -> dict[str, Any]:
    """The loss of one step over all training films, on each backend, from the same weights."""
    begin = work / "begin"
    train(begin, manifest, [*settings, "training.epochs=2"], backend="tensorflow")
    with manifest.open(encoding="utf-8", newline="") as file:
        films = Counter(row["split"] for row in csv.DictReader(file))["train"]
    one = [*settings, "training.epochs=1", f"training.batch_size={films}", "model.dropout=0.0"]
    losses = {}
    for backend in BACKENDS:
        out = work / f"first-step-{backend}"
        train(out, manifest, one, "--init", str(begin), backend=backend)
        with (out / "history.csv").open(encoding="utf-8", newline="") as file:
            losses[backend] = float(next(csv.DictReader(file))["loss"])
    difference = abs(losses["jax"] / losses["tensorflow"] - 1)
    return {
        "films": films,
        "loss_months": losses,
        "relative_difference": difference,
        "agrees": difference <= CLOSE,
    }


def trainings(work: Path, manifest: Path, settings: list[str], seeds: int) -> dict[str, Any]:
    """Test MAE of every seed on each backend."""
    found: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for seed in range(seeds):
        for backend in BACKENDS:
            out = work / f"{backend}-seed-{seed}"
            train(out, manifest, settings, "--seed", str(seed), backend=backend)
            metrics = json.loads((out / "metrics-test.json").read_text(encoding="utf-8"))
            found[backend].append(round(metrics["mae_months"]["value"], 3))
    means = {backend: sum(values) / len(values) for backend, values in found.items()}
    spread = max(max(values) - min(values) for values in found.values())
    difference = means["jax"] - means["tensorflow"]
    return {
        "test_mae_months": found,
        "mean_test_mae_months": {name: round(mean, 3) for name, mean in means.items()},
        "difference_months": round(difference, 3),
        "spread_of_seeds_months": round(spread, 3),
        "agrees": abs(difference) <= spread,
    }


def main() -> None:
    """Prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    settings = [*SMALLER, *given.overrides]
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        if not (work / "cohort" / "manifest.csv").exists():
            cohort = [part for pair in COHORT.items() for part in pair]
            boneage("data", "phantom", work / "cohort", *cohort)
        manifest = work / "cohort" / "manifest.csv"
        document = {
            "command": "python experiments/cluster/backends.py",
            "machine": provenance(),
            "recipe": {"name": RECIPE.parent.name, "set": settings, "cohort": COHORT},
            "first_step": first_step(work, manifest, settings),
            "trainings": trainings(work, manifest, settings, given.seeds),
        }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
