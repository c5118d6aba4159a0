"""Cross-validation: predict every image of train and val with a network that never saw it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.manifest import Manifest, write_manifest
from boneage.datasets.splits import assign_folds
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import score
from boneage.evaluation.result import aggregates
from boneage.evaluation.scoring import read_predictions
from boneage.pipeline.store import prepare_from
from boneage.recipe import Recipe
from boneage.runtime.files import write_json, write_text
from boneage.runtime.provenance import file_digest
from boneage.training.series.planned_runs import (
    PlannedRun,
    count_splits,
    describe_series,
    mae_of,
    mean_and_deviation,
    record_plan,
)

RESULT = "cross-validation.json"
OUT_OF_FOLD = "predictions-out-of-fold.csv"
ENSEMBLE = "predictions-test.csv"


def plan_folds(recipe: Recipe, manifest: Manifest, out: Path, folds: int) -> list[PlannedRun]:
    """Divide the train and val images into folds and write a manifest for each fold.

    All images of a patient are in one fold, and folds are alike in age and sex. The manifest of
    fold k, `fold-k.csv`, has fold k as `val` and the other folds as `train`. The test split is
    the original one.

    Args:
        recipe: What to train on each fold. Its seed also assigns the folds.
        manifest: The data. Its own train and val splits are combined.
        out: Folder of the series: new, empty, or that of the same series.
        folds: Number of folds.

    Returns:
        One training for each fold.

    Raises:
        InputError: There are too few folds or patients, or the folder holds something else.
    """
    fold = _assign(manifest, folds, recipe.seed)
    plan = {"verb": "cross-validate", "folds": folds, "manifest": manifest.digest}
    record_plan(out, recipe, plan)
    return [
        PlannedRun(number, out / f"fold-{number}", recipe, _write_fold(manifest, fold, number, out))
        for number in range(1, folds + 1)
    ]


def prepare_folds(manifest: Manifest, planned: Sequence[PlannedRun]) -> None:
    """Prepare a store for every fold. All share one set of pixels, decoded once.

    Raises:
        InputError: Images can't be read, or the disk is full.
    """
    source = manifest
    for each in planned:
        prepare_from(source, each.manifest, each.recipe.framing)
        source = each.manifest  # hard links are possible from here, even if the first was a copy


def collect_folds(planned: Sequence[PlannedRun], manifest: Manifest, out: Path) -> dict[str, Any]:
    """Collect the results of all folds, write them into the folder of the series and return them.

    `cross-validation.json` holds aggregates only and may be committed. After the last fold,
    `predictions-out-of-fold.csv` and `predictions-test.csv` are written too. The latter holds the
    mean prediction of all folds for each test image.

    Raises:
        InputError: A file of a finished fold is missing or was changed.
    """
    recipe, rows = planned[0].recipe, []
    for each in planned:
        row = {"fold": each.index, "run": each.name, "counts": count_splits(each.manifest)}
        rows.append(row | each.summary())
    result = describe_series("cross-validate", planned, recipe, manifest)
    result |= {"seed": recipe.seed, "folds": len(planned), "rows": rows}
    for split in planned[0].splits():
        maes = [mae_of(row, split) for row in rows if split in row]
        result[split] = {"mean_of_folds": mean_and_deviation(maes)}
    if result["complete"]:
        result["val"]["pooled"] = _pool(planned, out / OUT_OF_FOLD)
        if "test" in result:
            result["test"]["ensemble"] = _average(planned, out / ENSEMBLE)
    write_json(out / RESULT, result)
    return result


def _assign(manifest: Manifest, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of every image, int64 (n,), 0 for the test split."""
    table = manifest.table
    used = (table["split"] != "test").to_numpy()
    if not used.any():
        what = "all images are in the test split"
        fix = "Assign some of them to train. Cross-validation combines train and val."
        raise InputError(Fault(str(manifest.path), what, fix))
    paths = pd.Series([str(path) for path in manifest.image_paths()], table.index)
    patient = table["patient_id"] if "patient_id" in table else pd.Series("", table.index)
    # Two regions of one radiograph belong to one patient, whether or not patients are known.
    patient = patient.where((patient != "") | ~paths.duplicated(keep=False), "file " + paths)
    fold = np.zeros(len(table), np.int64)
    fold[used] = assign_folds(table[used].assign(patient_id=patient[used]), folds=folds, seed=seed)
    return fold


def _write_fold(manifest: Manifest, fold: NDArray[np.int64], number: int, out: Path) -> Manifest:
    """Write the manifest of one fold, or check that the file from before is the same."""
    folder = out.resolve()
    split = np.where(fold == number, "val", np.where(fold == 0, "test", "train"))
    images = [os.path.relpath(path, folder) for path in manifest.image_paths()]
    path = out / f"fold-{number}.csv"
    new_path = out / f".fold-{number}-{os.getpid()}.csv"  # jobs of an array may all write now
    try:
        new = write_manifest(manifest.table.assign(image=images, split=split), new_path)
        if path.exists() and file_digest(path) != new.digest:
            what = "the file was changed after it was written"
            fix = "Delete the file, so that it is written again, or name another --out."
            raise InputError(Fault(str(path), what, fix))
        new_path.replace(path)
    finally:
        new_path.unlink(missing_ok=True)
    return replace(new, path=path)


def _pool(planned: Sequence[PlannedRun], path: Path) -> dict[str, Any]:
    """Score every image of train and val by the fold that held it out."""
    scores = [each.read_scores("val") for each in planned]
    tables = [
        read_predictions(each.run.predictions_path("val"), own=True).assign(fold=each.index)
        for each in planned
    ]
    result = _write_and_score(pd.concat(tables, ignore_index=True), path)
    # Each fold has the medians of its own training images. Errors are pooled by number of images.
    baselines = [each["baseline"]["median_by_sex"]["mae_months"]["value"] for each in scores]
    baseline = float(np.average(baselines, weights=[len(table) for table in tables]))
    result["baseline"] = {"median_by_sex": {"mae_months": {"value": baseline}}}
    return result


def _average(planned: Sequence[PlannedRun], path: Path) -> dict[str, Any]:
    """Score the mean prediction of all folds for each test image."""
    for each in planned:
        each.read_scores("test")  # raises if the predictions were changed
    tables = [read_predictions(each.run.predictions_path("test"), own=True) for each in planned]
    ids = tables[0]["image_id"]
    by_fold = [table.set_index("image_id")["predicted_age_months"].loc[ids] for table in tables]
    mean = np.mean([months.to_numpy(np.float64) for months in by_fold], axis=0)
    return _write_and_score(tables[0].assign(predicted_age_months=mean), path)


def _write_and_score(table: pd.DataFrame, path: Path) -> dict[str, Any]:
    write_text(path, table.to_csv(index=False))
    metrics = score(table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    return aggregates({**metrics, "predictions": {"file": path.name, "digest": file_digest(path)}})
