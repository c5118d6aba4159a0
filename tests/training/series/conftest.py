"""Series without training: a stand-in writes run folders at once and records its commands."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.evaluation.metrics import score
from boneage.evaluation.result import write_result
from boneage.recipe import Recipe, read_recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json, write_text
from boneage.runtime.provenance import file_digest


class Trainer:
    """Stands in for `CommandRunner`.

    Attributes:
        asked: The arguments of every command.
        outcomes: Outcome by name of the run. The default is `finished`.
        received: As in `CommandRunner`.
    """

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.outcomes: dict[str, str] = {}
        self.received: signal.Signals | None = None

    def __call__(self) -> Trainer:
        self.received = None
        return self

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def names(self) -> list[str]:
        """The runs that were asked for, in order."""
        return [_folder(arguments).name for arguments in self.asked]

    def run(self, arguments: Sequence[str], *, to_stderr: bool = False) -> int:
        self.asked.append(list(arguments))
        values = dict(itertools.pairwise(arguments))
        resumed, folder = "--resume" in values, _folder(arguments)
        outcome = self.outcomes.get(folder.name, "finished")
        if outcome in ("SIGINT", "SIGTERM"):
            self.received = signal.Signals[outcome]
            outcome = "interrupted" if outcome == "SIGINT" else "terminated"
        if outcome == "refused":
            return 2
        run = Run(folder)
        if not resumed:
            assert not Run(folder).other_files()
            sets = [b for a, b in itertools.pairwise(arguments) if a == "--set"]
            recipe = read_recipe(Path(arguments[1]), sets, seed=int(values["--seed"]))
            write_json(run.recipe_path, recipe.model_dump(mode="json"))
            write_json(run.info_path, _info(recipe, Path(values["--data"])))
        write_json(run.info_path, read_json(run.info_path) | {"stopped": outcome})
        if outcome != "finished":
            return 2 if outcome in ("failed", "diverged") else 0
        self._score(run, ("val",) if "--no-test" in arguments else ("val", "test"))
        return 0

    def _score(self, run: Run, splits: Sequence[str]) -> None:
        recipe = run.read_recipe()
        manifest = read_manifest(Path(run.read_info()["manifest"]["path"]))
        rng = np.random.default_rng([recipe.seed, *run.folder.name.encode()])
        for split in splits:
            table = manifest.table[manifest.table["split"] == split]
            if table.empty:
                continue
            columns = ["image_id", "age_months", "sex", *table.columns.intersection(["patient_id"])]
            table = table[columns].reset_index(drop=True)
            errors = rng.normal(0, 10.0, len(table))
            table["predicted_age_months"] = table["age_months"] + errors
            write_text(run.predictions_path(split), table.to_csv(index=False))
            true, predicted = table["age_months"], table["predicted_age_months"]
            metrics = score(true, predicted, table["sex"].to_numpy(str), bootstrap=100)
            digest = file_digest(run.predictions_path(split))
            metrics["predictions"] = {"file": run.predictions_path(split).name, "digest": digest}
            metrics["baseline"] = {"median_by_sex": {"mae_months": {"value": 30.0 + len(table)}}}
            metrics["manifest"] = {"path": str(manifest.path)}
            write_json(run.metrics_path(split), metrics)
        write_result(run)


def _folder(arguments: Sequence[str]) -> Path:
    values = dict(itertools.pairwise(arguments))
    return Path(values["--resume"] if "--resume" in values else values["--out"])


def _info(recipe: Recipe, data: Path) -> dict[str, Any]:
    manifest = read_manifest(data)
    counts = manifest.table["split"].value_counts()
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "provenance": {"commit": "abc"},
        "manifest": {
            "path": str(data.resolve()),
            "digest": manifest.digest,
            "counts": {str(split): int(count) for split, count in counts.items()},
            "source": "",
        },
        "model": {"parameters": 7},
        "best_epoch": 1,
        "epochs": 2,
    }


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """The stand-in, in place of real trainings."""
    trainer = Trainer()
    monkeypatch.setattr("boneage.training.series.planned_runs.CommandRunner", trainer)
    return trainer


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Returns every file below a folder with its content and time, hidden files left out."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() + str(path.stat().st_mtime_ns).encode()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    return read
