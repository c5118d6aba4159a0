"""Several trainings that belong together: each an ordinary run folder, all of them resumable."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.result import aggregates
from boneage.recipe import Recipe, recipe_from_values
from boneage.run import TRAINED, Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest
from boneage.training.series.command_process import VerbProcesses
from boneage.training.stop_signals import Terminated

FINISHED, UNSCORED, CUT_OFF, DIVERGED, NEW = "finished", "unscored", "cut off", "diverged", "to do"
FAILED = "failed"
ENDED = (FINISHED, DIVERGED)
"""States in which there is nothing more to do."""

_PLAN = "series.json"
_RECIPE = "recipe.json"
_SCORED = ("val", "test")
_ALONE = ("--hosts", "none")  # tasks that Slurm starts side by side are no one training
_WHY_DIVERGED = "its loss was no longer a number, and would not be again"


@dataclass(frozen=True)
class Planned:
    """One training of a series.

    Attributes:
        index: Its number in the series, from 1.
        folder: The run folder.
        recipe: What the run will record, fully resolved.
        manifest: What it is trained on.
        overrides: `KEY=VALUE` in which its recipe differs from that of the series.
    """

    index: int
    folder: Path
    recipe: Recipe
    manifest: Manifest
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    @property
    def run(self) -> Run:
        """The run, which need not be there yet."""
        return Run(self.folder)

    def splits(self) -> list[str]:
        """The splits it is scored on."""
        there = set(self.manifest.table["split"])
        return [name for name in _SCORED if name in there]

    def state(self) -> str:
        """How far it is, as its folder tells.

        Raises:
            InputError: Another training stands there.
        """
        run = self.run
        if not run.is_begun:
            return NEW
        self._check_same()
        stopped = run.read_info().get("stopped")
        if stopped == DIVERGED:
            return DIVERGED
        if stopped not in TRAINED:
            return CUT_OFF
        scores = [run.result_path, *(run.metrics_path(split) for split in self.splits())]
        return FINISHED if all(path.exists() for path in scores) else UNSCORED

    def _check_same(self) -> None:
        faults = [
            Fault(
                str(self.folder),
                f"{key} is {was} in this run",
                "Somebody else trained there: name another --out, or move the folder away.",
                expected=f"{now}, as the series has it",
            )
            for key, was, now in differences(
                {
                    "manifest": self.run.read_info()["manifest"]["digest"],
                    "recipe": self.run.read_recipe().model_dump(mode="json"),
                },
                {"manifest": self.manifest.digest, "recipe": self.recipe.model_dump(mode="json")},
            )
        ]
        if faults:
            raise InputError(faults)


@dataclass(frozen=True)
class Outcome:
    """What became of one training.

    Attributes:
        planned: The training.
        state: `finished`, `diverged` or `failed`.
        reason: Why it is not finished, where that is known.
    """

    planned: Planned
    state: str
    reason: str = ""


def settle(out: Path, recipe: Recipe, plan: dict[str, Any]) -> None:
    """Writes down what a series is, or holds it against what is written there.

    Args:
        out: The series' folder; new, empty, or that of the same series.
        recipe: What all of its runs begin from.
        plan: Whatever else must not change: JSON-ready.

    Raises:
        InputError: Something else is in the folder, or another series; all that differs is told.
    """
    path = out / _PLAN
    now = {**plan, "recipe": recipe.model_dump(mode="json")}
    if not path.exists():
        # Another job of the same array may be at it: what begins with a dot is being written.
        if out.exists() and any(not name.name.startswith(".") for name in out.iterdir()):
            what, expected = "the folder is not empty", "a new folder, or that of the same series"
            raise InputError(Fault(str(out), what, "Name another --out.", expected=expected))
        write_json(path, now)
    was = read_json(path)
    if not isinstance(was.get("recipe"), dict):
        what, expected = "it tells of no recipe", "the plan of a series, as it was written"
        raise InputError(
            Fault(str(path), what, "Was it edited? Name another --out.", expected=expected)
        )
    # A recipe of an earlier version lacks the keys that have come since.
    was["recipe"] = recipe_from_values(was["recipe"], where=str(path)).model_dump(mode="json")
    faults = [
        Fault(
            str(out),
            f"{key} is {new} now",
            "Go on with that, or name another --out.",
            expected=f"{old}, as {_PLAN} in it records",
        )
        for key, old, new in differences(was, json.loads(json.dumps(now)))
    ]
    if faults:
        raise InputError(faults)
    if not (out / _RECIPE).exists():
        write_json(out / _RECIPE, now["recipe"])


def differences(old: Any, new: Any, key: str = "") -> Iterable[tuple[str, str, str]]:
    """Every value that differs between two JSON objects: its dotted key, the old, the new."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            inner = f"{key}.{name}" if key else name
            yield from differences(old.get(name), new.get(name), inner)
    elif old != new:
        yield key.removeprefix("recipe."), _shown(old), _shown(new)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"{text[:13]}…" if isinstance(value, str) and len(value) == 64 else text  # a sha256


def choose(planned: Sequence[Planned], only: int | None, option: str = "--only") -> list[Planned]:
    """All trainings, or the one of a number.

    Raises:
        InputError: There is none of that number.
    """
    if only is None:
        return list(planned)
    if not 1 <= only <= len(planned):
        what = f"there are {len(planned)} runs"
        fix = "Count from 1, in a job array too: --array=1-" + str(len(planned))
        raise InputError(
            Fault(f"{option} {only}", what, f"{fix}.", expected=f"1 to {len(planned)}")
        )
    return [planned[only - 1]]


def run_series(
    chosen: Sequence[Planned],
    total: int,
    *,
    say: Callable[[str], None],
    options: Sequence[str] = (),
    quiet: bool = False,
) -> list[Outcome]:
    """Trains and scores what is not finished yet, one after another, each in its own process.

    A training that fails is told and the next one begun. SIGINT and SIGTERM go to the training in
    hand, which keeps its state; the others are left for another time.

    Args:
        chosen: In this order.
        total: How many the whole series has.
        say: Takes one line of progress.
        options: Of `boneage train`, for every one of them.
        quiet: Whether standard output is left alone.

    Returns:
        One for each chosen, in their order.

    Raises:
        InputError: A run folder holds another training than planned; nothing was begun.
        KeyboardInterrupt: SIGINT came; what is done is kept.
        Terminated: SIGTERM came; likewise.
    """
    states = [one.state() for one in chosen]
    outcomes = []
    with VerbProcesses() as processes:
        for one, state in zip(chosen, states, strict=True):
            heading = f"run {one.index} of {total}: {one.name}"
            if state in ENDED:
                outcomes.append(Outcome(one, state, _WHY_DIVERGED if state == DIVERGED else ""))
                say(f"{heading} is {state} already")
                continue
            say(heading if state == NEW else f"{heading} goes on ({state})")
            outcomes.append(_train(one, state, processes, options, quiet))
            if processes.received is not None:
                break
            if outcomes[-1].state != FINISHED:  # why, it has said itself
                say(f"{heading} {outcomes[-1].state}")
    if processes.received is not None and any(one.state() not in ENDED for one in chosen):
        raise KeyboardInterrupt if processes.received == signal.SIGINT else Terminated
    return outcomes


def _train(
    one: Planned, state: str, processes: VerbProcesses, options: Sequence[str], quiet: bool
) -> Outcome:
    verb = ["train", *_ALONE, "--resume", str(one.folder)]
    if state == NEW:
        sets = [part for override in one.overrides for part in ("--set", override)]
        verb = ["train", str(one.folder.parent / _RECIPE), "--data", str(one.manifest.path)]
        verb += [*_ALONE, "--seed", str(one.recipe.seed), *sets, "--out", str(one.folder)]
    ended = processes.run([*verb, *options], to_stderr=quiet)
    reached = one.state()
    if reached == FINISHED:
        return Outcome(one, FINISHED)
    if reached == DIVERGED:
        return Outcome(one, DIVERGED, ended.reason or _WHY_DIVERGED)
    return Outcome(one, FAILED, ended.reason or f"it ended well, and yet is {reached}")


def read_scores(one: Planned, split: str) -> dict[str, Any]:
    """The scores of a finished training on one of its splits.

    Raises:
        InputError: The predictions are no longer those that were scored.
    """
    scores = read_json(one.run.metrics_path(split))
    predictions = one.run.predictions_path(split)
    if not predictions.exists() or file_digest(predictions) != scores["predictions"]["digest"]:
        raise InputError(
            Fault(
                str(predictions),
                "the file is not what was scored",
                f"Score it again: boneage evaluate {one.folder} --split {split}.",
                expected=f"the predictions that {one.run.metrics_path(split).name} tells of",
            )
        )
    return scores


def reached(one: Planned) -> dict[str, Any]:
    """How far a training is, and once it is finished its epochs, parameters and scores.

    Raises:
        InputError: A file of a finished run is missing or changed.
    """
    told: dict[str, Any] = {"state": one.state()}
    if told["state"] == FINISHED:
        info = one.run.read_info()
        told |= {key: info[key] for key in ("best_epoch", "epochs") if key in info}
        told["parameters"] = info["model"]["parameters"]
        for split in one.splits():
            scores = aggregates(read_scores(one, split))
            told[split] = {"n": scores["n"], "mae_months": scores.get("mae_months")}
    return told


def mae_of(row: dict[str, Any], split: str) -> float | None:
    """The MAE in months of what `reached` told; None where it is not known."""
    mae = row.get(split, {}).get("mae_months")
    return None if mae is None else float(mae["value"])


def manifest_told(manifest: Manifest) -> dict[str, Any]:
    """Digest and counts of a manifest, JSON-ready."""
    counts = manifest.table["split"].value_counts()
    return {
        "digest": manifest.digest,
        "counts": {str(split): int(count) for split, count in counts.items()},
    }


def mean_and_deviation(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of months; None where a value, or a second one, lacks."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"n": len(values), "mean": None, "standard_deviation": None}
    mean = sum(known) / len(known)
    squares = sum((value - mean) ** 2 for value in known)
    deviation = (squares / (len(known) - 1)) ** 0.5 if len(known) > 1 else None
    return {"n": len(known), "mean": mean, "standard_deviation": deviation}


def told_once(done: Sequence[Planned]) -> list[dict[str, Any]]:
    """What made these runs, each provenance once."""
    found: list[dict[str, Any]] = []
    for one in done:
        made_by = one.run.read_info()["provenance"]
        if made_by not in found:
            found.append(made_by)
    return found
