"""Compare two models on the same images, by the paired differences of their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.label_rules import SEXES
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import AGE_BANDS
from boneage.evaluation.paired import bootstrap_mean, paired_difference
from boneage.evaluation.result import MIN_IMAGES, open_results
from boneage.evaluation.scoring import known_patients, read_predictions
from boneage.run import Run
from boneage.runtime.files import check_folder_writable, read_json, write_json
from boneage.runtime.provenance import file_digest, provenance

MARGIN_MONTHS = 0.5
"""Default margin of non-inferiority. A model that is worse by less counts as not worse."""
LABEL_TOLERANCE_MONTHS = 0.05  # tables round their labels differently

_SHOWN_IDS = 5
_MADE_BY = ("boneage", "commit", "uncommitted_changes")


@dataclass(frozen=True)
class Predictions:
    """A table of predictions of one model.

    Attributes:
        path: The file.
        name: The model in texts and figures: its run folder, or the file.
        table: As `read_predictions` returns it.
    """

    path: Path
    name: str
    table: pd.DataFrame


def open_predictions(source: Path, split: str = "test") -> Predictions:
    """Read the predictions of a run folder, of a shipped model or of a table.

    Args:
        source: A run folder, a folder that `evaluate --out` wrote, the name of a shipped model
            (its results are below `runs/`), or a table as for `read_predictions`.
        split: Of a folder, the split, or `val-test`. An external test counts if it is the only one
            of the split.

    Raises:
        InputError: There are no predictions, several external tests, or faults in the table.
    """
    if source.is_file():
        is_own = (source.parent / "run.json").exists()
        return Predictions(source, source.name, read_predictions(source, own=is_own))
    if source.suffix and not source.exists():
        raise InputError(Fault(str(source), "there is no such file or folder", "Check the path."))
    results = open_results(source)
    path = results.predictions_path(split)
    if not path.is_file():
        found = [
            each
            for each in sorted(results.folder.glob(f"predictions-{split}-*.csv"))
            if _is_of_split(results, each, split)
        ]
        if len(found) != 1:
            raise InputError(_missing_predictions(source, path, split, found))
        path = found[0]
    return Predictions(path, results.folder.resolve().name, read_predictions(path, own=True))


def compare_predictions(
    a: Predictions, b: Predictions, *, margin_months: float = MARGIN_MONTHS
) -> dict[str, Any]:
    """Compare the absolute errors of two models on the images that both tables have.

    Args:
        a: The predictions of A, such as those of a new model.
        b: The predictions of B, such as those of a reference.
        margin_months: A is not inferior to B if A's MAE is less than this above B's, with 95 %
            confidence (one-sided).

    Returns:
        `a` and `b` with `name`, `file`, `digest` and `only`, the number of images in that table
        alone. `clusters`: `patient_id` or `image_id`, what is resampled as a whole.
        `non_inferiority` with `margin_months`, `high_months` (one-sided) and `is_shown`. `n`,
        `mae_months` of `a` and `b`, and `difference_months` as `paired_difference` returns it.
        `groups` has the same for each `sex` and `age_band` of the label, and only `n` for fewer
        than `MIN_IMAGES`. `provenance` has the version and the commit.

    Raises:
        InputError: Fewer than `MIN_IMAGES` images are in both, or their labels disagree.
    """
    table = _join(a, b)
    groups = known_patients(table)
    age, sex = table["age_months"].to_numpy(np.float64), table["sex"].to_numpy(str)
    errors = {side: np.abs(table[f"answer_{side}"].to_numpy(np.float64) - age) for side in "ab"}

    def summary(rows: NDArray[np.bool_]) -> dict[str, Any]:
        count = int(rows.sum())
        if count < MIN_IMAGES:
            return {"n": count}
        chosen = None if groups is None else groups[rows]
        parts = {side: error[rows] for side, error in errors.items()}
        return {
            "n": count,
            "mae_months": {side: bootstrap_mean(part, chosen) for side, part in parts.items()},
            "difference_months": paired_difference(parts["a"], parts["b"], chosen),
        }

    whole = summary(np.ones(len(table), dtype=bool))
    high = whole["difference_months"]["one_sided_high"]
    made_by = provenance()
    return {
        "a": _describe(a, b, len(table)),
        "b": _describe(b, a, len(table)),
        "clusters": "image_id" if groups is None else "patient_id",
        "non_inferiority": {"high_months": high, **judge_margin(high, margin_months)},
        **whole,
        "groups": {
            "sex": {name: summary(sex == name) for name in SEXES},
            "age_band": {
                name: summary((age >= low) & (age < high))
                for name, (low, high) in AGE_BANDS.items()
            },
        },
        "provenance": {key: made_by[key] for key in _MADE_BY},
    }


def judge_margin(high: float | None, margin_months: float = MARGIN_MONTHS) -> dict[str, Any]:
    """Return `margin_months`, and `is_shown`: whether a one-sided 95 % limit is below it."""
    return {"margin_months": margin_months, "is_shown": high is not None and high < margin_months}


def describe_margin(high: float, judged: Mapping[str, Any]) -> str:
    """Return a one-sided limit, and what `judge_margin` says of it, in words."""
    return (
        f"The difference is below {high:+.2f} months with 95 % confidence (one-sided). "
        f"Non-inferiority at a margin of {judged['margin_months']:g} months is "
        f"{'' if judged['is_shown'] else 'not '}shown."
    )


def write_comparison(comparison: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write `comparison.json` and `comparison.png`. They hold no image id and no folder.

    Returns:
        The files, by kind.

    Raises:
        InputError: A file can't be written.
    """
    from boneage.evaluation import figures  # only now, because it takes a second

    files = {"result": folder / "comparison.json", "plot": folder / "comparison.png"}
    check_folder_writable(folder)
    write_json(files["result"], comparison)
    figures.save_png(figures.paired_differences(comparison), files["plot"])
    return files


def refuse_different_labels(
    where: str, ids: pd.Series[str], first: pd.Series[Any], second: pd.Series[Any]
) -> list[Fault]:
    """Return a fault if labels of the same images differ: ages (months) or texts.

    Args:
        where: The tables.
        ids: (n,) image ids.
        first: (n,) labels of one table. Its name is that of the column.
        second: (n,) labels of the other table.
    """
    if pd.api.types.is_numeric_dtype(first):
        wrong = ((first - second).abs() > LABEL_TOLERANCE_MONTHS).to_numpy(bool)
    else:
        wrong = (first != second).to_numpy(bool)
    if not wrong.any():
        return []
    rows = list(zip(ids[wrong], first[wrong], second[wrong], strict=True))[:_SHOWN_IDS]
    shown = [f"{name} ({one} and {other})" for name, one, other in rows]
    more = ", …" if wrong.sum() > _SHOWN_IDS else ""
    return [
        Fault(
            where,
            f"{first.name} differs for {wrong.sum():,} of {len(ids):,} common images: "
            f"{', '.join(shown)}{more}",
            "Compare predictions of the same images with the same labels.",
        )
    ]


def _is_of_split(results: Run, path: Path, split: str) -> bool:
    """Return whether predictions are of a split; those of `val-test` are not of `val`."""
    metrics = results.metrics_path(path.stem.removeprefix("predictions-"))
    return not metrics.exists() or read_json(metrics).get("split") == split


def _missing_predictions(source: Path, path: Path, split: str, found: list[Path]) -> Fault:
    if not found:
        splits = " ".join(f"--split {name}" for name in split.split("-"))
        fix = f"Run: boneage evaluate {source} {splits}."
        return Fault(str(path), "there is no such table of predictions", fix)
    names = ", ".join(each.name for each in found)
    what = f"there are several external tests: {names}"
    return Fault(str(path.parent), what, f"Name one of them: {found[0]}.")


def _join(a: Predictions, b: Predictions) -> pd.DataFrame:
    """Return the common images: labels, `patient_id` ("" if unknown), `answer_a`, `answer_b`."""
    tables = [
        each.table.assign(patient_id="" if patients is None else patients).rename(
            columns={"predicted_age_months": "answer"}
        )
        for each in (a, b)
        for patients in (known_patients(each.table),)
    ]
    joined = tables[0].merge(tables[1], on="image_id", suffixes=("_a", "_b"))
    where = f"{a.path} and {b.path}"
    if len(joined) < MIN_IMAGES:
        fix = "Compare two tables of the same images. They are found by image_id."
        what = f"{len(joined)} images are in both tables; expected at least {MIN_IMAGES}"
        raise InputError(Fault(where, what, fix))
    faults = []
    for label in ("age_months", "sex", "patient_id"):
        rows = joined
        if label == "patient_id":
            rows = joined[(joined["patient_id_a"] != "") & (joined["patient_id_b"] != "")]
        first = rows[f"{label}_a"].rename(label)
        faults += refuse_different_labels(where, rows["image_id"], first, rows[f"{label}_b"])
    if faults:
        raise InputError(faults)
    patients = joined["patient_id_a"].where(joined["patient_id_a"] != "", joined["patient_id_b"])
    return joined.assign(
        age_months=joined["age_months_a"], sex=joined["sex_a"], patient_id=patients
    )


def _describe(one: Predictions, other: Predictions, common: int) -> dict[str, Any]:
    path, name = one.path, one.name
    if name == other.name:  # such as two files of the same name
        name = "/".join(path.resolve().parts[-2:])
    only = len(one.table) - common
    return {"name": name, "file": path.name, "digest": file_digest(path), "only": only}
