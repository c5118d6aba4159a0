"""Compare the labels of the splits, and find ages that readers have rounded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.cells import Finding
from boneage.datasets.label_rules import SEXES, SPLITS
from boneage.datasets.validation import ManifestValidation
from boneage.errors import Fault

AGE_GAP = 0.2
"""Largest Kolmogorov-Smirnov distance of two splits' ages that is accepted."""
SEX_GAP = 0.1
"""Largest difference in the share of boys that is accepted."""
WHOLE_YEARS = 0.25
"""Share of ages in whole years from which readers are said to round; by chance it is 1/12."""

_MIN_IMAGES = 30
_CHANCE = 0.001  # a difference must be both large enough to matter and no chance


def balance_findings(validation: ManifestValidation) -> list[Finding]:
    """Return the splits whose ages or sexes differ much from train, beyond chance."""
    table = validation.cells.table
    if not {"split", "sex"} <= set(table.columns):
        return []
    splits = np.array(table["split"], dtype=str)
    sexes = np.array(table["sex"], dtype=str)
    known = validation.has_possible_age & np.isin(sexes, SEXES)
    train = known & (splits == "train")
    findings = []
    for split in SPLITS[1:]:
        other = known & (splits == split)
        if min(train.sum(), other.sum()) < _MIN_IMAGES:
            continue
        for code, what in _differences(validation.ages, sexes == "M", train, other, split):
            fix = (
                "Assign the splits again; boneage data import balances age and sex. Otherwise "
                "report the difference with every result."
            )
            findings.append(Finding(code, Fault(validation.cells.where, what, fix)))
    return findings


def digit_findings(validation: ManifestValidation) -> list[Finding]:
    """Return whether readers have rounded: more whole years than chance gives."""
    ages = validation.ages[validation.has_possible_age]
    whole = _share_of_multiples(ages, 12)
    # A table of whole years only has another unit: nobody has rounded.
    if len(ages) < _MIN_IMAGES or not WHOLE_YEARS <= whole < 1:
        return []
    half = _share_of_multiples(ages, 6) - whole
    fault = Fault(
        validation.cells.where,
        f"{whole:.0%} of the ages are whole years and {half:.0%} half years; by chance each is 8 %",
        "Readers round to the plates of the atlas, so an error below about 3 months means little.",
    )
    return [Finding("digit-preference", fault)]


def _share_of_multiples(ages: NDArray[np.float64], months: int) -> float:
    if not len(ages):
        return 0.0
    return float((np.abs(ages / months - np.rint(ages / months)) < 1e-6).mean())


def _differences(
    ages: NDArray[np.float64],
    is_boy: NDArray[np.bool_],
    train: NDArray[np.bool_],
    other: NDArray[np.bool_],
    split: str,
) -> Iterator[tuple[str, str]]:
    from scipy.stats import ks_2samp  # its import takes a second

    test = ks_2samp(ages[train], ages[other], method="asymp")
    if test.statistic > AGE_GAP and test.pvalue < _CHANCE:
        yield (
            "age-imbalance",
            f"the ages in {split} (median {np.median(ages[other]):g} months) differ from those in "
            f"train (median {np.median(ages[train]):g}): their Kolmogorov-Smirnov distance is "
            f"{test.statistic:.2f}",
        )
    n, m = int(train.sum()), int(other.sum())
    difference, pooled = is_boy[other].mean() - is_boy[train].mean(), is_boy[train | other].mean()
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    if abs(difference) > max(SEX_GAP, 3.29 * deviation):  # 3.29 standard errors: 1 in 1,000
        yield (
            "sex-imbalance",
            f"{is_boy[other].mean():.0%} of {split} are boys, but in train "
            f"{is_boy[train].mean():.0%} are",
        )
