"""Compare trainings of the same recipe and seed on TensorFlow and JAX.

    python experiments/cluster/backends.py [--seeds N] [--set KEY=VALUE ...] [--work FOLDER]

Both train phantom radiographs with `boneage train`. Each backend draws its own random numbers, so
the same seed gives other weights and another dropout. The exact comparison therefore starts from
the weights of one run (`--init`) and has no dropout. The losses must agree to 1e-4 of their value:

- after one step on all training radiographs;
- in two epochs at a low learning rate. A high one would amplify rounding.

Then N seeds are trained on each backend. The difference of the mean test MAE must be within the
spread of the seeds (largest minus smallest). The script prints one JSON document.

Finished runs in FOLDER are not trained again. Without --work, the runs are deleted. The script
takes about ten minutes on two idle cores with three seeds.
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

from boneage.runtime.provenance import provenance

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "experiments" / "phantom" / "recipe.toml"
BACKENDS = ("tensorflow", "jax")
COHORT = {"--count": "600", "--seed": "0", "--size": "128"}
SMALLER = ("framing.size=64", "training.epochs=12")
COMPARED = ("loss", "val_loss")
CLOSE = 1e-4


def boneage(*arguments: str | Path, backend: str = "tensorflow") -> None:
    """Run one command. Its output goes to standard error."""
    command = [
        sys.executable,
        "-c",
        "from boneage.cli.main import main; main()",
        *map(str, arguments),
    ]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


def train(out: Path, manifest: Path, settings: list[str], *options: str, backend: str) -> None:
    """Train or resume one run, unless it is finished."""
    if (out / "result.json").exists():
        return
    overrides = [part for setting in settings for part in ("--set", setting)]
    what = [RECIPE, "--data", manifest, "--out", out, *overrides, *options]
    boneage("train", *(["--resume", out] if out.exists() else what), backend=backend)


def histories(
    work: Path, manifest: Path, settings: list[str], name: str
) -> dict[str, list[dict[str, float]]]:
    """Return the losses of each backend by epoch, from the same weights and without dropout."""
    begin, found = work / "begin", {}
    for backend in BACKENDS:
        out = work / f"{name}-{backend}"
        options = ("--init", str(begin))
        train(out, manifest, [*settings, "model.dropout=0.0"], *options, backend=backend)
        with (out / "history.csv").open(encoding="utf-8", newline="") as file:
            rows = [{key: float(row[key]) for key in COMPARED} for row in csv.DictReader(file)]
        found[backend] = rows
    return found


def difference(found: dict[str, list[dict[str, float]]], *keys: str) -> dict[str, Any]:
    """Return the largest relative difference between the backends, and whether it is small."""
    pairs = zip(found["jax"], found["tensorflow"], strict=True)
    largest = max(abs(ours[key] / theirs[key] - 1) for ours, theirs in pairs for key in keys)
    return {"largest_relative_difference": float(f"{largest:.2g}"), "agrees": largest <= CLOSE}


def same_weights(work: Path, manifest: Path, settings: list[str]) -> dict[str, Any]:
    """Compare one step, and two epochs at a low learning rate."""
    train(work / "begin", manifest, [*settings, "training.epochs=2"], backend="tensorflow")
    with manifest.open(encoding="utf-8", newline="") as file:
        radiographs = Counter(row["split"] for row in csv.DictReader(file))["train"]
    one = [*settings, "training.epochs=1", f"training.batch_size={radiographs}"]
    step = histories(work, manifest, one, "first-step")
    slow = [*settings, "training.epochs=2", "training.learning_rate=1e-5"]
    curve = histories(work, manifest, slow, "curve")
    losses = {backend: rows[0]["loss"] for backend, rows in step.items()}
    return {
        "first_step": {
            "radiographs": radiographs,
            "loss_months": losses,
            **difference(step, "loss"),
        },
        "two_epochs": {**curve, **difference(curve, *COMPARED)},
    }


def trainings(work: Path, manifest: Path, settings: list[str], seeds: int) -> dict[str, Any]:
    """Return the test MAE of every seed on each backend."""
    found: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for seed in range(seeds):
        for backend in BACKENDS:
            out = work / f"{backend}-seed-{seed}"
            train(out, manifest, settings, "--seed", str(seed), backend=backend)
            metrics = json.loads((out / "metrics-test.json").read_text(encoding="utf-8"))
            found[backend].append(round(metrics["mae_months"]["value"], 3))
    means = {backend: sum(values) / len(values) for backend, values in found.items()}
    spread = max(max(values) - min(values) for values in found.values())
    gap = means["jax"] - means["tensorflow"]
    return {
        "test_mae_months": found,
        "mean_test_mae_months": {name: round(mean, 3) for name, mean in means.items()},
        "difference_months": round(gap, 3),
        "spread_of_seeds_months": round(spread, 3),
        "agrees": abs(gap) <= spread,
    }


def main() -> None:
    """Print the comparison."""
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
            **same_weights(work, manifest, settings),
            "trainings": trainings(work, manifest, settings, given.seeds),
        }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
