"""Score a finished run on a split, or any table of predictions."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from boneage.datasets.cells import missing_column
from boneage.datasets.label_rules import SEXES, image_path
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.tables import read_cells, read_sheet
from boneage.datasets.validation import (
    age_findings,
    choice_findings,
    expected_months,
    id_findings,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import baseline_median_by_sex, score
from boneage.evaluation.result import name_sources, prepare_results
from boneage.pipeline.store import prepare
from boneage.prediction.answers import (
    MAX_AGE_MONTHS,
    answer_faults,
    limit_answers,
    possible_answers,
)
from boneage.prediction.engines import load_engine
from boneage.prediction.predict import BATCH_SIZE, predict_batches
from boneage.prediction.shipped import CARD_NAME, is_release
from boneage.prediction.test_time_views import test_time_views
from boneage.run import MANIFEST_KEYS, Run
from boneage.runtime.files import read_bytes, write_json, write_text
from boneage.runtime.provenance import file_digest

_SHOWN_FAULTS = 5
PREDICTION_COLUMNS = ("image_id", "age_months", "sex", "predicted_age_months")


def read_predictions(csv: Path, *, own: bool = False) -> pd.DataFrame:
    """Read and check a table of predictions: `image_id,age_months,sex,predicted_age_months`.

    Args:
        csv: One row for each image; ages in months, sex `F` or `M`. Other columns are ignored. CSV
            as a rule; Excel and Parquet are read too.
        own: A run wrote the table, so low ages are infants and not ages in years.

    Returns:
        The four columns: `image_id` as text, ages float64 months, `sex` text.

    Raises:
        InputError: The table is faulty; all faults are reported.
    """
    cells = replace(read_sheet(csv, names=PREDICTION_COLUMNS), where=csv.name)
    cells = cells.using(PREDICTION_COLUMNS)
    missing = [
        missing_column(cells, name) for name in PREDICTION_COLUMNS if name not in cells.table
    ]
    if missing:
        raise InputError([finding.fault for finding in (*cells.findings, *missing)])
    ages = {name: numbers(cells, name) for name in ("age_months", "predicted_age_months")}
    answers = cells.table["predicted_age_months"]
    findings = [
        *cells.findings,
        *id_findings(cells, "image_id"),
        *age_findings(cells, "age_months", ages["age_months"]),
        *choice_findings(cells, "sex", SEXES, "unknown-sex", "Write girls as F, boys as M."),
        *cells.row_findings(
            "bad-prediction",
            np.flatnonzero(np.isnan(ages["predicted_age_months"])),
            lambda row: f"predicted_age_months is {answers[row]!r}",
            expected_months(cells, "predicted_age_months"),
            "Correct it.",
        ),
    ]
    if not own:
        for name, months in ages.items():
            fix = f"Is it in years? Multiply {name} by 12."
            findings += years_findings(cells, name, months, fix)
    if findings:
        raise InputError([finding.fault for finding in findings])
    return cells.table[list(PREDICTION_COLUMNS)].assign(**ages)


def evaluate_predictions(csv: Path) -> dict[str, Any]:
    """Score a table of predictions.

    Returns:
        The answer of `metrics.score`; `predictions` has the file's name and digest.

    Raises:
        InputError: As `read_predictions`.
    """
    table = read_predictions(csv)
    metrics = score(table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    metrics |= _count_impossible(limit_answers(table["predicted_age_months"].to_numpy(np.float64)))
    return {**metrics, "predictions": {"file": csv.name, "digest": file_digest(csv)}}


def evaluate_run(
    run: Run,
    *,
    data: Path | None = None,
    split: str = "test",
    views: int | None = None,
    out: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Predict one split with a finished run, score the predictions and write both.

    Without `data`, the manifest is the one that the run was trained with, and must be unchanged.
    Any other manifest is an external test. The files of an external test have the manifest's name
    and digest in their names, so they never replace the run's own. The same holds for a number of
    views that differs from the recipe's.

    Args:
        run: A finished run.
        data: Another manifest than the run's own.
        split: `train`, `val` or `test`.
        views: Test-time views averaged per image. Default: the recipe's value.
        out: Folder for the results; see `result.prepare_results` for the default.
        progress: Show progress on standard error.

    Returns:
        The content of `metrics-<split>.json`: the answer of `score_table`, with `split`, `views`,
        `manifest`, `evaluated` (the day) and `predictions`. The manifest is named without its
        folder, because the file may be handed on. For an external test, `manifest` has `overlap`:
        how many of its images were `train` or `val` of the run, or None if that is unknown.

    Raises:
        InputError: The manifest is missing, faulty or changed; the split is empty; there is no
            such number of views; an image can't be read; an answer is not finite; or the results
            can't go into that folder.
    """
    manifest = run_manifest(run) if data is None else read_manifest(data)
    images = manifest.split(split)
    usual = run.read_recipe().prediction.views
    views = usual if views is None else views
    test_time_views(views)  # refuses a wrong number before anything is written
    results = prepare_results(run, out)
    table = predict_split(run, manifest, split, views=views, progress=progress)
    recorded = run.read_info(MANIFEST_KEYS)["manifest"]
    training = _training_table(manifest, recorded)
    is_external = manifest.digest != recorded["digest"]
    tested_on = {
        "file": manifest.path.name,
        "digest": manifest.digest,
        "source": name_sources(", ".join(_sources(images))),
        "external": is_external,
        **({"overlap": _count_overlap(training, images)} if is_external else {}),
    }
    metrics = score_table(table, training)
    metrics |= {"split": split, "views": views, "manifest": tested_on}
    metrics |= _count_impossible(table["predicted_age_months"].to_numpy(np.float64))
    metrics["evaluated"] = datetime.datetime.now(datetime.UTC).date().isoformat()
    name = f"{split}-{manifest.path.stem}-{manifest.digest[:8]}" if is_external else split
    name += f"-{views}-views" if views != usual else ""
    return write_evaluation(results, name, table, metrics)


def _sources(images: Manifest) -> list[str]:
    return [] if "source" not in images.table else sorted(set(images.table["source"].astype(str)))


def predict_split(
    run: Run, manifest: Manifest, split: str, *, views: int, progress: bool = True
) -> pd.DataFrame:
    """Predict all images of a split, from the store that is prepared if it is missing.

    Returns:
        The four `PREDICTION_COLUMNS`, one row for each image; ages in months.

    Raises:
        InputError: The split is empty, an image or the model can't be read, or there is no such
            number of views.
    """
    test_time_views(views)  # refuses a wrong number before the store is prepared
    images = manifest.split(split)
    store = prepare(manifest, run.read_recipe().framing, progress=progress)
    rows = store.select(images.table["image_id"].tolist())
    batches = track(
        predict_batches(load_engine(run), rows, images.gender(), views=views),
        f"Predicting {split}",
        total=-(-len(rows) // BATCH_SIZE),
        console=Console(stderr=True),
        disable=not progress,
    )
    table = images.table[["image_id", "age_months", "sex"]].reset_index(drop=True)
    months = np.concatenate(list(batches))
    finite = np.isfinite(months)
    if not finite.all():
        ids = table["image_id"][~finite].tolist()
        faults = answer_faults(ids[:_SHOWN_FAULTS], months[~finite][:_SHOWN_FAULTS])
        if len(ids) > _SHOWN_FAULTS:
            what = f"{len(ids):,} of {len(months):,} answers are no bone age"
            faults.append(Fault(str(run.best_path), what, "The model is damaged or untrained."))
        raise InputError(faults)
    return table.assign(predicted_age_months=months)


def _count_impossible(months: NDArray[np.float64]) -> dict[str, int]:
    """Return the number of answers that are no bone age, if any: they stay in the scores."""
    count = int(np.sum(~possible_answers(months)))
    return {"impossible_answers": count} if count else {}


def impossible_answers(scored: Path, metrics: Mapping[str, Any]) -> Fault | None:
    """Return a fault if some scored answers are no bone age, else None.

    Args:
        scored: The model or the table of predictions that was scored.
        metrics: The answer of `evaluate_run` or `evaluate_predictions`.
    """
    count = metrics.get("impossible_answers", 0)
    if not count:
        return None
    return Fault(
        str(scored),
        f"{count:,} of {metrics['n']:,} answers are no bone age from 0 to {MAX_AGE_MONTHS:g} "
        "months, and they are part of these scores",
        f"See {metrics['predictions']['file']}. The model is damaged, untrained or another one.",
    )


def score_table(table: pd.DataFrame, training: pd.DataFrame | None) -> dict[str, Any]:
    """Score predictions, and the baseline that predicts the median training age of each sex.

    Args:
        table: The four `PREDICTION_COLUMNS`.
        training: The manifest of the run, with `age_months`, `sex` and `split`. None if unknown.

    Returns:
        The answer of `metrics.score`, with `baseline`.
    """
    sexes = table["sex"].to_numpy(str)
    scores = score(table["age_months"], table["predicted_age_months"], sexes)
    baseline: dict[str, Any] = {
        "mae_months": None,
        "note": "the training ages are unknown: the manifest of the run is gone or changed",
    }
    if training is not None:
        train = training[training["split"] == "train"]
        medians = baseline_median_by_sex(
            train["age_months"], train["sex"].to_numpy(str), table["age_months"], sexes
        )
        baseline = {"mae_months": score(table["age_months"], medians, sexes)["mae_months"]}
    return {**scores, "baseline": {"median_by_sex": baseline}}


def write_evaluation(
    results: Run, name: str, table: pd.DataFrame, metrics: dict[str, Any]
) -> dict[str, Any]:
    """Write `predictions-<name>.csv` and `metrics-<name>.json`; return what the latter holds."""
    path = results.predictions_path(name)
    write_text(path, table.to_csv(index=False))
    metrics = {**metrics, "predictions": {"file": path.name, "digest": file_digest(path)}}
    write_json(results.metrics_path(name), metrics)
    return metrics


def run_manifest(run: Run) -> Manifest:
    """Read the manifest that a run was trained with.

    Raises:
        InputError: The manifest is gone or has changed since.
    """
    recorded = run.read_info(MANIFEST_KEYS)["manifest"]
    path = Path(recorded["path"])
    if is_release(run.folder):
        raise InputError(
            Fault(
                str(run.folder),
                "this is a released model, and its own radiographs are not included",
                "Name a manifest of your radiographs with --data MANIFEST. "
                f"{CARD_NAME} in that folder has the scores on the model's own test split.",
            )
        )
    if not path.is_file():
        raise InputError(
            Fault(
                str(run.info_path),
                f"the manifest of this run, {path}, is gone",
                "Restore it, or name its new path with --data.",
                expected=f"a file with sha256 {recorded['digest'][:12]}…",
            )
        )
    digest = file_digest(path)
    if digest != recorded["digest"]:
        raise InputError(
            Fault(
                str(path),
                f"the manifest changed since the run: its sha256 is now {digest[:12]}…",
                "Restore it, or name the changed manifest with --data for an external test.",
                expected=f"{recorded['digest'][:12]}…, as recorded in {run.info_path}",
            )
        )
    return read_manifest(path)


def _training_table(manifest: Manifest, recorded: dict[str, Any]) -> pd.DataFrame | None:
    """Return the table that the run was trained with, or None if it is gone or changed.

    If it is not the manifest that is tested, its column `file` holds the real path of each image.
    The images themselves may be gone.
    """
    if manifest.digest == recorded["digest"]:
        return manifest.table
    path = Path(recorded["path"])
    try:
        content = read_bytes(path)
        if hashlib.sha256(content).hexdigest() != recorded["digest"]:
            return None
        cells = read_cells(content, str(path))
    except InputError:
        return None
    folder = path.parent.resolve()
    return cells.table.assign(
        age_months=numbers(cells, "age_months"),
        file=[os.path.realpath(image_path(folder, name)) for name in cells.table["image"]],
    )


def _count_overlap(training: pd.DataFrame | None, images: Manifest) -> dict[str, int] | None:
    """Count the images that the run was trained or selected on; None if that is unknown."""
    if training is None:
        return None
    tested = pd.Series([os.path.realpath(path) for path in images.image_paths()])
    return {
        split: int(tested.isin(training["file"][training["split"] == split]).sum())
        for split in ("train", "val")
    }
