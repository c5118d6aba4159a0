"""Prediction intervals: the months that hold the label of a given share of radiographs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from boneage.errors import Fault, InputError
from boneage.prediction.possible_ages import MAX_AGE_MONTHS
from boneage.prediction.shipped import is_release
from boneage.recipe import SPREAD_AT_BIRTH, Recipe
from boneage.run import Run
from boneage.runtime.files import write_text
from boneage.runtime.provenance import file_digest
from boneage.runtime.schemas import FileSchema, Text, read_checked

MAX_SCORES = 2000
"""Scores that are stored. Of more validation images, every second or third one is left out."""

_LEAST_VARIANCE = 9.0  # months squared: no label is more certain than that
_DECIMALS = 4  # of a score; one of 1 is about ten months

Months = npt.NDArray[np.float64]


class Spread(FileSchema):
    """How wide the training made the distribution around each label; see `training.spread_months`.

    The distribution that a network answers is that much wider than what it knows of the age.

    Attributes:
        months: The standard deviation, at most.
        at_birth_months: The standard deviation at birth, with `by_age`.
        by_age: Increase by month of age; 0 means the same at every age.
    """

    months: Annotated[float, Field(ge=0, le=240)]
    at_birth_months: Annotated[float, Field(ge=0, le=240)]
    by_age: Annotated[float, Field(ge=0, le=1)]

    def at(self, age_months: Months) -> Months:
        """Return the standard deviation of the distribution around labels of some ages, months."""
        if not self.by_age:
            return np.full(np.shape(age_months), self.months)
        grown = self.at_birth_months + self.by_age * np.maximum(age_months, 0.0)
        return np.minimum(self.months, grown)


class Fit(FileSchema):
    """What validation images say of the errors, for one number of views and phases.

    A score is the absolute error of an image, in standard deviations of its answer. The scores are
    sorted, and are no list of images.

    Attributes:
        views: Test-time views averaged per framed image.
        phases: Phases averaged per radiograph.
        n: Number of validation images.
        scores: Their scores in ascending order; of many images, a part of them at equal distances.
    """

    views: Annotated[int, Field(ge=1, le=1000)]
    phases: Annotated[int, Field(ge=1, le=1000)]
    n: Annotated[int, Field(ge=1, le=2**53)]
    scores: Annotated[
        list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=1, max_length=MAX_SCORES)
    ]

    @model_validator(mode="after")
    def _is_sorted(self) -> Fit:
        if len(self.scores) != min(self.n, MAX_SCORES):
            raise ValueError(f"{len(self.scores)} scores of {self.n} images")
        if sorted(self.scores) != self.scores:
            raise ValueError("the scores are not sorted")
        return self

    def quantile(self, level: float) -> float:
        """Return the score that an interval of this level reaches to.

        Raises:
            InputError: The level is no share, or there are too few validation images for it.
        """
        rank = _rank(self.n, level)
        return self.scores[(rank - 1) * len(self.scores) // self.n]


class IntervalsFile(FileSchema):
    """The content of `intervals.json`.

    Attributes:
        model: SHA-256 of the model that the intervals are for.
        spread: The spread of the training's labels; null for a head of one number.
        fits: The errors on validation, for each number of views and phases.
    """

    model: Text
    spread: Spread | None
    fits: Annotated[list[Fit], Field(max_length=100)]


@dataclass(frozen=True)
class IntervalModel:
    """The prediction intervals of a run: split conformal, scaled by the head's own uncertainty.

    An interval of level 0.9 is the answer ± q standard deviations. The factor q is the
    ⌈0.9 (n + 1)⌉-th of the `n` sorted scores of the validation images (Lei et al., J Am Stat Assoc
    2018;113:1094-1111). If new images are like those of validation, it holds the label of at least
    90 % of them on average, whatever the distribution of the errors. The label is one reading. The
    validation images also chose the epoch, so their errors may be a little too small.

    The standard deviation is that of the head's distribution, without the spread that the training
    gave every label, and at least 3 months. A head of one number has no distribution: its scores
    are errors in months, so all its intervals are equally wide.

    Attributes:
        model_digest: SHA-256 of the best model of the run that was fitted.
        spread: The spread that the training gave every label; None for a head of one number.
        fits: One for each number of views and phases.
    """

    model_digest: str
    spread: Spread | None
    fits: tuple[Fit, ...] = ()

    def with_fit(
        self, age_months: Months, outputs_months: Months, variance: Months | None, views: int,
        phases: int,
    ) -> IntervalModel:  # fmt: skip
        """Return these intervals, with those for some views and phases fitted again.

        Args:
            age_months: (n,), the labels of validation images.
            outputs_months: (n,), the answers.
            variance: (n,), the variances of the head's distributions; None without one.
            views: Test-time views averaged per framed image.
            phases: Phases averaged per radiograph.
        """
        errors = np.abs(outputs_months - age_months)
        fit = fit_scores(errors / self.standard_deviations(outputs_months, variance), views, phases)
        others = [each for each in self.fits if (each.views, each.phases) != (views, phases)]
        fits = sorted([*others, fit], key=lambda each: (each.views, each.phases))
        return replace(self, fits=tuple(fits))

    def find_fit(self, views: int, phases: int) -> Fit | None:
        """Return the fit for a number of views and phases; None if there is none."""
        found = (each for each in self.fits if (each.views, each.phases) == (views, phases))
        return next(found, None)

    def standard_deviations(self, months: Months, variance: Months | None) -> Months:
        """Return the standard deviation of each answer, months; 1 for a head of one number.

        Args:
            months: (n,), the answers.
            variance: (n,), the variances of the head's distributions.
        """
        if self.spread is None or variance is None:
            return np.ones(np.shape(months))
        own = variance - self.spread.at(months) ** 2
        return np.sqrt(np.maximum(own, _LEAST_VARIANCE))

    def bounds(
        self, months: Months, variance: Months | None, level: float, views: int, phases: int
    ) -> tuple[Months, Months] | None:
        """Return the lower and upper ends of the intervals of some answers.

        Args:
            months: (n,), the answers.
            variance: (n,), the variances of the head's distributions; None without one.
            level: Share of radiographs whose label the interval holds.
            views: Test-time views averaged per framed image.
            phases: Phases averaged per radiograph.

        Returns:
            (n,) months each, from 0 to 240; None without a fit for these views and phases.

        Raises:
            InputError: The level is no share, or there are too few validation images for it.
        """
        fit = self.find_fit(views, phases)
        if fit is None:
            return None
        half = fit.quantile(level) * self.standard_deviations(months, variance)
        low, high = np.clip([months - half, months + half], 0.0, MAX_AGE_MONTHS)
        return low, high

    def write(self, run: Run) -> None:
        """Write `intervals.json` of a run."""
        fits = [json.dumps(fit.model_dump(), separators=(",", ":")) for fit in self.fits]
        head = json.dumps(
            {"model": self.model_digest, "spread": self.spread and self.spread.model_dump()}
        )
        # One line for each fit.
        text = f'{head[:-1]}, "fits": [\n' + ",\n".join(fits) + "\n]}\n"
        write_text(run.intervals_path, text)


def fit_scores(scores: Months, views: int, phases: int) -> Fit:
    """Return the fit of some scores.

    Args:
        scores: (n,), for each image its absolute error in standard deviations.
        views: Test-time views averaged per framed image.
        phases: Phases averaged per radiograph.
    """
    n = len(scores)
    kept = -(-np.arange(1, min(n, MAX_SCORES) + 1) * n // min(n, MAX_SCORES)) - 1
    rounded = np.round(np.sort(scores)[kept], _DECIMALS).tolist()
    return Fit(views=views, phases=phases, n=n, scores=rounded)


def new_intervals(run: Run) -> IntervalModel:
    """Return the intervals of a run without any fit yet."""
    model = run.best_path if run.best_path.exists() else run.onnx_path
    return IntervalModel(file_digest(model), _spread(run.read_recipe()))


def read_intervals(run: Run) -> IntervalModel | None:
    """Read the intervals of a run.

    Returns:
        None without a file, or if it was made for another model: a training was resumed since.

    Raises:
        InputError: The file can't be read, or keys are missing or have wrong values.
    """
    if not run.intervals_path.exists():
        return None
    content = IntervalsFile(**read_checked(run.intervals_path, IntervalsFile))
    if run.best_path.exists() and file_digest(run.best_path) != content.model:
        return None
    return IntervalModel(content.model, content.spread, tuple(content.fits))


LEVEL = 0.9
"""Default share of radiographs whose label an interval holds."""


class RunIntervals:
    """The prediction intervals of a run at one number of views and phases.

    Attributes:
        note: Why there are none, and what to do; "" if there are.
        n: Number of validation images that they are fitted to; 0 if there are none.
    """

    def __init__(self, run: Run, views: int, phases: int) -> None:
        """Read the intervals of the run.

        Raises:
            InputError: As `read_intervals`.
        """
        self._model = read_intervals(run)
        self._views, self._phases = views, phases
        self._fit = None if self._model is None else self._model.find_fit(views, phases)
        self.n = 0 if self._fit is None else self._fit.n
        self.note = "" if self._fit is not None else self._explain(run)

    def use_level(self, level: float | None) -> None:
        """Check that intervals of a level can be made.

        Args:
            level: A level that somebody asked for; None for `LEVEL`. If there are too few
                validation images for that, there is no interval, and `note` says why.

        Raises:
            InputError: The level is no share, or there are too few validation images for it.
        """
        try:
            _rank(self.n or 2**53, LEVEL if level is None else level)
        except InputError as error:
            if level is not None:
                raise
            self._model, self.note = None, f"no interval: {error.faults[0].what}."

    def bounds(
        self, months: Months, variance: Months | None, level: float
    ) -> tuple[Months, Months] | None:
        """Return lower and upper ends; see `IntervalModel.bounds`."""
        if self._model is None:
            return None
        return self._model.bounds(months, variance, level, self._views, self._phases)

    def _explain(self, run: Run) -> str:
        averaged = f"{self._views} view{'s' if self._views > 1 else ''}"
        options = f"--views {self._views}"
        if self._phases > 1:
            averaged += f" and {self._phases} phases"
            options += f" --phases {self._phases}"
        where = run.folder.name if is_release(run.folder) else run.folder
        what = f"no interval: {where} has none for {averaged}"
        if not is_release(run.folder):
            command = f"boneage evaluate {run.folder} --split val {options}"
            return f"{what}. This command makes them: {command}"
        known = [str(fit.views) for fit in self._model.fits] if self._model else []
        return f"{what}." + (f" Choose --views {' or '.join(known)}." if known else "")


def mean_bounds(
    members: Sequence[tuple[Months, Months] | None],
) -> tuple[Months, Months] | None:
    """Return the intervals of a mean answer: the means of all runs' lower and upper ends.

    The mean of several runs has a smaller error than each of them, so these intervals hold the
    label at least about as often as their level says; `experiments/README.md` has an example.

    Args:
        members: For each run, what `IntervalModel.bounds` returns for the same radiographs.
    """
    known = [each for each in members if each is not None]
    if len(known) < len(members) or not known:
        return None
    low, high = (np.mean(ends, axis=0) for ends in zip(*known, strict=True))
    return low, high


def _rank(n: int, level: float) -> int:
    """Return the rank among n sorted scores, from 1, of the score that a level reaches to.

    Raises:
        InputError: The level is no share, or there are too few scores for it.
    """
    if not 0 < level < 1:  # also NaN
        fix = "Write a share between 0 and 1, such as 0.9."
        raise InputError(Fault("--level", f"{level} is no level of an interval", fix))
    rank = math.ceil((n + 1) * level - 1e-9)  # 0.9 * 1000 exceeds 900 in binary
    if rank > n:
        what = f"intervals of level {level:g} can't be made from {n:,} validation images"
        most = math.floor(1000 * n / (n + 1)) / 1000
        fix = f"Choose at most {most:g}." if most else "Train with more validation images."
        raise InputError(Fault("--level", what, fix))
    return max(rank, 1)


def _spread(recipe: Recipe) -> Spread | None:
    if recipe.model.head != "distribution":
        return None
    widest, by_age = recipe.training.spread_months, recipe.training.spread_by_age
    return Spread(months=widest, at_birth_months=SPREAD_AT_BIRTH, by_age=by_age)
