"""From a finished run, or from anybody's file of predictions, to scores."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import SEXES, baseline_median_by_sex, score
from boneage.files import write_json, write_text
from boneage.pipeline.store import prepare
from boneage.provenance import file_digest
from boneage.run import Run

PREDICTION_COLUMNS = ("image_id", "age_months", "sex", "predicted_age_months")
YOUNGEST_MONTHS, OLDEST_MONTHS = 0.0, 240.0
YEARS_AT_MOST = 25.0  # a whole column of labels up to here is in years, not of babies only
_ROWS_NAMED = 5  # of each kind of fault; the rest are counted


def read_predictions(csv: Path) -> pd.DataFrame:
    """Reads a table of predictions, `image_id,age_months,sex,predicted_age_months`, and checks it.

    Args:
        csv: One row an image; ages in months, sex `F` or `M`. Other columns are left alone.

    Returns:
        The four columns: `image_id` as text, ages float64 months, `sex` text.

    Raises:
        InputError: Everything that is wrong with the table, at once.
    """
    table = _read_text_table(csv)
    if faults := _column_faults(csv, table):
        raise InputError(faults)
    table = table.loc[:, list(PREDICTION_COLUMNS)].reset_index(drop=True)
    table["image_id"] = table["image_id"].str.strip()
    table["sex"] = table["sex"].str.strip()
    numbers = {
        name: pd.to_numeric(table[name].str.strip(), errors="coerce")
        for name in ("age_months", "predicted_age_months")
    }
    if faults := _row_faults(csv, table, numbers):
        raise InputError(faults)
    return table.assign(**{name: values.astype("float64") for name, values in numbers.items()})


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
    run: Run, *, data: Path | None = None, split: str = "test", progress: bool = True
) -> dict[str, Any]:
    """Lets a finished run answer for one split, and writes the predictions and their scores.

    Without `data` the manifest is the one that the run was trained with, and must not have
    changed since. With it, any manifest will do; one that the run was not trained with is an
    external test, and its files bear its name and digest so that they never replace the run's own.

    Args:
        run: A finished run.
        data: Another manifest than the run's own.
        split: `train`, `val` or `test`.
        progress: Show progress on standard error.

    Returns:
        What was written as `metrics-<split>.json`: `metrics.score`'s answer and `split`,
        `manifest`, `predictions`, `baseline`.

    Raises:
        InputError: The manifest is missing, faulty, or not what the run was trained with; the
            split is empty; an image can't be read; the model answers something not finite.
    """
    from boneage.inference import load_model, predict_store  # brings Keras

    recorded = run.read_info()["manifest"]
    manifest = read_manifest(data) if data is not None else run_manifest(run)
    images = manifest.split(split)
    store = prepare(manifest, run.read_recipe().framing, progress=progress)
    view = store.select(images.table["image_id"].tolist())
    # Keras draws its bar on standard output, which belongs to the results when it is piped
    shown = progress and sys.stdout.isatty()
    answers = predict_store(load_model(run), view, images.gender(), progress=shown)

    table = images.table[["image_id", "age_months", "sex"]].reset_index(drop=True)
    table["predicted_age_months"] = np.asarray(answers, dtype=np.float64).reshape(-1)
    sexes = table["sex"].to_numpy(str)
    metrics = score(table["age_months"], table["predicted_age_months"], sexes)
    name = evaluation_name(split, manifest, recorded["digest"])
    predictions_path = run.predictions_path(name)
    write_text(predictions_path, table.to_csv(index=False))
    metrics |= {
        "split": split,
        "manifest": {
            "path": str(manifest.path),
            "digest": manifest.digest,
            "external": manifest.digest != recorded["digest"],
        },
        "predictions": {"file": predictions_path.name, "digest": file_digest(predictions_path)},
        "baseline": {"median_by_sex": _baseline(run, manifest, table)},
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
    if not path.is_file():
        raise InputError(
            Fault(
                str(run.info_path),
                f"the manifest of this run, {path}, is gone",
                f"a file with sha256 {recorded['digest'][:12]}…",
                "Put it back, or name where it is now with --data.",
            )
        )
    digest = file_digest(path)
    if digest != recorded["digest"]:
        raise InputError(
            Fault(
                str(path),
                f"the manifest changed since the run: its sha256 is now {digest[:12]}…",
                f"{recorded['digest'][:12]}…, as {run.info_path} records",
                "Restore it, or give a manifest with --data to test on that knowingly.",
            )
        )
    return read_manifest(path)


def evaluation_name(split: str, manifest: Manifest, run_digest: str) -> str:
    """Returns what the files of one evaluation are called by: `test`, `test-otherset-1a2b3c4d`."""
    if manifest.digest == run_digest:
        return split
    return f"{split}-{manifest.path.stem}-{manifest.digest[:8]}"


def _baseline(run: Run, manifest: Manifest, table: pd.DataFrame) -> dict[str, Any]:
    """Scores the medians of the images that the run was trained on."""
    recorded = run.read_info()["manifest"]
    if manifest.digest != recorded["digest"]:
        path = Path(recorded["path"])
        if not path.is_file() or file_digest(path) != recorded["digest"]:
            note = "the manifest of the run is gone or changed, so its medians are not known"
            return {"mae_months": None, "note": note}
        manifest = read_manifest(path)
    train = manifest.split("train").table
    sexes = table["sex"].to_numpy(str)
    answers = baseline_median_by_sex(
        train["age_months"], train["sex"].to_numpy(str), table["age_months"], sexes
    )
    return {"mae_months": score(table["age_months"], answers, sexes)["mae_months"]}


def _read_text_table(csv: Path) -> pd.DataFrame:
    needed = f"a CSV with the columns {', '.join(PREDICTION_COLUMNS)}"
    try:
        table = pd.read_csv(csv, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(Fault(str(csv), "there is no such file", needed, "Check it.")) from None
    except pd.errors.EmptyDataError:
        raise InputError(Fault(str(csv), "it is empty", needed, "Write it again.")) from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(Fault(str(csv), f"can't be read: {error}", needed, "Mend it.")) from None
    table.columns = [str(name).strip() for name in table.columns]
    return table


def _column_faults(csv: Path, table: pd.DataFrame) -> list[Fault]:
    faults = []
    present = list(table.columns)
    for name in PREDICTION_COLUMNS:
        if present.count(name) > 1:
            faults.append(
                Fault(csv.name, f"column {name} stands twice", "it once", "Remove one of them.")
            )
        elif name not in present:
            spare = [column for column in present if column not in PREDICTION_COLUMNS]
            close = difflib.get_close_matches(name, spare, n=1, cutoff=0.4)
            faults.append(
                Fault(
                    csv.name,
                    f"column {name!r} is missing; there are {', '.join(present)}",
                    ", ".join(PREDICTION_COLUMNS),
                    f"Did you mean {close[0]!r}? Rename it to {name}." if close else "Add it.",
                )
            )
    if not faults and table.empty:
        faults.append(
            Fault(csv.name, "there is not one row in it", "one row an image", "Write it again.")
        )
    return faults


def _row_faults(csv: Path, table: pd.DataFrame, numbers: dict[str, pd.Series[Any]]) -> list[Fault]:
    age = numbers["age_months"]
    finite = {name: np.isfinite(values) for name, values in numbers.items()}
    outside = finite["age_months"] & ~age.between(YOUNGEST_MONTHS, OLDEST_MONTHS)
    faults = [
        *_rows(csv, table, table["image_id"] == "", "image_id", "a name", "Name the image."),
        *_rows(
            csv,
            table,
            table["image_id"].duplicated() & (table["image_id"] != ""),
            "image_id",
            "every image once; it stands further up already",
            "Keep one row for each image.",
        ),
        *_rows(
            csv, table, ~table["sex"].isin(SEXES), "sex", "F or M", "Write girls as F, boys as M."
        ),
        *(
            fault
            for name, is_finite in finite.items()
            for fault in _rows(csv, table, ~is_finite, name, "a number of months", "Correct it.")
        ),
        *_rows(
            csv,
            table,
            outside,
            "age_months",
            f"{YOUNGEST_MONTHS:g} to {OLDEST_MONTHS:g} months",
            "Is it in days, or a code for unknown? Correct it.",
        ),
    ]
    if finite["age_months"].all() and float(age.max()) <= YEARS_AT_MOST:
        faults.append(
            Fault(
                f"{csv.name}: age_months",
                f"the largest of {len(age)} values is {age.max():g}",
                "months, of which some pass 25",
                "Is it in years? Multiply age_months and predicted_age_months by 12.",
            )
        )
    return faults


def _rows(
    csv: Path, table: pd.DataFrame, wrong: pd.Series[bool], column: str, expected: str, fix: str
) -> list[Fault]:
    rows = np.flatnonzero(wrong.to_numpy())
    faults = [
        Fault(
            f"{csv.name}: row {row + 2} (image_id {table['image_id'][row] or 'empty'})",
            f"{column} is {table[column][row]!r}",
            expected,
            fix,
        )
        for row in rows[:_ROWS_NAMED].tolist()
    ]
    if len(rows) > _ROWS_NAMED:
        faults.append(
            Fault(
                csv.name,
                f"{column} is wrong in {len(rows) - _ROWS_NAMED} more rows in the same way",
                expected,
                fix,
            )
        )
    return faults
