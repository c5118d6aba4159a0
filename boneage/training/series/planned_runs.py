"""Several trainings that belong together. Each is an ordinary run folder and can be resumed."""

from __future__ import annotations

import json
import signal
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.records import read_metrics
from boneage.evaluation.result import aggregates, without_folder
from boneage.recipe import Recipe, recipe_from_values
from boneage.run import TRAINED, Run
from boneage.runtime.files import check_folder_writable, write_json
from boneage.runtime.provenance import file_digest
from boneage.runtime.schemas import FileSchema, Text, read_checked
from boneage.training.series.command_process import CommandRunner, describe_exit
from boneage.training.stop_signals import Terminated

FINISHED, UNSCORED, CUT_OFF, DIVERGED, NEW = "finished", "unscored", "cut off", "diverged", "to do"
FAILED = "failed"
ENDED = (FINISHED, DIVERGED)
"""States in which nothing is left to do."""

PLAN = "series.json"
"""The file of a series' plan."""
_RECIPE = "recipe.json"
_WHY_DIVERGED = "its loss became NaN or infinite, and would do so again"


@dataclass(frozen=True)
class PlannedRun:
    """One training of a series.

    Attributes:
        index: Number in the series, from 1.
        folder: The run folder.
        recipe: The fully resolved recipe.
        manifest: The data to train on.
        overrides: `KEY=VALUE` settings that differ from the recipe of the series.
        scored: The splits to score, if the manifest has them.
    """

    index: int
    folder: Path
    recipe: Recipe
    manifest: Manifest
    overrides: tuple[str, ...] = ()
    scored: tuple[str, ...] = ("val", "test")

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.folder.name

    @property
    def run(self) -> Run:
        """The run, whose folder need not exist yet."""
        return Run(self.folder)

    def splits(self) -> list[str]:
        """Return the splits that the run is scored on."""
        present = set(self.manifest.table["split"])
        return [name for name in self.scored if name in present]

    def state(self) -> str:
        """Return the state of the run, read from its folder.

        Raises:
            InputError: The folder holds another training.
        """
        if not self.run.is_started:
            return NEW
        info = self.run.read_info(("manifest.digest",))
        self._check_same(info)
        if info.get("stopped") == DIVERGED:
            return DIVERGED
        if info.get("stopped") not in TRAINED:
            return CUT_OFF
        scores = [self.run.result_path, *(self.run.metrics_path(name) for name in self.splits())]
        return FINISHED if all(path.exists() for path in scores) else UNSCORED

    def summary(self) -> dict[str, Any]:
        """Return the state and, for a finished run, its epochs, parameters and scores.

        Raises:
            InputError: A file of a finished run is missing or was changed.
        """
        summary: dict[str, Any] = {"state": self.state()}
        if summary["state"] == FINISHED:
            info = self.run.read_info(("model.parameters",))
            summary |= {key: info[key] for key in ("best_epoch", "epochs") if key in info}
            summary["parameters"] = info["model"]["parameters"]
            for split in self.splits():
                summary[split] = summarize(self.read_scores(split))
        return summary

    def read_scores(self, split: str) -> dict[str, Any]:
        """Return the scores of a finished run on one split.

        Raises:
            InputError: The predictions have changed since they were scored.
        """
        scores = read_metrics(self.run.metrics_path(split), ("predictions",))
        predictions = self.run.predictions_path(split)
        if not predictions.exists() or file_digest(predictions) != scores["predictions"]["digest"]:
            what = "the predictions are missing or have changed since they were scored"
            fix = f"Score them again: boneage evaluate {self.folder} --split {split}."
            raise InputError(Fault(str(predictions), what, fix))
        return scores

    def _check_same(self, info: dict[str, Any]) -> None:
        recorded = {"manifest": info["manifest"]["digest"], "recipe": self.run.read_recipe()}
        planned = {"manifest": self.manifest.digest, "recipe": self.recipe}
        faults = [
            Fault(
                str(self.folder),
                f"another training is in this folder: {key} is {old}, and the series has {new}",
                "Name another --out, or move the folder away.",
            )
            for key, old, new in _differences(recorded, planned)
        ]
        if faults:
            raise InputError(faults)


class Plan(FileSchema):
    """The keys of `series.json` that every series has. Its other keys are compared as they are."""

    verb: Text
    manifest: Text
    recipe: dict[str, Any]


class Outcome(NamedTuple):
    """The outcome of one training: `finished`, `diverged` or `failed`, and the reason if known."""

    planned: PlannedRun
    state: str
    reason: str = ""


def record_plan(out: Path, recipe: Recipe, plan: dict[str, Any]) -> None:
    """Write the plan of a series into its folder, or compare it with the plan recorded before.

    Raises:
        InputError: The folder holds something else or another series. All differences are listed.
    """
    path = out / PLAN
    values = {**plan, "recipe": recipe.model_dump(mode="json")}
    check_folder_writable(out)
    if not path.exists():
        # Another job of the same array may be writing now. Its files start with a dot.
        if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            what = "the folder is not empty and holds no series"
            raise InputError(Fault(str(out), what, "Name another --out."))
        write_json(path, values)
    recorded = read_checked(path, Plan)
    if recorded["verb"] != plan["verb"]:
        what = f"it holds the series of boneage {recorded['verb']}"
        raise InputError(Fault(str(out), what, "Name another --out."))
    # A recipe of an earlier version does not have the keys that were added later.
    recorded["recipe"] = recipe_from_values(recorded["recipe"], where=str(path))
    faults = [
        Fault(
            str(out),
            f"{key} is {new}, but {PLAN} records {old}",
            f"Use {old} to continue, or name another --out.",
        )
        for key, old, new in _differences(recorded, {**plan, "recipe": recipe})
    ]
    if faults:
        raise InputError(faults)
    write_json(out / _RECIPE, values["recipe"])  # its trainings read it, so an edit must not stay


def _differences(old: Any, new: Any, key: str = "") -> Iterable[tuple[str, str, str]]:
    """Yield the dotted key, the old and the new value wherever two JSON-ready objects differ."""
    old, new = (v.model_dump(mode="json") if isinstance(v, Recipe) else v for v in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            inner = f"{key}.{name}" if key else name
            yield from _differences(old.get(name), new.get(name), inner)
    elif old != new:
        yield key.removeprefix("recipe."), _shorten(old), _shorten(new)


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"{text[:13]}…" if isinstance(value, str) and len(value) == 64 else text  # a sha256


def select_runs(
    planned: Sequence[PlannedRun], only: int | None, option: str = "--only"
) -> list[PlannedRun]:
    """Return all runs, or the run of a number.

    Raises:
        InputError: No run has that number.
    """
    if only is None:
        return list(planned)
    if not 1 <= only <= len(planned):
        what = f"the series has {len(planned)} runs"
        fix = f"Name a number from 1 to {len(planned)}. In a job array: --array=1-{len(planned)}."
        raise InputError(Fault(f"{option} {only}", what, fix))
    return [planned[only - 1]]


def run_series(
    runs: Sequence[PlannedRun],
    total: int,
    *,
    log: Callable[[str], None],
    options: Sequence[str] = (),
    quiet: bool = False,
) -> list[Outcome]:
    """Train and score every run that is not finished, one after another, each in its own process.

    A failed training is reported, and the next one starts. SIGINT and SIGTERM go to the running
    training, which saves its state. The others do not start then.

    Args:
        runs: The runs, in this order.
        total: Number of runs in the whole series.
        log: Prints one line of progress.
        options: Further options of `boneage train` for every run.
        quiet: Whether to keep standard output empty.

    Returns:
        One outcome a run, in the order of `runs`.

    Raises:
        InputError: A run folder holds another training. Nothing was started.
        KeyboardInterrupt: SIGINT came. Finished runs are kept.
        Terminated: SIGTERM came. Finished runs are kept.
    """
    states = [planned.state() for planned in runs]
    outcomes = []
    with CommandRunner() as runner:
        for planned, state in zip(runs, states, strict=True):
            heading = f"run {planned.index} of {total}: {planned.name}"
            if state in ENDED:
                reason = _WHY_DIVERGED if state == DIVERGED else ""
                outcomes.append(Outcome(planned, state, reason))
                log(f"{heading} is already {state}")
                continue
            log(heading if state == NEW else f"{heading} continues (it was {state})")
            outcomes.append(_train(planned, state, runner, options, quiet))
            if runner.received is not None:
                break
            if outcomes[-1].state != FINISHED:  # the training has printed the reason
                log(f"{heading} {outcomes[-1].state}")
    if runner.received is not None and any(each.state() not in ENDED for each in runs):
        raise KeyboardInterrupt if runner.received == signal.SIGINT else Terminated(runner.received)
    return outcomes


def _train(
    planned: PlannedRun, state: str, runner: CommandRunner, options: Sequence[str], quiet: bool
) -> Outcome:
    if state == NEW:
        what = [str(planned.folder.parent / _RECIPE), "--data", str(planned.manifest.path)]
        what += ["--seed", str(planned.recipe.seed), "--out", str(planned.folder)]
        what += [part for override in planned.overrides for part in ("--set", override)]
    else:
        what = ["--resume", str(planned.folder)]
    # Slurm starts tasks side by side. They are separate trainings, not hosts of one training.
    what += [] if "test" in planned.scored else ["--no-test"]
    code = runner.run(["train", *what, "--hosts", "none", *options], to_stderr=quiet)
    state = planned.state()
    if state == FINISHED:
        return Outcome(planned, FINISHED)
    if state == DIVERGED:
        return Outcome(planned, DIVERGED, _WHY_DIVERGED)
    return Outcome(planned, FAILED, describe_exit(code))


def summarize(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the number of images of a part and, for at least five of them, the MAE."""
    scores = aggregates(metrics)
    return {"n": scores["n"], "mae_months": scores.get("mae_months")}


def mae_of(row: dict[str, Any], split: str) -> float | None:
    """Return the MAE in months from `PlannedRun.summary`, or None if it is not known."""
    mae = row.get(split, {}).get("mae_months")
    return None if mae is None else float(mae["value"])


def mean_and_deviation(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean and sample standard deviation, or None for what the values do not allow."""
    known = [value for value in values if value is not None]
    complete = bool(known) and len(known) == len(values)
    return {
        "n": len(values),
        "mean": statistics.fmean(known) if complete else None,
        "standard_deviation": statistics.stdev(known) if complete and len(known) > 1 else None,
    }


def count_splits(manifest: Manifest) -> dict[str, int]:
    """Return the number of images in each split."""
    counts = manifest.table["split"].value_counts()
    return {str(split): int(count) for split, count in counts.items()}


def describe_series(
    verb: str, planned: Sequence[PlannedRun], recipe: Recipe, manifest: Manifest
) -> dict[str, Any]:
    """Return what the result of every series holds: recipe, manifest, and provenance of its runs.

    Each distinct provenance of the finished runs is listed once.
    """
    finished = [each for each in planned if each.state() == FINISHED]
    provenance: list[dict[str, Any]] = []
    for each in finished:
        made_by = each.run.read_info(("provenance",))["provenance"]
        if made_by not in provenance:
            provenance.append(made_by)
    return {
        "verb": verb,
        "name": recipe.name,
        "complete": len(finished) == len(planned),
        "manifest": {
            "digest": manifest.digest,
            "split_digest": manifest.split_digest,
            "counts": count_splits(manifest),
        },
        "recipe": without_folder(recipe.model_dump(mode="json")),
        "provenance": provenance,
    }
