"""Cross-validation: every image of train and val answered for by a network that never saw it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.manifest import Manifest, assign_folds, write_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import score
from boneage.evaluation.result import aggregates, without_folder
from boneage.evaluation.scoring import read_predictions
from boneage.pipeline.store import prepare_from
from boneage.recipe import Recipe
from boneage.runtime.files import write_json, write_text
from boneage.runtime.provenance import file_digest
from boneage.training.series.planned_runs import (
    FINISHED,
    Planned,
    mae_of,
    manifest_told,
    mean_and_deviation,
    reached,
    read_scores,
    settle,
    told_once,
)

RESULT = "cross-validation.json"
OUT_OF_FOLD = "predictions-out-of-fold.csv"
ENSEMBLE = "predictions-test.csv"


def plan_folds(recipe: Recipe, manifest: Manifest, out: Path, folds: int) -> list[Planned]:
    """Deals the train and val images into folds, and writes the manifest of each.

    All images of a patient are in one fold, and folds are alike in age and sex. Fold k's manifest,
    `fold-k.csv`, has them as `val`, the other folds as `train`, and the test split as it was.

    Args:
        recipe: What is trained on each; its seed deals the folds too.
        manifest: The cohort; its own train and val are taken together.
        out: The folder of the series: new, empty or that of the same series.
        folds: How many.

    Returns:
        One training for each fold.

    Raises:
        InputError: There are too few folds or patients, or the folder holds something else.
    """
    fold = _folds(manifest, folds, recipe.seed)
    settle(out, recipe, {"verb": "cross-validate", "folds": folds, "manifest": manifest.digest})
    return [
        Planned(number, out / f"fold-{number}", recipe, _write_fold(manifest, fold, number, out))
        for number in range(1, folds + 1)
    ]


def prepare_folds(manifest: Manifest, planned: Sequence[Planned]) -> None:
    """Gives every fold its store: all share the files of one, so each radiograph is decoded once.

    Raises:
        InputError: Images that can't be read, all of them, or no room on the disk.
    """
    other = manifest
    for one in planned:
        prepare_from(other, one.manifest, one.recipe.framing)
        other = one.manifest  # the nearest: where the first had to be copied, the next are links


def collect_folds(planned: Sequence[Planned], manifest: Manifest, out: Path) -> dict[str, Any]:
    """Gathers what the folds have come to, and writes it into the folder of the series.

    `cross-validation.json` has aggregates only and is fit to be committed;
    `predictions-out-of-fold.csv` and `predictions-test.csv` (the mean of all folds for each test
    image) have a row an image. The latter two, and what is told of them, wait for all folds.

    Args:
        planned: All folds.
        manifest: The cohort.
        out: The folder of the series.

    Returns:
        What was written as JSON.

    Raises:
        InputError: A file of a finished fold is missing or changed.
    """
    done = [one for one in planned if one.state() == FINISHED]
    result: dict[str, Any] = {
        "verb": "cross-validate",
        "name": planned[0].recipe.name,
        "seed": planned[0].recipe.seed,
        "folds": len(planned),
        "complete": len(done) == len(planned),
        "manifest": manifest_told(manifest),
        "recipe": without_folder(planned[0].recipe.model_dump(mode="json")),
        "provenance": told_once(done),
        "rows": [
            {
                "fold": one.index,
                "run": one.name,
                "counts": manifest_told(one.manifest)["counts"],
                **reached(one),
            }
            for one in planned
        ],
    }
    for split in planned[0].splits():
        maes = [mae_of(row, split) for row in result["rows"] if split in row]
        result[split] = {"mean_of_folds": mean_and_deviation(maes)}
    if result["complete"]:
        result["val"]["pooled"] = _pool(planned, out / OUT_OF_FOLD)
        if "test" in result:
            result["test"]["ensemble"] = _ensemble(planned, out / ENSEMBLE)
    write_json(out / RESULT, result)
    return result


def _folds(manifest: Manifest, folds: int, seed: int) -> NDArray[np.int64]:
    """int64 (n,): the fold of every image, 0 for those of the test split."""
    table = manifest.table
    mine = (table["split"] != "test").to_numpy()
    if not mine.any():
        raise InputError(
            Fault(
                str(manifest.path),
                "all of its images are in the test split",
                "Assign some to train; cross-validation takes train and val together.",
                expected="images to train on",
            )
        )
    paths = pd.Series([str(path) for path in manifest.image_paths()], table.index)
    patient = table["patient_id"] if "patient_id" in table else pd.Series("", table.index)
    # Two parts of one radiograph are one patient's, told or not.
    patient = patient.where((patient != "") | ~paths.duplicated(keep=False), "film " + paths)
    fold = np.zeros(len(table), np.int64)
    fold[mine] = assign_folds(table[mine].assign(patient_id=patient[mine]), folds=folds, seed=seed)
    return fold


def _write_fold(manifest: Manifest, fold: NDArray[np.int64], number: int, out: Path) -> Manifest:
    here = out.resolve()
    split = np.where(fold == number, "val", np.where(fold == 0, "test", "train"))
    table = manifest.table.assign(
        image=[os.path.relpath(path, here) for path in manifest.image_paths()], split=split
    )
    path = out / f"fold-{number}.csv"
    fresh = out / f".fold-{number}-{os.getpid()}.csv"  # jobs of an array may all be at it
    try:
        made = write_manifest(table, fresh)
        if path.exists() and file_digest(path) != made.digest:
            raise InputError(
                Fault(
                    str(path),
                    "the file was changed since it was written",
                    "Delete it (it is written again), or name another --out.",
                    expected="the fold as it was dealt",
                )
            )
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return replace(made, path=path)


def _scored(table: pd.DataFrame, path: Path) -> dict[str, Any]:
    """Writes predictions and scores them all at once."""
    write_text(path, table.to_csv(index=False))
    metrics = score(table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    digest = {"file": path.name, "digest": file_digest(path)}
    return aggregates({**metrics, "predictions": digest})


def _pool(planned: Sequence[Planned], path: Path) -> dict[str, Any]:
    """Scores every image of train and val by the fold it was held out of."""
    tables = []
    guesses = []
    for one in planned:
        scores = read_scores(one, "val")
        table = read_predictions(one.run.predictions_path("val"), own=True)
        tables.append(table.assign(fold=one.index))
        guess = scores["baseline"]["median_by_sex"]["mae_months"]
        guesses.append(len(table) * guess["value"])
    pooled = pd.concat(tables, ignore_index=True)
    result = _scored(pooled, path)
    # The medians are those of each fold's own training images; a mean of errors pools by n.
    result["baseline"] = {"median_by_sex": {"mae_months": {"value": sum(guesses) / len(pooled)}}}
    return result


def _ensemble(planned: Sequence[Planned], path: Path) -> dict[str, Any]:
    """Scores the mean answer of all folds for each test image."""
    tables = []
    for one in planned:
        read_scores(one, "test")  # they are what was scored
        tables.append(read_predictions(one.run.predictions_path("test"), own=True))
    first = tables[0]
    ids = list(first["image_id"])
    answers = [table.set_index("image_id").loc[ids, "predicted_age_months"] for table in tables]
    mean = np.mean([answer.to_numpy(np.float64) for answer in answers], axis=0)
    return _scored(first.assign(predicted_age_months=mean), path)
