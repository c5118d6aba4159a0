"""How an age is written."""

from __future__ import annotations

import pytest

from boneage.datasets.label_rules import years_and_months


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
