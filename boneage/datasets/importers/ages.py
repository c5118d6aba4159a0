"""Convert ages as people write them (months, years, days, 10y6m) to months."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from boneage.datasets.cells import Cells, Finding
from boneage.datasets.label_rules import MAX_AGE_MONTHS, doubtful_ages
from boneage.datasets.number_columns import NumberColumn, ascii_digits, read_numbers
from boneage.datasets.validation import describe_cell, years_findings
from boneage.errors import Fault

MONTHS_IN = {"months": 1.0, "years": 12.0, "days": 12 / 365.25, "decimal-years": 12.0}
"""Months in one of each unit that is a plain number; a year is 365.25 days."""
UNITS = (*MONTHS_IN, "years-months")
"""Values of `--age-unit`.

`years-months` is text such as 10y6m, 10-06, 10;6 or 10 6/12. `decimal-years` are years whose
decimals are not questioned.
"""
YEARS_MONTHS_CHANCE = 0.006
"""Years such as 10.11 are questioned if most hundredths are at most .11, and this is less likely.

Among decimal years that are not whole, 11 of 99 hundredths are that small. Three of three are so
by chance in 1 of 730 tables, three of four in 1 of 199. A needless question costs an option; none
costs 5 months of error.
"""

_WORDS = {  # months in a unit, by the words for it
    word: months
    for months, words in (
        (12, "y yr yrs year years yo j jahr jahre jahren jaar a an ans año años ano anos anni"),
        (12, "ani let roku tahun tuổi év vuotta"),
        (12, "anno år lat lata rok jr yaş yil y\u0131l \u0433 л лет год года سنة سنوات"),
        (12, "年 岁 周岁 岁零 歲 歳 才 세"),
        (1, "m mo mos mon mth mths month months monat monate monaten maand maanden mois mes"),
        (1, "mdr måned måneder kuukautta hónap luni bulan tháng měsíc měsíce měsíců ヵ月"),
        (1, "mies miesiąc miesiące miesięcy mån månad månader mnd ay м شهر أشهر"),
        (1, "meses mês mesi mese мес месяц месяца месяцев 月 个月 個月 ヶ月 か月 カ月 개월"),
    )
    for word in words.split()
}
_LONGEST = 60  # letters of an age
_TENTHS = 3  # cells such as 10.6, beside which one 10.11 is a question
_PAIRS = re.compile(
    r"p?(?P<n>[0-9]{1,3})\s*(?P<word>[^\W\d_]+)\.?"
    r"(?:\s*(?:[-+/,&]|and|und|et|e|y|en|och|i|и)?\s*(?P<m>[0-9]{1,2})\s*(?P<then>[^\W\d_]+)\.?)?"
)
_SIGNS = re.compile(r"(?P<y>[0-9]{1,2})\s*[-;:]\s*(?P<m>[0-9]{1,2})")
_DOTTED = re.compile(r"(?P<y>[0-9]{1,2})[.,](?P<m>[0-9]{1,2})")
_DECIMAL = re.compile(r"[0-9]+[.,][0-9]+")
_FRACTION = re.compile(
    r"(?P<y>[0-9]{1,2})[\s+-]+(?P<n>[0-9]{1,2})/(?P<d>12|6|4|3|2)(?:\s*(?P<word>[^\W\d_]+)\.?)?"
)
_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-z]*"
_DATE = re.compile(
    rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}.*|[0-9]{{2}}:[0-9]{{2}}:.*|{_MONTH}[. -]+[0-9]+"
    rf"|[0-9]+[. -]+{_MONTH}\.?|[0-9]{{1,2}}\.[0-9]{{1,2}}\."
    rf"|[0-9]{{1,2}}([./])[0-9]{{1,2}}\1[0-9]{{2,4}}",
    re.IGNORECASE,
)
_EXAMPLE = {
    "months": "Write months with a decimal point",
    "years": "Write years with a decimal point, such as 10.5 for 10 years and 6 months",
    "days": "Write whole days",
    "years-months": "Write 10y6m or 10-06. In Excel, format the column as text first",
}
_WAS_A_DATE = (
    "It is a date: did a spreadsheet make it of 10-06 or 10.11? Write the age as text. "
    "Is it a date of birth? Calculate the age"
)


@dataclass(frozen=True)
class Ages:
    """A column of ages.

    Attributes:
        months: float64 (n,), NaN where there is a finding, or nothing in the cell.
        findings: The cells that are no age in the unit.
        notes: What is doubtful, but no fault.
    """

    months: NDArray[np.float64]
    findings: list[Finding]
    notes: list[str]


def read_ages(
    cells: Cells,
    column: str,
    unit: str,
    option: str,
    *,
    is_chronological: bool = False,
    may_be_empty: bool = False,
    shown: Sequence[str] | None = None,
) -> Ages:
    """Read a column of ages.

    Args:
        cells: The table, which has the column.
        column: The column of the ages.
        unit: One of `UNITS`.
        option: The option for the unit, as messages say it.
        is_chronological: Whether these are ages since birth: cells may be empty, and ages twice as
            great as a bone age.
        may_be_empty: Whether a cell without an age is no fault of the table.
        shown: The cells as messages may show them; None for the cells as they are.
    """
    texts = cells.table[column].tolist()
    if unit == "years-months":
        found = _read_years_and_months(texts)
    else:
        found = read_numbers(texts, has_thousands=unit == "days")
    months = found.numbers * MONTHS_IN.get(unit, 1.0)
    if shown is not None:
        cells = replace(cells, table=cells.table.assign(**{column: list(shown)}))
    most = MAX_AGE_MONTHS * (2 if is_chronological else 1)
    may_be_empty = may_be_empty or is_chronological
    findings = _bad_cells(cells, column, unit, option, found, may_be_empty=may_be_empty)
    findings += _outside(cells, column, unit, option, months, most)
    if unit == "months":
        fix = f"Are the ages in years? Pass {option} years."
        findings += years_findings(cells, column, months, fix)
    if unit == "years":
        findings += _question_years(cells, column, option, texts)
    notes = []
    if found.has_commas:
        notes.append(f"{column} was read with decimal commas: 10,5 is 10.5.")
    if not is_chronological:
        doubts = doubtful_ages(months, may_be_years=unit == "months")
        notes += [f"In {column}, {doubt}." for doubt in doubts]
    return Ages(months, findings, notes)


def is_years_and_months(text: str) -> bool:
    """Return whether a cell is an age in years and months, such as 10y6m, 10-06 or 10 6/12."""
    return not np.isnan(_read_years_and_months([text]).numbers).any()


def _read_years_and_months(texts: Sequence[str]) -> NumberColumn:
    texts = [_plain(text) if len(text) <= _LONGEST else "" for text in texts]
    after = Counter(found["m"] for text in texts if (found := _DOTTED.fullmatch(text)))
    is_padded = any(len(digits) > 1 and digits < "10" for digits in after)
    dotted = [f"{month:02d}" if is_padded else str(month) for month in range(12)]
    if not is_padded and not after["10"]:
        dotted.remove("1")  # 10.1 may be a number 10.10 that lost its zero
    count = sum(after[digits] for digits in dotted)
    # Tenths alone may be decimal years.
    is_dotted = 2 * count > sum(map(bool, texts)) and (is_padded or after["10"] + after["11"] > 0)
    months = np.array([_years_and_months(t, dotted if is_dotted else ()) for t in texts])
    example = "10.06" if is_padded else "10.6 and 10.11"
    form = f"years and months such as {example}, like {count:,} other cells" if is_dotted else ""
    return NumberColumn(months, has_commas=False, form=form)


def _plain(text: str) -> str:
    """Return a cell in lower case, with ASCII digits, blanks and hyphens."""
    if not text.isascii():
        text = ascii_digits(unicodedata.normalize("NFC", text))
        text = re.sub(r"[\u2010-\u2015\u2212\uff0d]", "-", text)
        text = text.translate({0xFF0E: ".", 0xFF0C: ",", 0xFF1B: ";", 0xFF0F: "/"})
    return text.casefold().replace("(s)", "s")


def _years_and_months(text: str, dotted: Collection[str]) -> float:
    """Return an age in months, or NaN; `dotted` are the months that may follow a point."""
    if found := _PAIRS.fullmatch(text):
        sizes = [_WORDS.get(word) for word in (found["word"], found["then"]) if word]
        if sizes == [1]:
            return float(found["n"])
        if sizes not in ([12], [12, 1]):
            return np.nan
        years, months = int(found["n"]), int(found["m"] or 0)
    elif found := _FRACTION.fullmatch(text):
        if found["word"] and _WORDS.get(found["word"]) != 12:
            return np.nan
        years, months = int(found["y"]), 12 * int(found["n"]) // int(found["d"])
    elif found := _SIGNS.fullmatch(text) or _DOTTED.fullmatch(text):
        if found.re is _DOTTED and found["m"] not in dotted:
            return np.nan
        years, months = int(found["y"]), int(found["m"])
    else:
        return np.nan
    return 12.0 * years + months if months < 12 else np.nan  # 10-12 is a mistake, or a date


def _bad_cells(
    cells: Cells,
    column: str,
    unit: str,
    option: str,
    found: NumberColumn,
    *,
    may_be_empty: bool,
) -> list[Finding]:
    """Return the cells that are no age in the unit, the dates among them apart."""
    texts = cells.table[column]
    bad = np.isnan(found.numbers) & ((texts != "").to_numpy() | (not may_be_empty))
    if unit != "years-months" and (units := _question_units(cells, column, option, bad)):
        return units
    is_date = np.array([_DATE.fullmatch(text) is not None for text in texts], bool)
    use = "Or leave it empty." if may_be_empty else "An image without an age can't be used."
    example = _EXAMPLE[_noun(unit)]
    if found.has_commas:
        example = example.replace("decimal point", "decimal comma").replace("10.5", "10,5")
    if unit == "years-months":
        expected = found.form or "years and months such as 10y6m or 10-06"
    else:
        expected = f"a number of {_noun(unit)} {found.form}".rstrip()
    return [
        finding
        for rows, fix in ((bad & ~is_date, example), (bad & is_date, _WAS_A_DATE))
        for finding in cells.row_findings(
            "bad-age",
            np.flatnonzero(rows),
            lambda row: describe_cell(column, texts[row]),
            f"{expected}, or nothing" if may_be_empty else expected,
            f"{fix}. {use}",
        )
    ]


def _question_units(
    cells: Cells, column: str, option: str, bad: NDArray[np.bool_]
) -> list[Finding]:
    """Return a fault if most cells are ages with their own unit, such as 126 months or 10y6m."""
    texts = cells.table[column].tolist()
    if 2 * np.count_nonzero(bad) <= len(texts):
        return []
    months = _read_years_and_months(texts).numbers
    # A word or a fraction is a unit; 10-11 has none, and may be a range of years.
    has_unit = bad & ~np.isnan(months) & [bool(re.search(r"[^\W\d_]|[/;:]|-0", t)) for t in texts]
    if 2 * np.count_nonzero(has_unit) <= len(texts):
        return []
    example = texts[int(np.argmax(has_unit))]
    what = (
        f"{np.count_nonzero(has_unit):,} of {len(texts):,} cells of {column} are years and months "
        f"or have their own unit, such as {example!r}"
    )
    fix = f"Pass {option} years-months: it reads such ages, in months too."
    return [Finding("ages-with-units", Fault(cells.where, what, fix))]


def _noun(unit: str) -> str:
    return "years" if unit == "decimal-years" else unit


def _question_years(cells: Cells, column: str, option: str, texts: Sequence[str]) -> list[Finding]:
    """Return a fault if a column of years probably holds years and months, such as 10.11."""
    decimals = [re.split("[.,]", text)[1] for text in texts if _DECIMAL.fullmatch(text)]
    # 10.6 may be 10 years and 6 months or 10.6 years, so that it says nothing.
    exact = sum(len(digits) > 1 and bool(digits.strip("0")) for digits in decimals)
    small = [
        row
        for row, text in enumerate(texts)
        if (found := _DOTTED.fullmatch(text)) and found["m"][1:] and 0 < int(found["m"]) <= 11
    ]
    if 2 * len(small) <= exact:
        return []
    from scipy.special import bdtrc  # the upper tail of the binomial distribution

    is_bare = all(int(texts[row][-2:]) > 9 for row in small)  # 10.6 and 10.11, but never 10.06
    # The chance that so many hundredths of decimal years are that small.
    chance = bdtrc(len(small) - 1, exact, (2 if is_bare else 11) / 99)
    is_odd = chance < YEARS_MONTHS_CHANCE
    tenths = sum(len(digits) == 1 and digits != "0" for digits in decimals)
    if is_bare and 0 < len(small) == exact and tenths >= _TENTHS:
        is_odd = True  # who writes tenths of years writes no 8.11
    if not is_odd:
        return []
    example = cells.table[column][max(small, key=lambda row: texts[row][-2:])]
    what = (
        f"{len(small):,} of {exact:,} hundredths of {column} are at most .11, as in "
        f"{example}: these may be years and months"
    )
    fix = (
        f"If {example} means months after the point, pass {option} years-months. If it is a "
        f"decimal number of years, pass {option} decimal-years."
    )
    return [Finding("years-months-as-years", Fault(cells.where, what, fix))]


def _outside(
    cells: Cells,
    column: str,
    unit: str,
    option: str,
    months: NDArray[np.float64],
    most: float,
) -> list[Finding]:
    """Return ages below zero or too great, and a column of days that are probably months."""
    texts = cells.table[column]
    code = "months-as-years" if _noun(unit) == "years" else "impossible-age"
    outside = (months < 0) | (months > most)
    known = months[~np.isnan(months)]
    if unit == "years-months":
        expected, fix = f"from 0 to {most / 12:g} years", "Correct the label."
    else:
        size = MONTHS_IN[unit]
        median = f"{np.median(known) / size:.4g}" if known.size else "unknown"
        expected = f"{_noun(unit)} from 0 to {most / size:g}; the median of the column is {median}"
        fix = "Correct the label."
        # If most are possible, the others are in that unit too.
        if unit != "days" and 2 * np.count_nonzero(known > most) > known.size:
            is_days = unit == "months" or np.median(known) / size > MAX_AGE_MONTHS
            other = "days" if is_days else "months"
            fix = f"Are the ages in {other}? Pass {option} {other}. Otherwise correct the label."
    findings = cells.row_findings(
        code,
        np.flatnonzero(outside),
        lambda row: f"{column} is {texts[row]}",
        expected,
        fix,
    )
    if unit == "days" and known.size and 0 < known.max() / MONTHS_IN[unit] <= MAX_AGE_MONTHS:
        findings += cells.row_findings(
            "months-as-days",
            [int(np.nanargmax(months))],
            lambda row: f"{column} is {texts[row]}, the largest of the column",
            expected,
            f"Are the ages in months or years? Pass {option} months or {option} years.",
        )
    return findings
