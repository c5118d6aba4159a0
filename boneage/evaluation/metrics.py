"""Score predicted bone ages against labels, in months, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boneage.datasets.label_rules import SEXES
from boneage.errors import Fault, InputError

Months = NDArray[np.float64]

AGE_BANDS: dict[str, tuple[float, float]] = {
    "0-60": (-np.inf, 60.0),
    "60-120": (60.0, 120.0),
    "120-180": (120.0, 180.0),
    "180+": (180.0, np.inf),
}
"""Bands of the labelled age in months. The lower end belongs to the band."""

BAND_WORDS = {
    "0-60": "under 5 years",
    "60-120": "5 to 10 years",
    "120-180": "10 to 15 years",
    "180+": "15 years and over",
}

WITHIN_MONTHS = (6, 12, 24)
COVERAGE_PERCENT = 95.0
NORMAL_QUANTILE = 1.96  # 97.5 % of a normal distribution, as in Bland & Altman 1986
_DRAWS_AT_ONCE = 1_000_000  # keeps a bootstrap of any cohort within a few tens of MB


def score(
    age_months: ArrayLike,
    predicted_age_months: ArrayLike,
    sex: Sequence[str] | NDArray[Any],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions against labels, over all images and by sex and age band.

    The intervals are 95 % percentile intervals of a bootstrap that draws images with
    replacement (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Each
    group is resampled separately. The limits of agreement are bias ± 1.96 standard deviations
    of the differences (Bland & Altman, Lancet 1986;327:307-310). The bias is predicted − true,
    so a positive bias means that predictions are too high.

    Args:
        age_months: (n,) labelled ages, months.
        predicted_age_months: (n,) predicted ages, months.
        sex: (n,) `F` or `M`.
        bootstrap: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        `n`. `mae_months`, `rmse_months`, `median_absolute_error_months`, `bias_months`,
        `within_6_months`, `within_12_months` and `within_24_months` (0–1), each with `value`,
        `low` and `high`. `limits_of_agreement_months` with `low` and `high`. `groups` has the
        same for each `sex` and `age_band`. A value is None if the group is too small for it.

    Raises:
        InputError: A predicted or labelled age is not a finite number, or a sex is unknown.
        ValueError: The lengths differ, there are no predictions, or `bootstrap` is below 1.
    """
    age = np.asarray(age_months, dtype=np.float64).reshape(-1)
    predicted = np.asarray(predicted_age_months, dtype=np.float64).reshape(-1)
    sexes = np.asarray(sex, dtype=str).reshape(-1)
    if not len(age) == len(predicted) == len(sexes):
        raise ValueError(
            f"score: {len(age)} ages, {len(predicted)} predictions and {len(sexes)} sexes; "
            "the numbers must be equal."
        )
    if not len(age):
        raise ValueError("score: there are no predictions; expected at least one.")
    if bootstrap < 1:
        raise ValueError(f"score: bootstrap is {bootstrap}; expected at least 1.")
    _refuse_unscorable(age, predicted, sexes)

    error = predicted - age
    summary = _summary(error, bootstrap, seed)
    summary["groups"] = {
        "sex": {name: _summary(error[sexes == name], bootstrap, seed) for name in SEXES},
        "age_band": {
            name: _summary(error[(age >= low) & (age < high)], bootstrap, seed)
            for name, (low, high) in AGE_BANDS.items()
        },
    }
    return summary


def baseline_median_by_sex(
    train_age_months: ArrayLike,
    train_sex: Sequence[str] | NDArray[Any],
    age_months: ArrayLike,
    sex: Sequence[str] | NDArray[Any],
) -> Months:
    """Return the median training age of its sex for every image: a prediction without the image.

    The median is the constant with the smallest mean absolute error. A sex without training
    images gets the median over all.

    Args:
        train_age_months: (m,) labelled ages of the training images, months.
        train_sex: (m,) their sexes, `F` or `M`.
        age_months: (n,) labelled ages of the images to predict; only their number is used.
        sex: (n,) sexes of the images to predict.

    Returns:
        (n,) float64 months.
    """
    train_age = np.asarray(train_age_months, dtype=np.float64).reshape(-1)
    train_sexes = np.asarray(train_sex, dtype=str).reshape(-1)
    sexes = np.asarray(sex, dtype=str).reshape(-1)
    if len(sexes) != np.size(age_months):
        raise ValueError(f"baseline: {np.size(age_months)} ages but {len(sexes)} sexes.")
    predicted = np.full(len(sexes), np.median(train_age))
    for name in SEXES:
        if np.any(train_sexes == name):
            predicted[sexes == name] = np.median(train_age[train_sexes == name])
    return predicted


def format_interval(part: Mapping[str, Any], spec: str = ".2f", *, factor: float = 1.0) -> str:
    """Return an interval as text, such as `[4.46, 5.55]`, or "" where there is none.

    Args:
        part: A metric with `low` and `high`.
        spec: Format of both ends; `+.1f` writes their signs.
        factor: Both ends are multiplied by it, for example 100 for percent.
    """
    low, high = part["low"], part["high"]
    return "" if low is None else f"[{factor * low:{spec}}, {factor * high:{spec}}]"


def _share_within(months: float) -> Callable[[Months], Months]:
    # 1e-9, because 12.3 - 0.3 exceeds 12 in binary
    return lambda error: np.mean(np.abs(error) <= months + 1e-9, axis=-1)


_METRICS: dict[str, Callable[[Months], Months]] = {
    "mae_months": lambda error: np.mean(np.abs(error), axis=-1),
    "rmse_months": lambda error: np.sqrt(np.mean(np.square(error), axis=-1)),
    "median_absolute_error_months": lambda error: np.median(np.abs(error), axis=-1),
    "bias_months": lambda error: np.mean(error, axis=-1),
    **{f"within_{months}_months": _share_within(months) for months in WITHIN_MONTHS},
}


def _summary(error: Months, bootstrap: int, seed: int) -> dict[str, Any]:
    """Return every metric of one group of signed errors (n,), months."""
    count = len(error)
    summary: dict[str, Any] = {"n": count}
    intervals = _intervals(error, bootstrap, seed) if count > 1 else {}
    for name, metric in _METRICS.items():
        low, high = intervals.get(name, (None, None))
        value = float(metric(error)) if count else None
        summary[name] = {"value": value, "low": low, "high": high}
    summary["limits_of_agreement_months"] = _limits_of_agreement(error)
    return summary


def _intervals(error: Months, bootstrap: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap intervals of every metric, from the same resamples."""
    generator = np.random.default_rng(seed)
    count = len(error)
    chunk = max(1, _DRAWS_AT_ONCE // count)
    drawn: dict[str, list[Months]] = {name: [] for name in _METRICS}
    for start in range(0, bootstrap, chunk):
        rows = min(chunk, bootstrap - start)
        sample = error[generator.integers(0, count, size=(rows, count), dtype=np.int32)]
        for name, metric in _METRICS.items():
            drawn[name].append(metric(sample))
    tail = (100.0 - COVERAGE_PERCENT) / 2
    intervals = {}
    for name, values in drawn.items():
        low, high = np.percentile(np.concatenate(values), (tail, 100.0 - tail))
        intervals[name] = (float(low), float(high))
    return intervals


def _limits_of_agreement(error: Months) -> dict[str, float | None]:
    if len(error) < 2:
        return {"low": None, "high": None}
    bias, deviation = float(np.mean(error)), float(np.std(error, ddof=1))
    return {
        "low": bias - NORMAL_QUANTILE * deviation,
        "high": bias + NORMAL_QUANTILE * deviation,
    }


def _refuse_unscorable(age: Months, predicted: Months, sexes: NDArray[Any]) -> None:
    faults = []
    for name, values in (("age_months", age), ("predicted_age_months", predicted)):
        if broken := int(np.sum(~np.isfinite(values))):
            row = int(np.argmin(np.isfinite(values)))
            faults.append(
                Fault(
                    f"predictions: {name}",
                    f"{broken} of {len(values)} values are not finite; the first is "
                    f"{values[row]} at position {row}",
                    "If a network predicts NaN, its training diverged: lower the learning rate.",
                )
            )
    if unknown := sorted(set(sexes.tolist()) - set(SEXES)):
        faults.append(
            Fault(
                "predictions: sex",
                f"unknown sex {', '.join(map(repr, unknown))}",
                "Write girls as F and boys as M.",
            )
        )
    if faults:
        raise InputError(faults)
