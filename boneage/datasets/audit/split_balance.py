"""What the labels of a cohort tell as a whole: splits that differ, digits that readers prefer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.manifest import SEXES, SPLITS
from boneage.datasets.tables import Cells, Finding
from boneage.datasets.validation import ManifestValidation
from boneage.errors import Fault

AGE_GAP = 0.2
"""Largest distance of two age distributions (Kolmogorov-Smirnov) that a split may have."""
SEX_GAP = 0.1
"""Largest difference in the share of boys that a split may have."""
WHOLE_YEARS = 0.25
"""Share of ages in whole years from which readers are said to prefer them; chance gives 1/12."""

_FEWEST = 30
_CHANCE = 0.001  # both must hold: large enough to matter, and not by chance


def balance_findings(validation: ManifestValidation) -> list[Finding]:
    """Splits whose ages or sexes differ much from the training images', beyond chance."""
    table = validation.cells.table
    if not {"split", "sex"} <= set(table.columns):
        return []
    splits = np.array(table["split"], dtype=str)
    sexes = np.array(table["sex"], dtype=str)
    known = validation.has_possible_age & np.isin(sexes, SEXES)
    train = known & (splits == SPLITS[0])
    findings = []
    for split in SPLITS[1:]:
        other = known & (splits == split)
        if min(train.sum(), other.sum()) < _FEWEST:
            continue
        for code, what in _differences(validation.ages, sexes == "M", train, other, split):
            fault = Fault(
                validation.cells.where,
                what,
                "Draw the splits anew (`boneage data import` does it by age and sex), or say with "
                "every result whom it was measured on.",
                expected="splits that are alike in age and sex",
            )
            findings.append(Finding(code, fault))
    return findings


def digit_findings(validation: ManifestValidation) -> list[Finding]:
    """Whether readers rounded: more whole years among the ages than chance gives."""
    ages = validation.ages[validation.has_possible_age]
    if len(ages) < _FEWEST or _only_years(validation.cells, ages):
        return []
    whole = float((np.abs(ages / 12 - np.rint(ages / 12)) < 1e-6).mean())
    half = float((np.abs(ages / 6 - np.rint(ages / 6)) < 1e-6).mean()) - whole
    if whole < WHOLE_YEARS:
        return []
    fault = Fault(
        validation.cells.where,
        f"{whole:.0%} of the ages are whole years and {half:.0%} half years",
        "Readers round to the atlas's plates: an error below about 3 months means little.",
        expected="8 % each by chance",
    )
    return [Finding("digit-preference", fault)]


def _only_years(cells: Cells, ages: NDArray[np.float64]) -> bool:
    """Whether the whole table was given in years without months: that is a unit, not a habit."""
    return bool((np.abs(ages / 12 - np.rint(ages / 12)) < 1e-6).all())


def _differences(
    ages: NDArray[np.float64],
    boys: NDArray[np.bool_],
    train: NDArray[np.bool_],
    other: NDArray[np.bool_],
    split: str,
) -> Iterator[tuple[str, str]]:
    n, m = int(train.sum()), int(other.sum())
    gap = _distance(ages[train], ages[other])
    # Two-sided bound of the Kolmogorov-Smirnov distance for two samples (Smirnov 1948).
    if gap > max(AGE_GAP, math.sqrt(-math.log(_CHANCE / 2) / 2 * (n + m) / (n * m))):
        yield (
            "age-imbalance",
            f"ages in {split} (median {np.median(ages[other]):g} months) differ from those in "
            f"train (median {np.median(ages[train]):g}): the distributions are "
            f"{gap:.0%} apart (Kolmogorov-Smirnov)",
        )
    share, pooled = boys[other].mean() - boys[train].mean(), boys[train | other].mean()
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    if abs(share) > max(SEX_GAP, 3.29 * spread):  # 3.29 standard errors: 1 in 1,000
        yield (
            "sex-imbalance",
            f"{boys[other].mean():.0%} of {split} are boys, {boys[train].mean():.0%} of train",
        )


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Largest difference between the two cumulative distributions."""
    at = np.concatenate([one, other])
    first = np.searchsorted(np.sort(one), at, side="right") / len(one)
    second = np.searchsorted(np.sort(other), at, side="right") / len(other)
    return float(np.abs(first - second).max())
