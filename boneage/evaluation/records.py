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

_HISTORY_COLUMNS = ("epoch", "mae", "val_mae", "learning_rate")
_LARGEST_NUMBER = 1e12


class Limits(FileSchema):
    """Both ends of an interval; None where there are too few images."""

    low: Number | None
    high: Number | None


class Score(Limits):
    """One metric of a group of images."""

    value: Number | None


class Agreement(Limits):
    """The limits of agreement. Early versions wrote no intervals of them."""

    low_interval: Limits | None = None
    high_interval: Limits | None = None


class Calibration(FileSchema):
    """The line of the label on the answer."""

    slope: Score
    intercept_months: Score


class Scores(FileSchema):
    """The metrics of a group of images, as `metrics.score` returns them.

    Early versions wrote none of the keys that may be missing.
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
    """The error of a prediction without the image."""

    value: Number | None


class BaselineScore(FileSchema):
    """The same error. Early versions wrote a number."""

    mae_months: BaselineValue | Number | None


class Baseline(FileSchema):
    """The key `baseline` of the metrics."""

    median_by_sex: BaselineScore


class KnownCount(FileSchema):
    """How many of the tested images a model and those before it knew by their ids, at most."""

    at_most: Count
    of: Count
    false_positives: Number
    complete: bool = True


class TestedOn(FileSchema):
    """The key `manifest` of a result. Early versions wrote the path, later ones the file."""

    path: Text = ""
    file: Text = ""
    source: Text = ""
    digest: Text = ""
    split_digest: Text = ""
    external: bool = False
    overlap: dict[Text, Count] | None = None
    known_ids: KnownCount | None = None


class TestedMember(FileSchema):
    """One of several runs, in the key `members` of the metrics."""

    name: Text
    overlap: dict[Text, Count] | None = None
    known_ids: KnownCount | None = None


class Scored(FileSchema):
    """The key `predictions` of the metrics."""

    file: Text
    digest: Text


class RandomSplits(FileSchema):
    """What prediction intervals hold over random splits: the mean and the range."""

    splits: Count
    n: Count
    coverage_80: Score | None = None
    coverage_90: Score | None = None
    coverage_95: Score | None = None
    median_width_80_months: Score | None = None
    median_width_90_months: Score | None = None
    median_width_95_months: Score | None = None


class Metrics(Scores):
    """The content of `metrics-NAME.json`."""

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
    """One change in `stress-NAME.json`."""

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
