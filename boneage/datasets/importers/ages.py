"""Convert ages as people write them (months, years, days, 10y6m) to months."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.label_rules import MAX_AGE_MONTHS
from boneage.datasets.tables import Cells, Finding
from boneage.datasets.validation import age_findings, describe_cell, numbers, years_findings

MONTHS_IN = {"months": 1.0, "years": 12.0, "days": 12 / 365.25}
"""Months in one of each unit that is a plain number; a year is 365.25 days."""
UNITS = (*MONTHS_IN, "years-months")
"""Values of `--age-unit`; `years-months` is text such as 10y6m, 10-06 or 10;6."""

_YEARS_AND_MONTHS = re.compile(
    r"""(?: (?P<years>[0-9]{1,2}) \s* (?:y|yr|yrs|year|years|j|jahr|jahre)\.? )?
        \s*,?\s*
        (?: (?P<months>[0-9]{1,2}) \s* (?:m|mo|mos|mon|month|months|monat|monate)\.? )?
      | (?P<y>[0-9]{1,2}) \s*[-;]\s* (?P<m>[0-9]{1,2})""",
    re.IGNORECASE | re.VERBOSE,
)
_COMMA = re.compile(r"[+-]?[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})")
_EXAMPLE = {
    "months": "Write months with a decimal point",
    "years": "Write years with a decimal point, such as 10.5 for 10 years and 6 months",
    "days": "Write whole days",
    "years-months": "Write 10y6m or 10-06. In Excel, format the column as text first",
}


def ages_in_months(
    cells: Cells, column: str, unit: str, option: str
) -> tuple[NDArray[np.float64], list[Finding]]:
    """Return a column of bone ages in months, and the cells that are no age in that unit.

    Args:
        cells: The table, which has the column.
        column: The column of the ages.
        unit: One of `UNITS`.
        option: The option for the unit, as messages say it.

    Returns:
        float64 (n,), NaN where there is a finding, and the findings.
    """
    months, texts = _months(cells, column, unit), cells.table[column]
    if unit == "months":
        fix = f"Are the ages in years? Pass {option} years."
        findings = age_findings(cells, column, months)
        return months, findings + years_findings(cells, column, months, fix)
    findings = cells.row_findings(
        "bad-age",
        np.flatnonzero(np.isnan(months)),
        lambda row: describe_cell(column, texts[row]),
        _expected(unit),
        f"{_EXAMPLE[unit]}. An image without an age can't be used.",
    )
    code = "months-as-years" if unit == "years" else "impossible-age"
    return months, findings + _outside(cells, column, unit, option, months, MAX_AGE_MONTHS, code)


def chronological_in_months(
    cells: Cells, column: str, unit: str, option: str
) -> tuple[NDArray[np.float64], list[Finding]]:
    """Do the same for chronological ages, which may be empty and twice as great."""
    months, texts = _months(cells, column, unit), cells.table[column]
    findings = cells.row_findings(
        "bad-chronological-age",
        np.flatnonzero(np.isnan(months) & (texts != "").to_numpy()),
        lambda row: f"{column} is {texts[row]!r}",
        f"{_expected(unit)}, or nothing",
        f"{_EXAMPLE[unit]}, or leave it empty.",
    )
    if unit == "months":
        fix = f"Are the ages in years? Pass {option} years."
        findings += years_findings(cells, column, months, fix)
    code = "bad-chronological-age"
    return months, findings + _outside(
        cells, column, unit, option, months, 2 * MAX_AGE_MONTHS, code
    )


def has_decimal_commas(texts: Sequence[str]) -> bool:
    """Return whether a column has decimal commas: no point anywhere, never three decimals."""
    return any(map(_COMMA.fullmatch, texts)) and not any(
        "." in text or ("," in text and not _COMMA.fullmatch(text)) for text in texts
    )


def _months(cells: Cells, column: str, unit: str) -> NDArray[np.float64]:
    texts = cells.table[column].tolist()
    if unit == "years-months":
        return np.array([_years_and_months(text) for text in texts], np.float64)
    if has_decimal_commas(texts):
        points = pd.DataFrame({column: [text.replace(",", ".") for text in texts]}, dtype=str)
        cells = replace(cells, table=points)
    return numbers(cells, column) * MONTHS_IN[unit]


def _years_and_months(text: str) -> float:
    found = _YEARS_AND_MONTHS.fullmatch(text)
    if found is None:
        return np.nan
    years, months = found["years"] or found["y"], found["months"] or found["m"]
    if years is None and months is None:
        return np.nan
    if years is not None and int(months or 0) > 11:  # 10-12 is a mistake, or a date
        return np.nan
    return 12.0 * int(years or 0) + int(months or 0)


def _expected(unit: str) -> str:
    if unit == "years-months":
        return "years and months such as 10y6m or 10-06"
    return f"a number of {unit}"


def _outside(
    cells: Cells,
    column: str,
    unit: str,
    option: str,
    months: NDArray[np.float64],
    most: float,
    code: str,
) -> list[Finding]:
    """Return ages below zero or too great, and a column of days that are probably months."""
    texts = cells.table[column]
    outside = (months < 0) | (months > most)
    if unit == "years-months":
        expected, fix = f"from 0 to {most / 12:g} years", "Correct the label."
    else:
        size = MONTHS_IN[unit]
        median = "unknown" if np.isnan(months).all() else f"{np.nanmedian(months / size):.4g}"
        expected = f"{unit} from 0 to {most / size:g}; the median of the column is {median}"
        other = "years" if unit == "months" else "months"
        fix = f"Are the ages in {other}? Pass {option} {other}. Otherwise correct the label."
        known = months[~np.isnan(months)]
        if 2 * np.count_nonzero(outside) <= known.size:  # the others are in that unit
            fix = "Correct the label."
    findings = cells.row_findings(
        code,
        np.flatnonzero(outside),
        lambda row: f"{column} is {texts[row]}",
        expected,
        fix,
    )
    known = months[~np.isnan(months)]
    if unit == "days" and known.size and 0 < known.max() / MONTHS_IN[unit] <= MAX_AGE_MONTHS:
        findings += cells.row_findings(
            "months-as-days",
            [int(np.nanargmax(months))],
            lambda row: f"{column} is {texts[row]}, the largest of the column",
            expected,
            f"Are the ages in months or years? Pass {option} months or {option} years.",
        )
    return findings
