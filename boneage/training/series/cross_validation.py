"""Cross-validation: predict every image of train and val by a network that it did not shape.

The images of the held-out fold neither train the network nor choose its epoch.
"""

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
from boneage.datasets.splits import assign_folds, count_patients
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import baseline_median_by_sex
from boneage.evaluation.result import aggregates
from boneage.evaluation.scoring import predict_split, read_predictions, score_answers
from boneage.pipeline.store import prepare_from
from boneage.prediction.predictor import Predictor
from boneage.recipe import Recipe
from boneage.runtime.files import write_json, write_text
from boneage.runtime.provenance import file_digest
from boneage.training.series.planned_runs import (
    FINISHED,
    PlannedRun,
    count_splits,
    describe_series,
    mae_of,
    mean_and_deviation,
    record_plan,
    summarize,
)

RESULT = "cross-validation.json"
OUT_OF_FOLD = "predictions-out-of-fold.csv"
ENSEMBLE = "predictions-test.csv"
INNER_PARTS = 10
"""One of so many parts of the training folds chooses the epoch; of fewer for fewer patients."""
EPOCH_CHOSEN_BY = "a tenth of the training folds; the held-out fold is only scored"


def plan_folds(
    recipe: Recipe, manifest: Manifest, out: Path, folds: int, gate: float | None = None
) -> list[PlannedRun]:
    """Divide the train and val images into folds and write a manifest for each fold.

    All images of a patient are in one fold, and folds are alike in age and sex. The manifest of
    fold k is `fold-k.csv`. Its `test` rows are fold k and the original test split. A tenth of the
    other folds is `val`, drawn like every split of this project. It chooses the epoch, stops the
    training and lowers the learning rate. The rest is `train`.

    Args:
        recipe: What to train on each fold. Its seed also assigns the folds.
        manifest: The data. Its own train and val splits are combined.
        out: Folder of the series: new, empty, or that of the same series.
        folds: Number of folds.
        gate: Largest out-of-fold MAE in months with which the original test split is scored. The
            folds then do without that split. None scores it with every fold.

    Returns:
        One training for each fold.

    Raises:
        InputError: There are too few folds or patients, the folder holds something else, or there
            is a gate and no test split.
    """
    is_test = manifest.table["split"] == "test"
    if gate is not None:
        manifest.split("test")  # raises if there is none
        manifest = replace(manifest, table=manifest.table[~is_test].reset_index(drop=True))
    table = _assign(manifest, folds, recipe.seed)
    splits = [_split(table, number, recipe.seed) for number in range(1, folds + 1)]
    # In series of earlier versions, the held-out fold also chose the epoch. They are refused.
    plan = {"verb": "cross-validate", "folds": folds, "manifest": manifest.digest}
    plan |= {} if gate is None else {"gate_months": gate}
    record_plan(out, recipe, {**plan, "epoch_chosen_by": EPOCH_CHOSEN_BY})
    return [
        PlannedRun(
            number, out / f"fold-{number}", recipe, _write_fold(manifest, split, number, out)
        )
        for number, split in enumerate(splits, 1)
    ]


def prepare_folds(manifest: Manifest, planned: Sequence[PlannedRun]) -> None:
    """Prepare a store for every fold. All share one set of pixels, decoded once.

    Raises:
        InputError: Images can't be read, or the disk is full.
    """
    first = planned[0].manifest
    source = manifest if len(first) == len(manifest) else first  # without the test split
    for each in planned:
        for framing in each.recipe.framings():
            prepare_from(source, each.manifest, framing)
        source = each.manifest  # hard links are possible from here, even if the first was a copy


def collect_folds(
    planned: Sequence[PlannedRun],
    manifest: Manifest,
    out: Path,
    gate: float | None = None,
    *,
    may_predict: bool = True,
) -> dict[str, Any]:
    """Collect the results of all folds, write them into the folder of the series and return them.

    `cross-validation.json` holds aggregates only and may be committed. After the last fold,
    `predictions-out-of-fold.csv` and `predictions-test.csv` are written too. The latter holds the
    mean prediction of all folds for each test image. With a gate, the folds predict the test images
    only here, once, and only if the out-of-fold MAE is at most the gate. `test_scorings` is then 1.

    Args:
        planned: The trainings, from `plan_folds`.
        manifest: The data.
        out: Folder of the series.
        gate: As in `plan_folds`.
        may_predict: Whether test images may be predicted now.

    Raises:
        InputError: A file of a finished fold is missing or was changed.
    """
    recipe, finished = planned[0].recipe, []
    rows: list[dict[str, Any]] = []
    for each in planned:
        parts = _parts(each, manifest)
        counts = count_splits(each.manifest)
        counts = {split: counts[split] for split in ("train", "val")}
        counts |= {part: len(ids) for part, ids in parts.items() if len(ids)}
        row = {"fold": each.index, "run": each.name, "counts": counts}
        summary = each.summary()
        if summary["state"] == FINISHED:
            tables = {part: _predicted(each, ids) for part, ids in parts.items() if len(ids)}
            finished.append(tables)
            scores = {part: summarize(score_answers(table)) for part, table in tables.items()}
            summary = {key: summary[key] for key in summary if key not in each.splits()} | scores
        rows.append(row | summary)
    result = describe_series("cross-validate", planned, recipe, manifest)
    result |= {"seed": recipe.seed, "folds": len(planned), "epoch_chosen_by": EPOCH_CHOSEN_BY}
    result["rows"] = rows
    for part in ("held_out", "test"):
        if rows[0]["counts"].get(part):
            maes = [mae_of(row, part) for row in rows if row["state"] == FINISHED]
            result[part] = {"mean_of_folds": mean_and_deviation(maes)}
    if result["complete"]:
        held_out = [tables["held_out"] for tables in finished]
        result["held_out"]["pooled"] = _pool(held_out, planned, out / OUT_OF_FOLD)
        if "test" in result:
            tests = [tables["test"] for tables in finished]
            result["test"]["ensemble"] = _average(tests, out / ENSEMBLE)
        if gate is not None:
            mae = result["held_out"]["pooled"].get("mae_months")  # None for very few images
            is_passed = mae is not None and mae["value"] <= gate
            result["gate"] = {"months": gate, "is_passed": is_passed}
            path = out / ENSEMBLE
            if is_passed and (may_predict or path.exists()):
                result["test"] = {"ensemble": _score_test(planned, manifest, path)}
                result["test_scorings"] = 1  # the folds did without the test split
    write_json(out / RESULT, result)
    return result


def _parts(each: PlannedRun, manifest: Manifest) -> dict[str, pd.Series]:
    """Return the image ids of a fold's two scored parts: the held-out fold and the test split."""
    scored = each.manifest.table.loc[each.manifest.table["split"] == "test", "image_id"]
    test = manifest.table.loc[manifest.table["split"] == "test", "image_id"]
    return {"held_out": scored[~scored.isin(test)], "test": test[test.isin(scored)]}


def _predicted(each: PlannedRun, ids: pd.Series) -> pd.DataFrame:
    """Return the predictions of a finished fold for some of its `test` images, in their order.

    Raises:
        InputError: The predictions were changed.
    """
    each.read_scores("test")
    path = each.run.predictions_path("test")
    table = read_predictions(path, own=True)
    if not ids.isin(table["image_id"]).all():
        fix = f"Score the images again: boneage evaluate {each.folder} --split test."
        raise InputError(Fault(str(path), "some images of the fold are missing", fix))
    return table.set_index("image_id").loc[ids].reset_index().assign(fold=each.index)


def _assign(manifest: Manifest, folds: int, seed: int) -> pd.DataFrame:
    """Return the table of a manifest with the column `fold`, 0 for the test split.

    Two regions of one radiograph belong to one patient, whether or not patients are known.
    """
    table = manifest.table
    used = (table["split"] != "test").to_numpy()
    if not used.any():
        what = "all images are in the test split"
        fix = "Assign some of them to train. Cross-validation combines train and val."
        raise InputError(Fault(str(manifest.path), what, fix))
    paths = pd.Series([str(path) for path in manifest.image_paths()], table.index)
    patient = table["patient_id"] if "patient_id" in table else pd.Series("", table.index)
    patient = patient.where((patient != "") | ~paths.duplicated(keep=False), "file " + paths)
    table = table.assign(patient_id=patient, fold=0)
    table.loc[used, "fold"] = assign_folds(table[used], folds=folds, seed=seed)
    return table


def _split(table: pd.DataFrame, number: int, seed: int) -> NDArray[np.str_]:
    """Return the split of every image for one fold, (n,).

    Args:
        table: As `_assign` returns it.
        number: The fold to hold out.
        seed: Seed of the inner split.

    Raises:
        InputError: The training folds have too few patients to set some aside.
    """
    is_training = ~table["fold"].isin((0, number)).to_numpy()
    training = table[is_training]
    patients = count_patients(training)
    if patients < 2:
        what = f"without fold {number}, the images are of one patient"
        fix = "Use images of more patients: some of the training folds choose the epoch."
        raise InputError(Fault("--folds", what, fix))
    inner = assign_folds(training, folds=min(INNER_PARTS, patients), seed=seed)
    split = np.full(len(table), "test", dtype="<U5")
    split[is_training] = np.where(inner == 1, "val", "train")
    return split


def _write_fold(manifest: Manifest, split: NDArray[np.str_], number: int, out: Path) -> Manifest:
    """Write the manifest of one fold, or check that the file from before is the same."""
    folder = out.resolve()
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


def _pool(
    tables: Sequence[pd.DataFrame], planned: Sequence[PlannedRun], path: Path
) -> dict[str, Any]:
    """Score every image of train and val by the fold that held it out."""
    result = _write_and_score(pd.concat(tables, ignore_index=True), path)
    # Each fold has the medians of its own training images.
    errors = [
        table["age_months"] - _medians(each.manifest, table)
        for table, each in zip(tables, planned, strict=True)
    ]
    baseline = float(pd.concat(errors).abs().mean())
    result["baseline"] = {"median_by_sex": {"mae_months": {"value": baseline}}}
    return result


def _medians(fold: Manifest, table: pd.DataFrame) -> NDArray[np.float64]:
    train = fold.split("train").table
    ages, sexes = train["age_months"], train["sex"].to_numpy(str)
    return baseline_median_by_sex(ages, sexes, table["age_months"], table["sex"].to_numpy(str))


def _average(tables: Sequence[pd.DataFrame], path: Path) -> dict[str, Any]:
    """Score the mean prediction of all folds for each test image."""
    mean = np.mean([table["predicted_age_months"].to_numpy(np.float64) for table in tables], axis=0)
    return _write_and_score(tables[0].drop(columns="fold").assign(predicted_age_months=mean), path)


def _score_test(planned: Sequence[PlannedRun], manifest: Manifest, path: Path) -> dict[str, Any]:
    """Score the mean prediction of all folds for the test split, which is predicted once."""
    if path.exists():
        table = read_predictions(path, own=True)
        if table["image_id"].tolist() == manifest.split("test").table["image_id"].tolist():
            return _write_and_score(table, path)
    predictor = Predictor([each.run for each in planned])
    return _write_and_score(predict_split(predictor, manifest, "test"), path)


def _write_and_score(table: pd.DataFrame, path: Path) -> dict[str, Any]:
    write_text(path, table.to_csv(index=False))
    metrics = score_answers(table)
    return aggregates({**metrics, "predictions": {"file": path.name, "digest": file_digest(path)}})
