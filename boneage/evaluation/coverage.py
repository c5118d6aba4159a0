"""Measure prediction intervals: how many labels they hold, and how wide they are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from boneage.errors import InputError
from boneage.evaluation.paired import number_groups
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import IntervalModel, RunIntervals, mean_bounds

PERCENTS = (80, 90, 95)
"""Levels that are measured."""

SPLITS = 50
_FEWEST = 40  # images, of which half are measured

Months: TypeAlias = NDArray[np.float64]
Bounds: TypeAlias = Mapping[int, tuple[Months, Months]]
"""The lower and upper ends of the intervals of all images, months, by their level in percent."""


def bounds_by_percent(members: Sequence[RunIntervals], outputs: Sequence[Outputs]) -> Bounds:
    """Return the intervals of the mean answer of some runs.

    Args:
        members: The intervals of each run.
        outputs: For each run, its outputs for the same radiographs.

    Returns:
        No level where a run has no intervals, or too few validation images for that level.
    """
    found = {}
    for percent in PERCENTS:
        with contextlib.suppress(InputError):  # too few validation images
            ends = [
                each.bounds(of_run.months, of_run.variance, percent / 100)
                for each, of_run in zip(members, outputs, strict=True)
            ]
            if (bounds := mean_bounds(ends)) is not None:
                found[percent] = bounds
    return found


def measure_random_splits(
    model: IntervalModel,
    age_months: Months,
    outputs: Outputs,
    patients: NDArray[np.str_] | None,
    *,
    splits: int = SPLITS,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit intervals to a random half of some images and measure them on the others, many times.

    Args:
        model: The intervals of the run; only how they scale an error is used.
        age_months: (n,), the labels.
        outputs: What the run computes for the images.
        patients: (n,), the patient of each image, who is in one half only. None if unknown.
        splits: Number of random splits.
        seed: Seed of the splits.

    Returns:
        `splits` and `n`. For each level that the half supports, `coverage_90` and
        `median_width_90_months`: the mean over the splits as `value`, the range as `low` and
        `high`. Empty for fewer than 40 images.
    """
    members = number_groups(patients, len(age_months))
    units = int(members.max(initial=-1)) + 1
    if units < _FEWEST:
        return {}
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(splits):
        is_fitted = (rng.permutation(units) < units // 2)[members]
        variance = outputs.variance
        of_fit, of_rest = (
            None if variance is None else variance[rows] for rows in (is_fitted, ~is_fitted)
        )
        fitted = model.with_fit(age_months[is_fitted], outputs.months[is_fitted], of_fit, 1, 1)
        for percent in PERCENTS:
            with contextlib.suppress(InputError):  # too few images
                bounds = fitted.bounds(outputs.months[~is_fitted], of_rest, percent / 100, 1, 1)
                assert bounds is not None
                low, high = bounds
                label = age_months[~is_fitted]
                values = {
                    f"coverage_{percent}": float(np.mean((low <= label) & (label <= high))),
                    f"median_width_{percent}_months": float(np.median(high - low)),
                }
                for name, value in values.items():
                    found.setdefault(name, []).append(value)
    ranges = {
        name: {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
        for name, values in found.items()
    }
    return {"splits": splits, "n": len(age_months), **ranges}
