"""Statistics of values that come in pairs, such as the errors of two models on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 1_000_000  # keeps the memory of any cohort within a few tens of MB
_ROUNDING = 1e-12  # sums in another order differ by this share of their terms
_POWER_80 = 1.959964 + 0.841621  # normal quantiles at 97.5 % and 80 %


def number_groups(groups: Sequence[Any] | NDArray[Any] | None, count: int) -> NDArray[np.intp]:
    """Return the number of each row's group, from 0, in the order of first appearance.

    Args:
        groups: (n,) names, such as `patient_id`. None: every row is a group of its own. So is a
            row whose name is empty, None or NaN.
        count: n.

    Raises:
        ValueError: There are not n names.
    """
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"{count} values but {len(groups)} groups; the numbers must be equal.")
    known: dict[Any, int] = {}
    keys = (
        (row,) if name is None or name == "" or name != name else name
        for row, name in enumerate(groups)
    )
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.intp)


def bootstrap_mean(
    values: ArrayLike,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, float | None]:
    """Return the mean with its 95 % percentile interval from a bootstrap of whole groups.

    Groups are drawn with replacement, and all rows of a drawn group count (Davison & Hinkley,
    Bootstrap Methods and their Application, 1997, section 3.8). A cohort that holds every image
    twice has the same interval as the cohort that holds it once, if copies share a group.

    Args:
        values: (n,) finite numbers, such as months.
        groups: (n,) names as for `number_groups`.
        draws: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        `value`, `low` and `high`. The interval is None for fewer than two groups, and the value
        for no rows.

    Raises:
        ValueError: A value is not finite, the lengths differ, or `draws` is below 1.
    """
    rows = _checked(values, draws)
    if not len(rows):
        return {"value": None, "low": None, "high": None}
    sums, sizes = _group_totals(rows, groups)
    means = _resampled_means(sums, sizes, draws, seed)
    low, high = (None, None) if len(sums) < 2 else map(float, np.percentile(means, (2.5, 97.5)))
    return {"value": float(rows.mean()), "low": low, "high": high}


def paired_difference(
    absolute_error_a: ArrayLike,
    absolute_error_b: ArrayLike,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two models on the same images by the mean of A's minus B's absolute error.

    The interval is that of `bootstrap_mean`. The permutation test swaps A and B at random within
    each group, which flips the sign of the group's differences (Good, Permutation, Parametric and
    Bootstrap Tests of Hypotheses, 2005, section 3.7). It is exact if there are at most `draws`
    ways to swap.

    Args:
        absolute_error_a: (n,) absolute errors of A, months.
        absolute_error_b: (n,) absolute errors of B on the same images, months.
        groups: (n,) names as for `number_groups`, such as `patient_id`.
        draws: Number of resamples, and of random swaps.
        seed: Seed of both.

    Returns:
        `n`; `groups`, their number; `value`, `low` and `high` (95 %); `one_sided_high`: the
        difference is below it with 95 % confidence, which judges non-inferiority; `p`: two-sided;
        `detectable`: the smallest true difference that so many groups show at 80 % power (two-sided
        5 %). Months, below zero if A is better. None for fewer than two groups.

    Raises:
        ValueError: As for `bootstrap_mean`, or there are no images.
    """
    a, b = _checked(absolute_error_a, draws), _checked(absolute_error_b, draws)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} errors of A and {len(b)} of B; expected equally many, not 0.")
    difference = a - b
    sums, sizes = _group_totals(difference, groups)
    found: dict[str, Any] = {"n": len(a), "groups": len(sums), "value": float(difference.mean())}
    if len(sums) < 2:
        return found | dict.fromkeys(("low", "high", "one_sided_high", "p", "detectable"))
    means = _resampled_means(sums, sizes, draws, seed)
    low, one_sided, high = map(float, np.percentile(means, (2.5, 95.0, 97.5)))
    found |= {"low": low, "high": high, "one_sided_high": one_sided}
    error = standard_error(difference, groups)
    return found | {"p": _permutation_p(sums, draws, seed), "detectable": _POWER_80 * error}


def standard_error(values: ArrayLike, groups: Sequence[Any] | NDArray[Any] | None = None) -> float:
    """Return the standard error of a mean of rows that belong to groups.

    Args:
        values: (n,) finite numbers.
        groups: (n,) names as for `number_groups`: at least two groups.
    """
    rows = _checked(values, 1)
    sums, sizes = _group_totals(rows, groups)
    deviations = sums - sizes * rows.mean()
    return math.sqrt(np.sum(deviations**2) * len(sums) / (len(sums) - 1)) / len(rows)


def _checked(values: ArrayLike, draws: int) -> Floats:
    rows = np.asarray(values, dtype=np.float64).reshape(-1)
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1.")
    if broken := int(np.sum(~np.isfinite(rows))):
        raise ValueError(f"{broken} of {len(rows)} values are not finite.")
    return rows


def resample(count: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of `count` groups is drawn with replacement: (rows, count).

    All rows together are `draws`; the memory of any cohort stays within a few tens of MB.
    """
    generator = np.random.default_rng(seed)
    for rows in _parts(draws, count):
        drawn = generator.integers(0, count, size=(rows, count), dtype=np.int32)
        cells = drawn + count * np.arange(rows)[:, None]
        yield np.bincount(cells.reshape(-1), minlength=rows * count).reshape(rows, count)


def _group_totals(
    values: Floats, groups: Sequence[Any] | NDArray[Any] | None
) -> tuple[Floats, Floats]:
    """Return the sum and the number of rows of each group, both (g,)."""
    numbers = number_groups(groups, len(values))
    sums = np.zeros(int(numbers.max()) + 1)
    np.add.at(sums, numbers, values)
    return sums, np.bincount(numbers).astype(np.float64)


def _parts(draws: int, count: int) -> Iterator[int]:
    """Yield how many draws of `count` groups are made at once."""
    chunk = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, draws, chunk):
        yield min(chunk, draws - start)


def _resampled_means(sums: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    weights = resample(len(sums), draws, seed)
    return np.concatenate([rows @ sums / (rows @ sizes) for rows in weights])


def _permutation_p(sums: Floats, draws: int, seed: int) -> float:
    """Return the two-sided p of the sum of (g,) differences whose signs may all be flipped."""
    count = len(sums)
    limit = abs(sums.sum()) - _ROUNDING * np.abs(sums).sum()
    if 2**count <= draws:
        swaps = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * swaps) @ sums) >= limit))
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _parts(draws, count):
        signs = 1.0 - 2.0 * generator.integers(0, 2, size=(rows, count), dtype=np.int8)
        extreme += int(np.sum(np.abs(signs @ sums) >= limit))
    return (extreme + 1) / (draws + 1)  # the observed signs are one of the draws
