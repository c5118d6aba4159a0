"""The age of a child on a day, in months."""

from __future__ import annotations

from datetime import date

OLDEST_MONTHS = 40 * 12
"""A greater age is a placeholder, such as a birth date in 1900."""
DAYS_IN_MONTH = 365.2425 / 12


def months_between(born: date, examined: date) -> float:
    """Return an age in months, which is negative for a birth after the examination."""
    return (examined - born).days / DAYS_IN_MONTH
