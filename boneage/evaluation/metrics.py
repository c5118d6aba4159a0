"""Score predicted bone ages against labels, in months, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from boneage.datasets.label_rules import SEXES
from boneage.errors import Fault, InputError
from boneage.evaluation.paired import number_groups, resample

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

SEX_WORDS = {"F": "girls", "M": "boys"}
WITHIN_MONTHS = (6, 12, 24)
COVERAGE_PERCENT = 95.0
NORMAL_QUANTILE = 1.96  # 97.5 % of a normal distribution, as in Bland & Altman 1986
FEW = 20  # a percentile bootstrap of fewer gives intervals that are too narrow
_LEAST_VARIANCE = 1e-9  # months²: answers that vary less are all the same


def score(
    age_months: ArrayLike,
    predicted_age_months: ArrayLike,
    sex: Sequence[str] | NDArray[Any],
    *,
    patients: Sequence[str] | NDArray[Any] | None = None,
    by: Mapping[str, Mapping[str, NDArray[np.bool_]]] | None = None,
    intervals: Mapping[int, tuple[Months, Months]] | None = None,
    with_groups: bool = True,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions against labels, over all images and by sex, age band and more.

    The intervals are 95 % percentile intervals of a bootstrap with replacement (Efron &
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). It draws whole patients where
    they are known, else images. Each group is resampled separately. The bias is predicted − true,
    so a positive bias means that predictions are too high.

    The limits of agreement are bias ± 1.96 standard deviations of the differences (Bland & Altman,
    Lancet 1986;327:307-310). Their intervals are of the bootstrap, too. The usual standard error
    √3·SD/√n is that of normal differences; those of bone ages have heavier tails.

    `calibration` is the line of the label on the answer: slope 1 and intercept 0 mean that an
    answer needs no correction. `concordance` is Lin's coefficient (Biometrics 1989;45:255-268).

    Args:
        age_months: (n,) labelled ages, months.
        predicted_age_months: (n,) predicted ages, months.
        sex: (n,) `F` or `M`.
        patients: (n,) patient of each image; "" is a patient of its own. None if unknown.
        by: Further groupings: for each title, the members (n,) of each group by its name.
        intervals: The lower and upper ends (n,) of prediction intervals, months, by their level in
            percent.
        with_groups: Score the groups, too.
        bootstrap: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        `n`, and `patients` where they are known. `mae_months`, `rmse_months`,
        `median_absolute_error_months`, `bias_months`, `within_6_months`, `within_12_months`,
        `within_24_months` (0–1) and `concordance`, each with `value`, `low` and `high`.
        `calibration` with the same for `slope` and `intercept_months`.
        `limits_of_agreement_months` with `low`, `high` and the interval of each. `groups` has the
        same for each `sex`, `age_band` (of the label), `answer_band` (of the answer) and
        `sex_age_band`; groups made by age have no calibration and no concordance. An `age_band`
        has `dilution_bias_months`: the bias that regression dilution alone predicts,
        (1 − r²)(mean label − mean label of the band). With `intervals`, every group has for each
        level, such as 90, `coverage_90` (0–1), the share of labels in their interval, and
        `median_width_90_months`. `by` has the groups of each title. A value
        is None if there are too few images for it, or if it is not defined.

    Raises:
        InputError: A predicted or labelled age is not a finite number, or a sex is unknown.
        ValueError: The lengths differ, there are no predictions, or `bootstrap` is below 1.
    """
    age = np.asarray(age_months, dtype=np.float64).reshape(-1)
    predicted = np.asarray(predicted_age_months, dtype=np.float64).reshape(-1)
    sexes = np.asarray(sex, dtype=str).reshape(-1)
    patient = None if patients is None else np.asarray(patients, dtype=str).reshape(-1)
    _check_lengths(age, predicted, sexes, patient)
    if bootstrap < 1:
        raise ValueError(f"score: bootstrap is {bootstrap}; expected at least 1.")
    _refuse_unscorable(age, predicted, sexes)

    def summarize(chosen: NDArray[np.bool_], *, with_line: bool = False) -> dict[str, Any]:
        few = None if patient is None else patient[chosen]
        ends = {percent: (low[chosen], high[chosen]) for percent, (low, high) in given.items()}
        return _summary(age[chosen], predicted[chosen], few, bootstrap, seed, with_line, ends)

    given = intervals or {}
    summary = summarize(np.ones(len(age), dtype=bool), with_line=True)
    if not with_groups:
        return summary
    labelled = {band: _in_band(age, band) for band in AGE_BANDS}
    summary["groups"] = {
        "sex": {name: summarize(sexes == name, with_line=True) for name in SEXES},
        "age_band": {
            band: {
                **summarize(chosen),
                "dilution_bias_months": _dilution_bias(age, predicted, chosen),
            }
            for band, chosen in labelled.items()
        },
        "answer_band": {band: summarize(_in_band(predicted, band)) for band in AGE_BANDS},
        "sex_age_band": {
            f"{name} {band}": summarize(chosen & (sexes == name))
            for name in SEXES
            for band, chosen in labelled.items()
        },
    }
    if by:
        summary["by"] = {
            title: {name: summarize(chosen, with_line=True) for name, chosen in members.items()}
            for title, members in by.items()
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


def group_words(kind: str, name: str) -> str:
    """Return a group in words, such as `girls, 5 to 10 years`.

    Args:
        kind: The key of `groups`, or a title of `by`.
        name: The key of the group.
    """
    if kind in ("sex", "sex_age_band"):
        sex, _, band = name.partition(" ")
        return ", ".join(filter(None, (SEX_WORDS[sex], BAND_WORDS.get(band, ""))))
    if kind in ("age_band", "answer_band"):
        return f"{'label' if kind == 'age_band' else 'answer'} {BAND_WORDS[name]}"
    return f"{kind}: {name}"


def is_few(group: Mapping[str, Any]) -> bool:
    """Return whether a group has so few patients, or images, that its intervals are too narrow."""
    return int(group.get("patients") or group["n"]) < FEW


def coverage_rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of the table of prediction intervals, if they were measured.

    Args:
        metrics: The scores of a split, or those of `result.json`.
    """
    groups = metrics["groups"]
    rows = [("All images", metrics)]
    rows += [(words.capitalize(), groups["sex"][sex]) for sex, words in SEX_WORDS.items()]
    for band, words in BAND_WORDS.items():
        rows.append((f"Answer {words}", groups.get("answer_band", {}).get(band, {})))
    return [(words, part) for words, part in rows if part.get("n") and "coverage_90" in part]


def format_interval(part: Mapping[str, Any], spec: str = ".2f", *, factor: float = 1.0) -> str:
    """Return an interval as text, such as `[4.46, 5.55]`, or "" where there is none.

    Args:
        part: A metric with `low` and `high`.
        spec: Format of both ends; `+.1f` writes their signs.
        factor: Both ends are multiplied by it, for example 100 for percent.
    """
    low, high = part.get("low"), part.get("high")
    return "" if low is None or high is None else f"[{factor * low:{spec}}, {factor * high:{spec}}]"


_MEANS = ("mae_months", "bias_months", *(f"within_{months}_months" for months in WITHIN_MONTHS))
_METRICS = (*_MEANS[:1], "rmse_months", "median_absolute_error_months", *_MEANS[1:])
_LIMITS = ("low", "high")
_LINE = ("slope", "intercept_months", "concordance")


def _in_band(ages: Months, band: str) -> NDArray[np.bool_]:
    low, high = AGE_BANDS[band]
    return np.asarray((ages >= low) & (ages < high))


def _dilution_bias(age: Months, predicted: Months, chosen: NDArray[np.bool_]) -> float | None:
    """Return the bias of a band of labels that answers with a perfect calibration have, months.

    It is exact where labels and answers are jointly normal, and else off by a month or two.
    """
    spread = float(np.std(age) * np.std(predicted))
    if not chosen.any() or spread < _LEAST_VARIANCE:
        return None
    correlation = float(np.mean((age - age.mean()) * (predicted - predicted.mean()))) / spread
    return (1 - correlation**2) * float(age.mean() - age[chosen].mean())


def _summary(
    age: Months,
    predicted: Months,
    patients: NDArray[Any] | None,
    bootstrap: int,
    seed: int,
    with_line: bool,
    intervals: Mapping[int, tuple[Months, Months]],
) -> dict[str, Any]:
    """Return every metric of one group of labels and answers (n,), months."""
    members = number_groups(patients, len(age))
    units = int(members.max(initial=-1)) + 1
    held = {
        f"coverage_{percent}": (low <= age) & (age <= high)
        for percent, (low, high) in intervals.items()
    }
    sample = _Sample(age, predicted, members, units, with_line, held)
    whole = sample.metrics(np.ones((1, units), dtype=np.int64)) if units else {}
    weights = resample(units, bootstrap, seed) if units > 1 else ()
    drawn = [sample.metrics(rows) for rows in weights]

    def interval(name: str) -> dict[str, float | None]:
        value = float(whole[name][0]) if units else np.nan
        draws = np.concatenate([[value], *(each[name] for each in drawn)])
        low = high = None
        # A resample without a slope means that the slope rests on very few images.
        if drawn and np.isfinite(draws).all():
            tail = (100.0 - COVERAGE_PERCENT) / 2
            low, high = map(float, np.percentile(draws[1:], (tail, 100.0 - tail)))
        return {"value": value if np.isfinite(value) else None, "low": low, "high": high}

    scores: dict[str, Any] = {name: interval(name) for name in (*_METRICS, *held)}
    for percent, (low, high) in intervals.items():
        width = float(np.median(high - low)) if len(age) else None
        scores[f"median_width_{percent}_months"] = width
    if with_line:
        line = {name: interval(name) for name in _LINE}
        scores |= {"concordance": line.pop("concordance"), "calibration": line}
    limits = {end: interval(end) for end in _LIMITS}
    scores["limits_of_agreement_months"] = {end: limits[end].pop("value") for end in _LIMITS} | {
        f"{end}_interval": None if part["low"] is None else part for end, part in limits.items()
    }
    return {"n": len(age)} | ({} if patients is None else {"patients": units}) | scores


class _Sample:
    """Labels and answers of one group, to be scored again for every resample of its patients.

    A resample is a row of weights: how often each patient was drawn. The sums of all images then
    are a product of the weights with the sums of each patient.
    """

    def __init__(
        self,
        age: Months,
        predicted: Months,
        members: NDArray[np.intp],
        units: int,
        with_line: bool,
        shares: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Take labels and answers (n,), months, and the number of the patient of each image.

        `shares` has further facts (n,) of each image, whose share is a metric of that name.
        """
        self.units = units
        self._means = (*_MEANS, *shares)
        error = predicted - age
        # Deviations from a fixed age keep the sums of squares accurate.
        self._centre = float(age.mean()) if len(age) else 0.0
        x, y = predicted - self._centre, age - self._centre
        # 1e-9, because 12.3 - 0.3 exceeds 12 in binary
        within = [np.abs(error) <= months + 1e-9 for months in WITHIN_MONTHS]
        columns = [np.ones(len(age)), np.abs(error), error, *within, *shares.values(), error**2]
        columns += [x, y, x * x, x * y, y * y] if with_line else []
        self._sums = np.zeros((units, len(columns)))
        np.add.at(self._sums, members, np.stack(columns, axis=1))
        order = np.argsort(np.abs(error), kind="stable")
        self._sorted, self._sorted_members = np.abs(error)[order], members[order]
        self._spread = float(np.var(x)) if len(x) else 0.0
        self._has_line = len(x) > 2

    def metrics(self, weights: NDArray[np.int64]) -> dict[str, Months]:
        """Return each metric for every row of weights (rows, units): (rows,), NaN if undefined."""
        sums = weights.astype(np.float64) @ self._sums
        count, means = sums[:, 0], sums[:, 1:] / sums[:, :1]
        found = dict(zip(self._means, means.T, strict=False))
        found["rmse_months"] = np.sqrt(means[:, len(self._means)])
        found["median_absolute_error_months"] = self._medians(weights, count)
        bias, square = found["bias_months"], means[:, len(self._means)]
        with np.errstate(divide="ignore", invalid="ignore"):  # no deviation of one image
            deviation = np.sqrt((square - bias**2).clip(0) * count / (count - 1))
        for end, sign in zip(_LIMITS, (-1, 1), strict=True):
            found[end] = bias + sign * NORMAL_QUANTILE * deviation
        of_line = means[:, len(self._means) + 1 :].T
        return found | (dict(zip(_LINE, self._line(*of_line), strict=True)) if len(of_line) else {})

    def _medians(self, weights: NDArray[np.int64], count: Months) -> Months:
        """Return the median absolute error of every row of weights, from the sorted errors."""
        images = weights[:, self._sorted_members]
        reached = np.cumsum(images)  # on through all rows, so that one search serves them all
        before = np.cumsum(count) - count
        places = [
            np.searchsorted(reached, before + each // 2, "right") for each in (count - 1, count)
        ]
        lower, upper = (self._sorted[place % len(self._sorted)] for place in places)
        return np.asarray((lower + upper) / 2)

    def _line(
        self, x: Months, y: Months, xx: Months, xy: Months, yy: Months
    ) -> tuple[Months, Months, Months]:
        """Return slope and intercept of the label y on the answer x, and Lin's coefficient."""
        of_x, of_y, together = xx - x * x, yy - y * y, xy - x * y
        # Rounding leaves a little variance where all answers drawn are equal.
        has_slope = self._has_line & (of_x > max(1e-9 * self._spread, _LEAST_VARIANCE))
        slope = np.divide(together, of_x, out=np.full_like(x, np.nan), where=has_slope)
        apart = of_x + of_y + (x - y) ** 2
        has_agreement = self._has_line & (apart > _LEAST_VARIANCE)
        concordance = np.divide(
            2 * together, apart, out=np.full_like(x, np.nan), where=has_agreement
        )
        return slope, y + self._centre - slope * (x + self._centre), concordance


def _check_lengths(age: Months, *others: NDArray[Any] | None) -> None:
    lengths = [len(age), *(len(each) for each in others if each is not None)]
    if len(set(lengths)) > 1:
        what = ("ages", "predictions", "sexes", "patients")
        counted = ", ".join(f"{n} {name}" for n, name in zip(lengths, what, strict=False))
        raise ValueError(f"score: {counted}; the numbers must be equal.")
    if not len(age):
        raise ValueError("score: there are no predictions; expected at least one.")


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
