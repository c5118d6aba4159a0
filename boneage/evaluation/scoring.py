"""From a finished run, or from anybody's file of predictions, to scores."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.tables.cells import Cells, read_bytes, read_cells
from boneage.datasets.validation import (
    age_findings,
    choice_findings,
    id_findings,
    image_path,
    numbers,
    years_findings,
)
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import SEXES, baseline_median_by_sex, score
from boneage.pipeline.store import prepare
from boneage.prediction.shipped import is_release, own_folder
from boneage.prediction.test_time_views import looks
from boneage.run import Run
from boneage.runtime.files import write_json, write_text
from boneage.runtime.provenance import file_digest

PREDICTION_COLUMNS = ("image_id", "age_months", "sex", "predicted_age_months")


def read_predictions(csv: Path, *, own: bool = False) -> pd.DataFrame:
    """Reads a table of predictions, `image_id,age_months,sex,predicted_age_months`, and checks it.

    Args:
        csv: One row an image; ages in months, sex `F` or `M`. Other columns are left alone.
        own: A run wrote it, so its ages are months, however young all the children are.

    Returns:
        The four columns: `image_id` as text, ages float64 months, `sex` text.

    Raises:
        InputError: Everything that is wrong with the table, at once.
    """
    cells = read_cells(read_bytes(csv), csv.name)
    found = [finding.fault for finding in cells.findings]
    if missing := _missing_columns(cells):
        raise InputError([*found, *missing])
    ages = {name: numbers(cells, name) for name in ("age_months", "predicted_age_months")}
    answers = cells.table["predicted_age_months"]
    findings = [
        *id_findings(cells, "image_id"),
        *age_findings(cells, "age_months", ages["age_months"]),
        *choice_findings(cells, "sex", SEXES, "unknown-sex", "Write girls as F, boys as M."),
        *cells.row_findings(
            "bad-prediction",
            np.flatnonzero(np.isnan(ages["predicted_age_months"])),
            lambda row: f"predicted_age_months is {answers[row]!r}",
            "a number of months",
            "Correct it.",
        ),
    ]
    if not own:
        fix = "Is it in years? Multiply age_months and predicted_age_months by 12."
        findings += years_findings(cells, "age_months", ages["age_months"], fix)
    if found or findings:
        raise InputError([*found, *(finding.fault for finding in findings)])
    return cells.table[list(PREDICTION_COLUMNS)].assign(**ages)


def evaluate_predictions(csv: Path) -> dict[str, Any]:
    """Scores anybody's predictions.

    Returns:
        What `metrics.score` returns, and under `predictions` the file's name and digest.

    Raises:
        InputError: As `read_predictions`.
    """
    table = read_predictions(csv)
    metrics = score(table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    return {**metrics, "predictions": {"file": csv.name, "digest": file_digest(csv)}}


def evaluate_run(
    run: Run,
    *,
    data: Path | None = None,
    split: str = "test",
    views: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Lets a finished run answer for one split, and writes the predictions and their scores.

    Without `data` the manifest is the one that the run was trained with, and must not have
    changed since. With it, any manifest will do; one that the run was not trained with is an
    external test, and its files bear its name and digest so that they never replace the run's own.
    Another number of views than the recipe's stands in their names likewise.
    Of a released model, which nothing is written into, they go to `shipped.own_folder`.

    Args:
        run: A finished run.
        data: Another manifest than the run's own.
        split: `train`, `val` or `test`.
        views: Of each radiograph, whose answers are averaged; if not given, as the run's recipe
            says.
        progress: Show progress on standard error.

    Returns:
        What was written as `metrics-<split>.json`: `metrics.score`'s answer and `split`, `views`,
        `manifest` (for an external test with `overlap`: how many of its images were `train` or
        `val` of the run, None if that can't be told), `predictions`, `baseline`.

    Raises:
        InputError: The manifest is missing, faulty, or not what the run was trained with; the
            split is empty; there is no such number of views; an image can't be read; the model
            answers something not finite.
    """
    from boneage.prediction.predict import load_model, predict_images  # brings Keras

    recorded = run.read_info()["manifest"]
    manifest = read_manifest(data) if data is not None else run_manifest(run)
    images = manifest.split(split)
    recipe = run.read_recipe()
    usual = recipe.prediction.views
    views = usual if views is None else views
    looks(views)  # no store is made for a number of views that there is not
    store = prepare(manifest, recipe.framing, progress=progress)
    view = store.select(images.table["image_id"].tolist())
    # Keras draws its bar on standard output, which belongs to the results when it is piped
    shown = progress and sys.stdout.isatty()
    model = load_model(run)
    answers = predict_images(model, view, images.gender(), views=views, progress=shown)

    table = images.table[["image_id", "age_months", "sex"]].reset_index(drop=True)
    table["predicted_age_months"] = np.asarray(answers, dtype=np.float64).reshape(-1)
    sexes = table["sex"].to_numpy(str)
    metrics = score(table["age_months"], table["predicted_age_months"], sexes)
    trained = _trained_rows(manifest, recorded)
    baseline = _baseline(trained, table)
    external = manifest.digest != recorded["digest"]
    tested_on: dict[str, Any] = {
        "path": str(manifest.path),
        "digest": manifest.digest,
        "external": external,
    }
    if external:
        tested_on["overlap"] = _overlap(trained, images)
    name = split if not external else f"{split}-{manifest.path.stem}-{manifest.digest[:8]}"
    name += f"-{views}-views" if views != usual else ""
    run = Run(own_folder(run.folder))
    predictions_path = run.predictions_path(name)
    write_text(predictions_path, table.to_csv(index=False))
    metrics |= {
        "split": split,
        "views": views,
        "manifest": tested_on,
        "predictions": {"file": predictions_path.name, "digest": file_digest(predictions_path)},
        "baseline": {"median_by_sex": baseline},
    }
    write_json(run.metrics_path(name), metrics)
    return metrics


def run_manifest(run: Run) -> Manifest:
    """Reads the manifest that a run was trained with.

    Raises:
        InputError: It is gone, or it is not what it was then.
    """
    recorded = run.read_info()["manifest"]
    path = Path(recorded["path"])
    if is_release(run.folder):
        raise InputError(
            Fault(
                str(run.folder),
                "this is a released model, which comes without the radiographs it was tested on",
                "Make a manifest with boneage data import; README.md in that folder has its scores "
                "on its own test radiographs.",
                expected="--data MANIFEST, radiographs of your own to test it on",
            )
        )
    if not path.is_file():
        raise InputError(
            Fault(
                str(run.info_path),
                f"the manifest of this run, {path}, is gone",
                "Put it back, or name where it is now with --data.",
                expected=f"a file with sha256 {recorded['digest'][:12]}…",
            )
        )
    digest = file_digest(path)
    if digest != recorded["digest"]:
        raise InputError(
            Fault(
                str(path),
                f"the manifest changed since the run: its sha256 is now {digest[:12]}…",
                "Restore it, or give a manifest with --data to test on that knowingly.",
                expected=f"{recorded['digest'][:12]}…, as {run.info_path} records",
            )
        )
    return read_manifest(path)


def _trained_rows(manifest: Manifest, recorded: dict[str, Any]) -> pd.DataFrame | None:
    """Rows of the manifest of the run, with `file`, the image, where it is another's than asked.

    None when that manifest is gone, changed or can't be read. Its images need not be there.
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


def _baseline(trained: pd.DataFrame | None, table: pd.DataFrame) -> dict[str, Any]:
    """Scores the medians of the images that the run was trained on."""
    if trained is None:
        note = "the manifest of the run is gone or changed, so its medians are not known"
        return {"mae_months": None, "note": note}
    train = trained[trained["split"] == "train"]
    sexes = table["sex"].to_numpy(str)
    answers = baseline_median_by_sex(
        train["age_months"], train["sex"].to_numpy(str), table["age_months"], sexes
    )
    return {"mae_months": score(table["age_months"], answers, sexes)["mae_months"]}


def _overlap(trained: pd.DataFrame | None, images: Manifest) -> dict[str, int] | None:
    """Counts the images that the run has seen in training; None when that is not known."""
    if trained is None:
        return None
    asked = pd.Series([os.path.realpath(path) for path in images.image_paths()])
    return {
        split: int(asked.isin(trained["file"][trained["split"] == split]).sum())
        for split in ("train", "val")
    }


def _missing_columns(cells: Cells) -> list[Fault]:
    present = list(cells.table.columns)
    faults = []
    for name in PREDICTION_COLUMNS:
        if name not in present:
            spare = [column for column in present if column not in PREDICTION_COLUMNS]
            close = difflib.get_close_matches(name, spare, n=1, cutoff=0.4)
            faults.append(
                Fault(
                    cells.where,
                    f"column {name!r} is missing; there are {', '.join(present)}",
                    f"Did you mean {close[0]!r}? Rename it to {name}." if close else "Add it.",
                    expected=", ".join(PREDICTION_COLUMNS),
                )
            )
    return faults
