"""How an age is written, and what an age and a sex may be."""

from __future__ import annotations

import numpy as np
import pytest

from boneage.datasets.label_rules import parse_sex, suspect_age_unit, years_and_months


@pytest.mark.parametrize(
    ("months", "text"),
    [
        (0.0, "0 y 0 m"),
        (11.4, "0 y 11 m"),
        (11.6, "1 y 0 m"),  # rounded before it is divided: never "0 y 12 m"
        (151.3, "12 y 7 m"),
        (240.0, "20 y 0 m"),
        (-0.4, "0 y 0 m"),
        (-14.0, "-1 y 2 m"),
    ],
)
def test_an_age_in_years_and_months(months: float, text: str) -> None:
    assert years_and_months(months) == text


@pytest.mark.parametrize(
    ("ages", "what"),
    [
        ([10.6, 14.1, np.nan], "in years"),
        ([0.2, 0.9, 1.0], "scaled to 0 to 1"),
        ([-1.2, 0.3, 2.0], "standardized (some are negative)"),
        ([10.6, 126.0], ""),
        ([-1.0, 126.0], ""),
        ([np.nan], ""),
        ([], ""),
    ],
)
def test_the_unit_that_a_column_of_months_probably_has(ages: list[float], what: str) -> None:
    assert suspect_age_unit(np.array(ages, np.float64)) == what


@pytest.mark.parametrize(
    ("text", "sex"),
    [
        *((text, "F") for text in ("F", "f", "Female", "girl", "weiblich", "W", "ni\u00f1a", "女")),
        *((text, "F") for text in ("Femme", "K\u0131z", "Meisje", "Kobieta", "жен", "여")),
        *((text, "M") for text in ("Homme", "ERKEK", "Jongen", "mężczyzna", "МУЖ", "남자")),
        *((text, "M") for text in ("M", " m ", "MALE", "Boy", "ma\u0308nnlich", "Garçon", "♂")),
        *((text, "") for text in ("", "x", "0", "1", "2", "h", "unknown", "diverse")),
    ],
)
def test_a_sex_as_people_write_it(text: str, sex: str) -> None:
    assert parse_sex(text) == sex
