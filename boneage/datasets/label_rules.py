"""What an age, a sex, a split and a region of a manifest may be, and how an age is written.

This module imports no pandas, so that `boneage predict` may know what a sex is.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLUMN_RULES = {
    "image_id": "Unique text. `007` stays `007`.",
    "image": "Path of the file, relative to the manifest. An image is in one split only.",
    "age_months": "Labelled bone age in months, 0 to 240. A column that never exceeds 25 is "
    "refused as years, unless every `source` says `infants`.",
    "sex": "`F` or `M`.",
    "split": "`train`, `val` or `test`. It is fixed in the file, so it can't change between runs.",
}
"""What the columns that a manifest must have hold."""
OPTIONAL_RULES = {
    "patient_id": "Text. All images of a patient are in one split and have one sex. Empty is a "
    "patient of its own. Confidence intervals draw whole patients.",
    "chronological_age_months": "Months since birth. It may be empty.",
    "region": "`left top right bottom` in pixels: the part of the image to use. Empty means all "
    "of it.",
    "source": "Text that names the dataset. `seeded` in it marks a split made by boneage. "
    "`training.balance_sources` balances the sources.",
}
COLUMNS = tuple(COLUMN_RULES)
OPTIONAL_COLUMNS = tuple(OPTIONAL_RULES)
SEXES = ("F", "M")
SPLITS = ("train", "val", "test")
SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Other people's names of the splits, in lower case."""
SEX_OF_WORD = {
    word: sex
    for sex, words in (
        ("F", "f female girl woman w weiblich weibl. mädchen maedchen fille femme féminin niña"),
        ("F", "mujer femenino femenina feminino menina femminile femmina k\u0131z vrouw"),
        ("F", "meisje kobieta dziewczynka жен женский 女 女性 女孩 여 여자 여성 ♀"),
        ("M", "m male boy man männlich männl. maennlich junge knabe garçon homme masculin niño"),
        ("M", "hombre varón masculino menino maschile maschio erkek jongen"),
        ("M", "mężczyzna chłopiec муж мужской 男 男性 男孩 남 남자 남성 ♂"),
    )
    for word in words.split()
}
"""Words for a sex, in lower case. No digit, and no letter that means the other sex elsewhere."""
MAX_AGE_MONTHS = 240.0
"""Largest bone age accepted; the oldest labels of RSNA and RHPE are 228 and 240 months."""
YEARS_SUSPECTED_BELOW = 25.0
"""A column of ages with no greater value is refused as months, since it is probably in years."""
INFANTS = "infants"
"""The word in the column `source` that says that all children of a dataset are that young."""

Region = tuple[int, int, int, int]
"""Part of a radiograph: left, top, right, bottom in pixels; the last two are just outside."""

_LARGEST_AS_YEARS = 19.0  # months: as years, the bone age of a full-grown person
_NO_INFANT = 48.0  # months
_MAX_DIGITS = 7  # of a number of a region


def is_possible_age(months: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each bone age whether it is from 0 to `MAX_AGE_MONTHS`; False for NaN."""
    return np.asarray((months >= 0) & (months <= MAX_AGE_MONTHS))


def is_probably_years(months: NDArray[np.float64]) -> bool:
    """Return whether a column of months is probably in years: its largest value is too small."""
    largest = np.where(np.isnan(months), -np.inf, months).max(initial=-np.inf)
    return bool(0 < largest <= YEARS_SUSPECTED_BELOW)


def years_and_months(months: float) -> str:
    """Return an age as people write it: `12 y 7 m` for 151.3 months, rounded to whole months."""
    total = round(abs(months))
    sign = "-" if months < 0 < total else ""
    return f"{sign}{total // 12} y {total % 12} m"


def suspect_age_unit(months: NDArray[np.float64]) -> str:
    """Return what a column of months probably holds instead of months; "" for no suspicion.

    Args:
        months: float64 (n,); NaN is ignored.

    Returns:
        Such as "years": the end of a sentence that begins with "the ages are probably".
    """
    if not is_probably_years(months):
        return ""
    if bool((months < 0).any()):
        return "standardized (some are negative)"
    return "scaled to 0 to 1" if float(np.nanmax(months)) <= 1 else "in years"


def doubtful_ages(months: NDArray[np.float64], *, may_be_years: bool = True) -> list[str]:
    """Return doubts about ages that are possible: zeros, and years among months.

    Args:
        months: float64 (n,); NaN is ignored.
        may_be_years: Whether the ages were written in months.
    """
    doubts = []
    if zeros := np.count_nonzero(months == 0):
        doubts.append(
            f"{zeros:,} of {months.size:,} ages are 0 and may be missing values, if no child is a "
            "newborn"
        )
    small = months[(months > 0) & (months <= _LARGEST_AS_YEARS)]
    others = months[months > _LARGEST_AS_YEARS]
    reason = ""
    if others.size and others.min() >= _NO_INFANT:
        reason = f"no other is below {others.min():g} months"
    elif others.size and not (others % 1).any():
        small, reason = small[small % 1 > 0], "no other has decimals"
    if may_be_years and small.size and reason:
        doubts.append(
            f"{small.size:,} of {months.size:,} ages are at most {small.max():g} months, and "
            f"{reason}, so that they may be years"
        )
    return doubts


def parse_sex(text: str) -> str:
    """Return F or M for a sex as people write it (f, Female, girl, weiblich), "" for others."""
    return SEX_OF_WORD.get(unicodedata.normalize("NFC", text).strip().casefold(), "")


def image_path(folder: Path, name: str) -> Path:
    """Return the path of an `image` of a manifest in `folder` (absolute, links resolved).

    `..` is removed from the path, so that it is right before `folder` itself exists.
    """
    return Path(os.path.normpath(folder / name))


def parse_region(text: str) -> Region | None:
    """Return the four numbers of a `region` cell, or None if they enclose nothing."""
    parts = text.split(" ")
    if len(parts) != 4 or not all(
        len(part) <= _MAX_DIGITS and part.isascii() and part.isdigit() for part in parts
    ):
        return None
    left, top, right, bottom = map(int, parts)
    return (left, top, right, bottom) if left < right and top < bottom else None
