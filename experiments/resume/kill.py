"""Kill trainings at random moments, resume them, and compare them with an uninterrupted one.

Each trial starts the recipe, kills the training (SIGKILL), resumes it, perhaps kills it again, and
lets it finish. Then weights, optimizer, history and best model must equal those of the
uninterrupted run, bit for bit. Most random moments fall into training steps. `--aimed` trials wait
for a rare moment: the new folder, a half-written checkpoint or best model, the evaluation, the
report.

    python experiments/resume/kill.py RECIPE.toml --data MANIFEST --out results/kills.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import keras
import numpy as np
import pandas as pd

from boneage.run import Run
from boneage.runtime.files import write_json
from boneage.runtime.provenance import command_line, provenance
from boneage.training.checkpoint import read_checkpoint

VERB = [sys.executable, "-c", "from boneage.cli.main import main; main()", "train"]
POLL_SECONDS = 0.002

Moment = Callable[[set[str], float], bool]  # arguments: new files, and seconds since the start


def main() -> None:
    """Run the trials and write the result. The exit code is 1 if a trial differs."""
    options = arguments()
    begin = [str(options.recipe), *(["--data", str(options.data)] if options.data else [])]
    begin += ["--deterministic", *(part for pair in options.set for part in ("--set", pair))]
    draws = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        whole = Run(Path(folder) / "whole")
        started = time.monotonic()
        finish([*begin, "--out", str(whole.folder)])
        seconds = whole.read_info()["seconds"]["fit"]
        print(
            f"uninterrupted: {seconds:.0f} s of {time.monotonic() - started:.0f} in fit", flush=True
        )
        trials = [
            trial(number, begin, whole, seconds, draws, options.aimed, Path(folder) / "trial")
            for number in range(options.trials)
        ]
    same = sum(row["same"] for row in trials)
    print(f"{same} of {len(trials)} are the same to the bit")
    result = {
        "command": command_line(),
        "recipe": options.recipe.parent.name if options.recipe.stem == "recipe" else "-",
        "overrides": options.set,
        "provenance": provenance(),
        "fit_seconds": seconds,
        "same": same,
        "trials": trials,
    }
    if options.out:
        write_json(options.out, result)
    sys.exit(same != len(trials))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, help="manifest, if the recipe has no phantom")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--aimed", type=int, default=10, help="trials that wait for a rare moment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder of the runs (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="result to write, JSON")
    return parser.parse_args()


def trial(
    number: int,
    begin: list[str],
    whole: Run,
    seconds: float,
    draws: random.Random,
    aimed: int,
    folder: Path,
) -> dict[str, Any]:
    """Kill one run once or twice, let it finish, and compare it."""
    run, kills = Run(folder), list[str]()
    for _ in range(draws.choice((1, 1, 2))):
        if not kills:
            shutil.rmtree(folder, ignore_errors=True)
            command = [*begin, "--out", str(folder)]
        name, moment = choose(number, seconds, draws, aimed)
        when = kill(command, run, name, moment)
        if when is None:  # the run had finished before the kill
            continue
        kills.append(when)
        command = ["--resume", str(folder), "--deterministic"]
        if not run.info_path.exists():  # killed before the first file
            command = [*begin, "--out", str(folder)]
    if not kills:
        return trial(number + aimed, begin, whole, seconds, draws, aimed, folder)
    finish(command)
    same = is_same(whole, run)
    print(f"trial {number + 1}: {' | '.join(kills)}: {'same' if same else 'DIFFERENT'}", flush=True)
    return {"kills": kills, "same": same}


def choose(number: int, seconds: float, draws: random.Random, aimed: int) -> tuple[str, Moment]:
    """Return a random moment, or a rare one for the first trials."""
    kinds: list[tuple[str, Moment]] = [
        ("at the start", lambda made, passed: True),
        ("while a checkpoint is written", partly_written("checkpoint.npz", draws.randint(1, 3))),
        ("while the best model is written", partly_written("best.keras", 1)),
        ("during the evaluation", is_evaluating),
        ("while the report is written", is_reporting),
    ]
    if number < aimed:
        return kinds[number % len(kinds)]
    after = draws.uniform(0, seconds)
    return f"{after:.2f} s after the start", lambda _, passed: passed >= after


def partly_written(name: str, times: int) -> Moment:
    """Return the moment when a file of this name is written for the n-th time."""
    seen: set[str] = set()

    def moment(made: set[str], passed: float) -> bool:
        seen.update(file for file in made if file.startswith(f".{name}."))
        return len(seen) >= times

    return moment


def is_evaluating(made: set[str], passed: float) -> bool:
    """Return whether the training and the predictions on validation are finished."""
    return "predictions-val.csv" in made


def is_reporting(made: set[str], passed: float) -> bool:
    """Return whether only the report is missing."""
    return "result.json" in made


def files_of(run: Run) -> dict[str, int]:
    """Return every file of the folder with its modification time."""
    found = {}
    if run.folder.exists():
        for entry in os.scandir(run.folder):
            with contextlib.suppress(FileNotFoundError):  # renamed just now
                found[entry.name] = entry.stat().st_mtime_ns
    return found


def kill(command: list[str], run: Run, name: str, moment: Moment) -> str | None:
    """Start a run, wait for the moment and kill. Return the moment, or None if the run finished."""
    before = files_of(run)  # files of an earlier kill do not count
    with start(command) as process:
        since = None
        while process.poll() is None:
            made = {name for name, when in files_of(run).items() if before.get(name) != when}
            if since is None and made & {run.recipe_path.name, run.info_path.name}:
                since = time.monotonic()
            if since is not None and moment(made, time.monotonic() - since):
                break
            time.sleep(POLL_SECONDS)
        late = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):  # the process may end just now
            os.killpg(process.pid, signal.SIGKILL)
    if late:
        return None
    if not run.checkpoint_path.exists():
        return f"{name}, before the first checkpoint"
    return f"{name}, after {read_checkpoint(run.checkpoint_path).state}"


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start the command in its own process group."""
    return subprocess.Popen(
        [*VERB, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(command: list[str]) -> None:
    """Run the command to its end."""
    with start(command) as process:
        _, said = process.communicate()
    if process.returncode:
        sys.exit(f"boneage train {' '.join(command)} ended with {process.returncode}:\n{said}")


def is_same(one: Run, other: Run) -> bool:
    """Return whether weights, optimizer, history and predictions are equal, bit for bit."""
    histories = [pd.read_csv(run.history_path).drop(columns="seconds") for run in (one, other)]
    checkpoints = [read_checkpoint(run.checkpoint_path) for run in (one, other)]
    models = [keras.models.load_model(run.best_path).get_weights() for run in (one, other)]
    predictions = [pd.read_csv(run.predictions_path("test")) for run in (one, other)]
    return (
        histories[0].equals(histories[1])
        and predictions[0].equals(predictions[1])
        and checkpoints[0].state.callbacks == checkpoints[1].state.callbacks
        and equal(*(checkpoint.variables for checkpoint in checkpoints))
        and equal(*models)
    )


def equal(ones: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Return whether all arrays are equal, bit for bit."""
    return len(ones) == len(others) and all(
        np.array_equal(one, other) for one, other in zip(ones, others, strict=True)
    )


if __name__ == "__main__":
    main()
