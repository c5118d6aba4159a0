"""Compare a bone age with the chronological age: difference, SD score and assessment.

The reference is a table of the mean and the standard deviation (SD) of the bone ages of healthy
children, by sex and chronological age. Three choices move the score, so each is fixed here:

- The centre is the chronological age: (bone age - chronological age) / SD. The score centred on
  the reference's own mean is given, too. The two differ by up to half an SD.
- The table is that of the Brush Foundation in the atlas of Greulich and Pyle. The atlas has a
  second table with larger SDs. The two are never mixed.
- Between two rows, mean and SD are linear in the chronological age. Outside there is no score.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_text

Assessment = Literal["delayed", "normal", "advanced", "indeterminate"]

LIMIT_SD = 2.0
"""A bone age is normal up to so many SDs below or above the chronological age."""
METHOD = "(bone age - chronological age) / SD of the reference, linear between its rows"
ETHNICITY_NOTE = (
    "The standard of Greulich and Pyle does not fit every ethnic group. "
    "Asian boys were 0.8 to 1.4 years behind it at ages 6 to 9, and 0.5 years ahead at 17. "
    "African girls were 0.4 years ahead (meta-analysis, doi:10.1007/s00330-018-5792-5)."
)

_SHIPPED = Path(__file__).parent / "references" / "brush_foundation.csv"
_MONTHS = ("chronological_age_months", "mean_months", "sd_months")
_COLUMNS = ("sex", *_MONTHS)
_MOST_MONTHS = 300.0
_MOST_BYTES = 2**20
_YEARS_SUSPECTED_BELOW = 25.0  # months; the largest age of a table in months is above that
_MOST_AS_YEARS = 20.0  # a chronological age up to this may be in years
_MONTHS_AHEAD = 24.0  # the bone age then is ahead, and nearer to so many years
_SEX_WORDS = {"F": "girls", "M": "boys"}


@dataclass(frozen=True)
class Reference:
    """Means and SDs of bone ages by sex and chronological age.

    Attributes:
        name: The source of the numbers, as answers name it.
        rows: For each sex that it has, float64 (n, 3): chronological age, mean, SD; months. The
            ages increase.
    """

    name: str
    rows: Mapping[str, npt.NDArray[np.float64]]

    def at(self, sex: str, chronological_age_months: float) -> tuple[float, float]:
        """Return mean and SD of the bone age at a chronological age, months.

        Raises:
            InputError: The reference has no rows for the sex, or the age is outside them.
        """
        rows = self.rows.get(sex)
        if rows is None:
            what = f"the reference has no rows for {_SEX_WORDS[sex]}"
            raise InputError(Fault(self.name, what, "Use another reference."))
        age, first, last = chronological_age_months, float(rows[0, 0]), float(rows[-1, 0])
        if not first <= age <= last:
            raise InputError(
                Fault(
                    self.name,
                    f"there is no SD score at a chronological age of {age:g} months",
                    "Use another reference, or correct the age.",
                    expected=f"{first:g} to {last:g} months for {_SEX_WORDS[sex]}",
                )
            )
        mean, deviation = (float(np.interp(age, rows[:, 0], rows[:, i])) for i in (1, 2))
        return mean, deviation


@dataclass(frozen=True)
class AgeComparison:
    """A bone age compared with the chronological age.

    Attributes:
        chronological_age_months: Months.
        difference_months: Bone age - chronological age; positive for a bone age that is ahead.
        sd_score: The difference in SDs of the reference. None if there is no score.
        sd_interval: The prediction interval of the bone age, as SD scores. None without one.
        assessment: `delayed` below -2 SD, `advanced` above +2 SD, else `normal`. `indeterminate` if
            the interval reaches over a limit. None if there is no score.
        sd_score_from_mean: The score centred on the reference's own mean at this age.
        reference: The source of means and SDs.
        method: How the score is made.
        note: What to know about the child's ethnic group.
        reason: Why there is no score, and what to do; "" if there is one.
    """

    chronological_age_months: float
    difference_months: float
    sd_score: float | None
    sd_interval: tuple[float, float] | None
    assessment: Assessment | None
    sd_score_from_mean: float | None
    reference: str
    method: str = METHOD
    note: str = ETHNICITY_NOTE
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values; without a score, `reason` says why."""
        ends = self.sd_interval
        interval = None if ends is None else {"low": ends[0], "high": ends[1]}
        return {**vars(self), "sd_interval": interval, "reason": self.reason or None}

    def __str__(self) -> str:
        """Return one line for people: the difference, and `score_in_words` or why there is none."""
        side = "below" if self.difference_months < 0 else "above"
        apart = f"{abs(self.difference_months):.1f} months {side} the chronological age"
        return f"{apart}: {self.score_in_words or self.reason}"

    @property
    def score_in_words(self) -> str:
        """The score, such as `-1.40 SD [-2.61, -0.19], normal, by …`; "" if there is none."""
        if self.sd_score is None:
            return ""
        ends = self.sd_interval
        interval = "" if ends is None else f" [{ends[0]:+.2f}, {ends[1]:+.2f}]"
        why = " (the interval crosses 2 SD)" if self.assessment == "indeterminate" else ""
        return f"{self.sd_score:+.2f} SD{interval}, {self.assessment}{why}, by {self.reference}"


def compare_ages(
    months: float,
    sex: str,
    chronological_age_months: float,
    reference: Reference,
    interval: tuple[float, float] | None = None,
) -> AgeComparison:
    """Compare a bone age with the chronological age.

    Args:
        months: The bone age.
        sex: `F` or `M`.
        chronological_age_months: The child's age when the radiograph was made.
        reference: Means and SDs of bone ages.
        interval: Lower and upper end of the prediction interval, months.

    Returns:
        The comparison. Without a score, its `reason` says why.
    """
    age = chronological_age_months
    difference = months - age
    try:
        _refuse_years(months, age)
        mean, deviation = reference.at(sex, age)
    except InputError as error:
        fault = error.faults[0]
        expected = f"; expected {fault.expected}" if fault.expected else ""
        reason = f"{fault.what}{expected}. {fault.fix}"
        return AgeComparison(age, difference, None, None, None, None, reference.name, reason=reason)
    score = difference / deviation
    ends = (
        None
        if interval is None
        else ((interval[0] - age) / deviation, (interval[1] - age) / deviation)
    )
    found = {_assess(each) for each in (score, *(ends or ()))}
    assessment: Assessment = found.pop() if len(found) == 1 else "indeterminate"
    from_mean = (months - mean) / deviation
    return AgeComparison(age, difference, score, ends, assessment, from_mean, reference.name)


def _assess(score: float) -> Assessment:
    if abs(score) <= LIMIT_SD:
        return "normal"
    return "delayed" if score < 0 else "advanced"


def _refuse_years(months: float, age: float) -> None:
    """Raise an error if the chronological age seems to be in years."""
    is_small = age <= _MOST_AS_YEARS and months - age > _MONTHS_AHEAD
    if is_small and abs(months - 12 * age) < months - age:
        what = f"the chronological age of {age:g} months seems to be in years"
        raise InputError(Fault("chronological age", what, "Multiply it by 12, or correct it."))


def load_reference(path: Path | None = None) -> Reference:
    """Read a reference table.

    Args:
        path: CSV with the columns `sex` (F or M), `chronological_age_months`, `mean_months` and
            `sd_months`, in any order. Further columns are ignored, but `source` names the
            reference. Default: the Brush Foundation table of Greulich and Pyle (1959), 3 to 192
            months for girls and 3 to 204 months for boys.

    Raises:
        InputError: The file can't be read, or rows of it are wrong. All faults are reported.
    """
    found = _SHIPPED if path is None else path
    reader = csv.DictReader(io.StringIO(read_text(found, _MOST_BYTES)), strict=True)
    try:
        records = [(reader.line_num, record) for record in reader]
    except csv.Error as error:
        what = f"the table can't be read: {error}"
        raise InputError(Fault(f"{found}, line {reader.line_num}", what, "Correct it.")) from None
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        what = f"columns are missing: {', '.join(missing)}"
        raise InputError(Fault(str(found), what, f"Write CSV with {', '.join(_COLUMNS)}."))
    faults: list[Fault] = []
    rows: dict[str, list[list[float]]] = {}
    for line, record in records:
        where = f"{found}, line {line}"
        sex = (record["sex"] or "").strip()
        if sex not in _SEX_WORDS:
            faults.append(Fault(where, f"sex is {sex!r}", "Write girls as F, boys as M."))
        if None in record:
            faults.append(Fault(where, "the row has more cells than the header", "Correct it."))
        numbers = [_number(record, name, where, faults.append) for name in _MONTHS]
        rows.setdefault(sex, []).append(numbers)
    tables = {sex: np.array(sorted(each)) for sex, each in rows.items() if sex in _SEX_WORDS}
    faults += [] if faults else _table_faults(str(found), tables)
    if faults:
        raise InputError(faults)
    sources = {(record.get("source") or "").strip() for _, record in records}
    return Reference((sources.pop() if len(sources) == 1 else "") or found.name, tables)


def _number(
    record: Mapping[str, str | None], name: str, where: str, report: Callable[[Fault], None]
) -> float:
    """Return a cell's number; NaN after a report if it is none or not in its range."""
    text, most = (record[name] or "").strip(), _MOST_MONTHS
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number > 0 and number <= most:
        return number
    expected = f"a number of months above 0, at most {most:g}, such as 12.04"
    report(Fault(where, f"{name} is {text!r}", "Correct it.", expected))
    return math.nan


def _table_faults(where: str, tables: Mapping[str, npt.NDArray[np.float64]]) -> list[Fault]:
    """Return what is wrong with rows that are right by themselves."""
    faults = [] if tables else [Fault(where, "the table has no rows", "Add a row for each age.")]
    for sex, table in tables.items():
        of = f"{where}: {_SEX_WORDS[sex]}"
        age, mean = table[:, 0], table[:, 1]
        if len(table) < 2:
            faults.append(Fault(of, "there is one row", "Add more, to be linear between them."))
        faults += [
            Fault(of, f"{each:g} months has several rows", "Keep one of them.")
            for each in np.unique(age[1:][np.diff(age) == 0]).tolist()
        ]
        faults += [
            Fault(of, f"the mean falls after {each:g} months", "Correct the means.")
            for each in age[:-1][np.diff(mean) < 0].tolist()
        ]
    ages = [table[-1, 0] for table in tables.values()]
    if ages and max(ages) < _YEARS_SUSPECTED_BELOW:
        what = f"the largest chronological age is {max(ages):g}, so the ages are probably in years"
        faults.append(Fault(where, what, "Multiply all ages, means and SDs by 12."))
    return faults
