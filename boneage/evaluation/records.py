"""Read the results and the history of a run folder, with every value checked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from boneage.datasets.label_rules import SEXES
from boneage.errors import Fault, InputError
from boneage.evaluation.metrics import AGE_BANDS
from boneage.runtime.files import read_bytes
from boneage.runtime.schemas import CHANGED, Count, FileSchema, Number, Text, read_checked

HISTORY = {
    "epoch": "Number of the epoch, from 1.",
    "loss": "Mean training loss.",
    "mae": "Mean absolute error on the training images, as they were augmented, months.",
    "val_loss": "Loss on the validation images.",
    "val_mae": "Mean absolute error on the validation images, months.",
    "learning_rate": "Learning rate of the epoch.",
    "seconds": "Seconds that the epoch took, with its validation.",
}
"""The columns of `history.csv`."""
PREDICTIONS = {
    "image_id": "As in the manifest.",
    "age_months": "The label, months.",
    "sex": "`F` or `M`.",
    "predicted_age_months": "The answer, months.",
    "patient_id": "As in the manifest, if it has the column.",
    "predicted_sd_months": "What scales the interval of the answer, months; only if it has one.",
}
"""The columns of `predictions-NAME.csv`."""
_HISTORY_COLUMNS = ("epoch", "mae", "val_mae", "learning_rate")
_LARGEST_NUMBER = 1e12


class Limits(FileSchema):
    """Both ends of an interval; null where there are too few images.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: Number | None
    high: Number | None


class Score(Limits):
    """One metric of a group of images, with its 95 % bootstrap interval.

    Attributes:
        value: The metric.
    """

    value: Number | None


class Agreement(Limits):
    """The limits of agreement: bias ± 1.96 standard deviations of the differences.

    Attributes:
        low_interval: 95 % interval of the lower limit. Early versions wrote none.
        high_interval: 95 % interval of the upper limit.
    """

    low_interval: Limits | None = None
    high_interval: Limits | None = None


class Calibration(FileSchema):
    """The line of the label on the answer; slope 1 and intercept 0 need no correction.

    Attributes:
        slope: Months of label for a month of answer.
        intercept_months: Label at an answer of 0.
    """

    slope: Score
    intercept_months: Score


class Scores(FileSchema):
    """The metrics of a group of images, as `metrics.score` returns them.

    Early versions wrote none of the keys that may be missing.

    Attributes:
        n: Number of images.
        patients: Number of patients, where they are known.
        mae_months: Mean absolute error.
        rmse_months: Root of the mean squared error.
        median_absolute_error_months: Median absolute error.
        bias_months: Mean of answer minus label; positive if answers are too high.
        within_6_months: Share of errors of at most 6 months, 0 to 1.
        within_12_months: Share of errors of at most 12 months.
        within_24_months: Share of errors of at most 24 months.
        limits_of_agreement_months: Limits of Bland and Altman.
        calibration: Line of the label on the answer.
        concordance: Concordance coefficient of Lin, -1 to 1.
        dilution_bias_months: Bias that regression dilution alone predicts, for an age band.
        coverage_80: Share of labels inside their 80 % prediction interval, 0 to 1.
        coverage_90: Share of labels inside their 90 % prediction interval.
        coverage_95: Share of labels inside their 95 % prediction interval.
        median_width_80_months: Median width of the 80 % prediction intervals.
        median_width_90_months: Median width of the 90 % prediction intervals.
        median_width_95_months: Median width of the 95 % prediction intervals.
    """

    n: Count
    patients: Count | None = None
    mae_months: Score
    rmse_months: Score
    median_absolute_error_months: Score
    bias_months: Score
    within_6_months: Score
    within_12_months: Score
    within_24_months: Score
    limits_of_agreement_months: Agreement
    calibration: Calibration | None = None
    concordance: Score | None = None
    dilution_bias_months: Number | None = None
    coverage_80: Score | None = None
    coverage_90: Score | None = None
    coverage_95: Score | None = None
    median_width_80_months: Number | None = None
    median_width_90_months: Number | None = None
    median_width_95_months: Number | None = None

    @model_validator(mode="after")
    def _has_values(self) -> Scores:
        for name, part in self:
            if isinstance(part, Score) and self.n > 0 and name != "concordance":
                units = self.n if self.patients is None else self.patients
                ends = (part.low, part.high) if units > 1 else ()
                if None in (part.value, *ends):
                    raise ValueError(f"{name} of {self.n} images has no value or no interval")
        return self


class BaselineValue(FileSchema):
    """The error of a prediction without the image.

    Attributes:
        value: Mean absolute error, months.
    """

    value: Number | None


class BaselineScore(FileSchema):
    """The same error. Early versions wrote a number.

    Attributes:
        mae_months: The error.
    """

    mae_months: BaselineValue | Number | None


class Baseline(FileSchema):
    """The key `baseline` of the metrics.

    Attributes:
        median_by_sex: Error of the median training age of the child's sex.
    """

    median_by_sex: BaselineScore


class KnownCount(FileSchema):
    """How many of the tested images a model and those before it knew by their ids, at most.

    Attributes:
        at_most: Number of images whose id was known.
        of: Number of images.
        false_positives: Share of unknown images that count as known all the same.
        complete: Whether all models before it say which ids they knew.
    """

    at_most: Count
    of: Count
    false_positives: Number
    complete: bool = True


class TestedOn(FileSchema):
    """The key `manifest` of a result. Early versions wrote the path, later ones the file.

    Attributes:
        path: Path of the manifest, in results of early versions.
        file: Name of its file.
        source: What its column `source` says.
        digest: SHA-256 of its file.
        split_digest: Digest of ids, splits, ages and sexes.
        external: Whether it is another manifest than that of the training.
        overlap: How many of its images were `train` or `val` of the run; null if unknown.
        known_ids: How many of its images the model knew by their ids.
    """

    path: Text = ""
    file: Text = ""
    source: Text = ""
    digest: Text = ""
    split_digest: Text = ""
    external: bool = False
    overlap: dict[Text, Count] | None = None
    known_ids: KnownCount | None = None


class TestedMember(FileSchema):
    """One of several runs, in the key `members` of the metrics.

    Attributes:
        name: Name of its folder.
        overlap: How many of the images were `train` or `val` of this run.
        known_ids: How many of the images it knew by their ids.
    """

    name: Text
    overlap: dict[Text, Count] | None = None
    known_ids: KnownCount | None = None


class Scored(FileSchema):
    """The key `predictions` of the metrics.

    Attributes:
        file: Name of the table that was scored.
        digest: SHA-256 of the table.
    """

    file: Text
    digest: Text


class RandomSplits(FileSchema):
    """What prediction intervals hold over random splits: the mean and the range.

    Attributes:
        splits: Number of random splits into halves: one is fitted, the other measured.
        n: Number of images.
        coverage_80: Share of labels inside their 80 % prediction interval, 0 to 1.
        coverage_90: Share of labels inside their 90 % prediction interval.
        coverage_95: Share of labels inside their 95 % prediction interval.
        median_width_80_months: Median width of the 80 % prediction intervals.
        median_width_90_months: Median width of the 90 % prediction intervals.
        median_width_95_months: Median width of the 95 % prediction intervals.
    """

    splits: Count
    n: Count
    coverage_80: Score | None = None
    coverage_90: Score | None = None
    coverage_95: Score | None = None
    median_width_80_months: Score | None = None
    median_width_90_months: Score | None = None
    median_width_95_months: Score | None = None


class Metrics(Scores):
    """The content of `metrics-NAME.json`: the scores of all images, and these keys.

    Attributes:
        groups: Scores by `sex`, `age_band` (of the label), `answer_band` and `sex_age_band`.
        by: Scores by further columns of the manifest.
        baseline: What a guess without the image would score.
        manifest: What was tested on.
        predictions: The table that was scored.
        split: `train`, `val`, `test`, or several joined by `-`.
        evaluated: Day of the evaluation.
        scorings: How often this split has been scored, this time included.
        views: Test-time views averaged per framed image.
        phases: Phases averaged per radiograph.
        members: The runs whose answers were averaged.
        interval_images: For each run, the number of images that its intervals are fitted to.
        interval_splits: Coverage over random splits of `val` and `test` together.
    """

    groups: dict[Text, dict[Text, Scores]]
    by: dict[Text, dict[Text, Scores]] | None = None
    baseline: Baseline | None = None
    manifest: TestedOn | None = None
    predictions: Scored | None = None
    split: Text = ""
    evaluated: Text = ""
    scorings: Count = 1
    views: int = Field(default=1, ge=1, le=1000)
    phases: int = Field(default=1, ge=1, le=1000)
    members: list[TestedMember] | None = None
    interval_images: list[Count] | None = None
    interval_splits: RandomSplits | None = None

    @model_validator(mode="after")
    def _has_images_and_groups(self) -> Metrics:
        if self.n == 0:
            raise ValueError("n is 0, so nothing was scored")
        for kind, names in {"sex": SEXES, "age_band": AGE_BANDS}.items():
            if missing := set(names) - set(self.groups.get(kind, {})):
                raise ValueError(f"groups.{kind} has no {', '.join(sorted(missing))}")
        return self


def read_metrics(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file `metrics-NAME.json`.

    Args:
        path: The file.
        needs: Keys that must be there, although older versions did not write them.

    Raises:
        InputError: The file can't be read, or keys are missing or have wrong values.
    """
    return read_checked(path, Metrics, needs)


class StressedChange(FileSchema):
    """One change in `stress-NAME.json`.

    Attributes:
        name: The change, with its strength.
        n: Number of radiographs that get an answer as they are.
        refused: How many of them are refused when they are changed.
        shift_months: Mean of the changed answer minus the unchanged one.
        mean_absolute_shift_months: Mean of its absolute value.
        mae_difference_months: MAE of the changed radiographs minus that of the unchanged ones.
        gate: Largest difference that passes, months; null without a gate.
        refusal_passes: Whether refusing every radiograph passes, too.
        passed: Whether the gate is passed; null without one.
    """

    name: Text
    n: Count
    refused: Count
    shift_months: Score
    mean_absolute_shift_months: Number | None
    mae_difference_months: Score
    gate: Number | None
    refusal_passes: bool
    passed: bool | None


class StressResult(FileSchema):
    """The keys of `stress-NAME.json` that are read again.

    Early versions wrote none of the keys that may be missing.

    Attributes:
        n: Number of radiographs that get an answer as they are.
        patients: Number of patients, where they are known.
        split: The splits that they are of.
        views: Test-time views averaged per framed image.
        phases: Phases averaged per radiograph.
        median_size_pixels: Median height and width of the radiographs.
        changes: The changes.
        manifest: What was tested on.
        model_digests: SHA-256 of each model.
        test_scorings: How often the test split has been scored, this time included.
    """

    n: Count
    patients: Count | None = None
    split: Text
    views: Count
    phases: Count
    median_size_pixels: tuple[Count, Count] | list[Count]
    changes: list[StressedChange]
    manifest: TestedOn | None = None
    model_digests: list[Text] | None = None
    test_scorings: Count | None = None


def read_stress(path: Path) -> dict[str, Any]:
    """Read and check `stress-NAME.json`.

    Raises:
        InputError: The file can't be read, or keys are missing or have wrong values.
    """
    return read_checked(path, StressResult)


def read_history(path: Path) -> pd.DataFrame | None:
    """Read `history.csv`, one row for each epoch.

    Returns:
        The table, with `epoch` from 1; None if there is no file, no row, or no column to draw.

    Raises:
        InputError: The file can't be read, or a value is not a number.
    """
    if not path.exists():
        return None
    try:
        history = pd.read_csv(io.BytesIO(read_bytes(path)))
    except pd.errors.EmptyDataError:
        return None
    except ValueError as error:  # also of bytes that are no text, and of ragged rows
        what = f"it is no table that can be read: {str(error).splitlines()[0]:.200}"
        raise InputError(Fault(str(path), what, CHANGED)) from None
    if history.empty or not set(_HISTORY_COLUMNS) <= set(history.columns):
        return None
    for name in _HISTORY_COLUMNS:
        column = pd.to_numeric(history[name], errors="coerce").to_numpy(np.float64)
        # The loss of a training that diverges may be NaN or infinite, but the column has numbers.
        is_odd = history[name].dtype.kind not in "iuf" or np.any(np.abs(column) > _LARGEST_NUMBER)
        if is_odd or (name == "epoch" and not np.isfinite(column).all()):
            what = f"a value of the column {name!r} is not a number, or is too large"
            raise InputError(Fault(str(path), what, CHANGED))
        if not np.isfinite(column).any():
            return None  # nothing to draw
    # Keras' CSVLogger counts from 0, everything else in a run from 1
    return history.assign(epoch=history["epoch"] + 1 - history["epoch"].min())
