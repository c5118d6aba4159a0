"""Apply a local calibration: a correction of a model's answers, fitted to local radiographs.

`boneage calibrate` writes it; see `boneage.evaluation.local_calibration`. It belongs to the model
whose digest it names. Every answer says that it is calibrated, and with what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from boneage.errors import Fault, InputError
from boneage.prediction.answers import AppliedCalibration, Interval
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import Fit, IntervalModel
from boneage.prediction.possible_ages import MAX_AGE_MONTHS
from boneage.runtime.provenance import file_digest
from boneage.runtime.schemas import Count, FileSchema, Number, Text, read_checked

VERSION = 1

Kind = Literal["none", "offset", "linear"]
Months = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Correction:
    """The correction of one sex: intercept + slope x answer.

    Attributes:
        kind: `none`; `offset`: the slope is 1; `linear`.
        children: Children that it is fitted to.
        intercept_months: Months.
        slope: Of the label on the answer.
        low_months: Answers below get the correction, in months, of this one. Few children were so
            young.
        high_months: The same for answers above.
    """

    kind: Kind
    children: int
    intercept_months: float
    slope: float
    low_months: float
    high_months: float

    def apply(self, months: Months) -> Months:
        """Return corrected answers, inside 0 to 240 months.

        Args:
            months: float64 (n,).
        """
        if self.kind == "none":
            return months
        inside = np.clip(months, self.low_months, self.high_months)
        shift = self.intercept_months + (self.slope - 1) * inside
        return np.clip(months + shift, 0.0, MAX_AGE_MONTHS)

    def __str__(self) -> str:
        """Return it in words, such as `+2.31 months` or `5.20 months + 0.957 x answer`."""
        if self.kind == "none":
            return "none"
        if self.kind == "offset":
            return f"{self.intercept_months:+.2f} months"
        return f"{self.intercept_months:.2f} months + {self.slope:.3f} x answer"


@dataclass(frozen=True)
class Calibration:
    """A local calibration.

    Attributes:
        models: The digests of the models whose mean answer is corrected.
        views: Test-time views of the answers that it is fitted to.
        phases: Phases of these answers.
        n: Radiographs that it is fitted to.
        date: The day it was fitted.
        digest: sha256 of its file.
        corrections: For each sex that was there.
        scores: The errors of answers that are corrected without the same child, in standard
            deviations: what the intervals are made of.
    """

    models: tuple[str, ...]
    views: int
    phases: int
    n: int
    date: str
    digest: str
    corrections: Mapping[str, Correction]
    scores: Fit

    def apply(self, months: float, sex: str) -> tuple[float, AppliedCalibration]:
        """Return the corrected answer for a child, and what it says of the calibration.

        Args:
            months: The answer of the model.
            sex: `F` or `M`.
        """
        correction = self.corrections.get(sex) or Correction("none", 0, 0.0, 1.0, 0.0, 0.0)
        corrected = float(correction.apply(np.array([months]))[0])
        applied = AppliedCalibration(
            self.n, self.date, self.digest, str(correction), corrected - months
        )
        return corrected, applied

    def interval(self, months: float, deviation: float, level: float) -> Interval:
        """Return the prediction interval of a corrected answer.

        Args:
            months: The corrected answer.
            deviation: Its standard deviation, as `mean_deviations` returns it, months.
            level: Share of radiographs whose label the interval holds.

        Raises:
            InputError: The level is no share, or there are too few local radiographs for it.
        """
        half = self.scores.quantile(level) * deviation
        return Interval(level, max(0.0, months - half), min(MAX_AGE_MONTHS, months + half))

    def check_models(self, where: str, models: Sequence[str], views: int, phases: int) -> None:
        """Check that the calibration is that of these models, at these views and phases.

        Args:
            where: The file of the calibration, for messages.
            models: The digests of the models.
            views: Test-time views averaged per image.
            phases: Phases averaged per radiograph.

        Raises:
            InputError: It was fitted to the answers of other models, views or phases.
        """
        if sorted(models) != sorted(self.models):
            names = ", ".join(f"{digest[:12]}…" for digest in models)
            expected = ", ".join(f"{digest[:12]}…" for digest in self.models)
            what = f"the calibration belongs to another model: the digest here is {names}"
            fix = "Name its run, or fit another: boneage calibrate RUN --data M."
            raise InputError(Fault(where, what, fix, expected))
        if (views, phases) != (self.views, self.phases):
            what = f"the calibration is for {self.views} views and {self.phases} phases"
            fix = (
                f"Leave out --views and --phases, or fit another. Here they are {views}, {phases}."
            )
            raise InputError(Fault(where, what, fix))


def mean_deviations(models: Sequence[IntervalModel], outputs: Sequence[Outputs]) -> Months:
    """Return the standard deviations of mean answers: the mean of those of the runs, months.

    They are 1 if a run has a head of one number, so that all intervals are equally wide.

    Args:
        models: For each run, its intervals; their fits are not used.
        outputs: For each run, its outputs for the same radiographs.
    """
    if any(each.variance is None for each in outputs):
        return np.ones_like(outputs[0].months)
    each_run = [
        model.standard_deviations(found.months, found.variance)
        for model, found in zip(models, outputs, strict=True)
    ]
    return np.asarray(np.mean(each_run, axis=0))


class _Model(FileSchema):
    name: Text
    digest: Text


class _Correction(FileSchema):
    kind: Kind
    children: Count
    intercept_months: float = Field(ge=-240, le=240)
    slope: float = Field(gt=0, le=10)
    low_months: Number
    high_months: Number


class _File(FileSchema):
    version: Literal[1]
    models: list[_Model] = Field(min_length=1)
    views: Count
    phases: Count
    n: Count
    date: Text
    corrections: dict[Literal["F", "M"], _Correction]
    scores: Fit


def read_calibration(path: Path) -> Calibration:
    """Read the file that `boneage calibrate` wrote.

    Raises:
        InputError: It can't be read, or is no such file. All faults are reported.
    """
    values: dict[str, Any] = read_checked(path, _File)
    return Calibration(
        tuple(model["digest"] for model in values["models"]),
        values["views"],
        values["phases"],
        values["n"],
        values["date"],
        file_digest(path),
        {
            sex: Correction(**{key: each[key] for key in _Correction.model_fields})
            for sex, each in values["corrections"].items()
        },
        Fit.model_validate(values["scores"]),
    )
