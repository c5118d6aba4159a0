"""Name the standards of the Greulich and Pyle atlas that are nearest to a bone age.

The ages of the standards are those of the second edition (Greulich and Pyle, Radiographic Atlas of
Skeletal Development of the Hand and Wrist, Stanford 1959). They follow one
transcription of the printed list. They were not compared with a printed copy.
"""

from __future__ import annotations

from bisect import bisect_left

STANDARDS_MONTHS = {
    "F": (
        *(0, 3, 6, 9, 12, 15, 18, 24, 30, 36, 42, 50, 60, 69, 82, 94, 106, 120, 132, 144, 156),
        *(162, 168, 180, 192, 204, 216),
    ),
    "M": (
        *(0, 3, 6, 9, 12, 15, 18, 24, 32, 36, 42, 48, 54, 60, 72, 84, 96, 108, 120, 132, 138, 150),
        *(156, 162, 168, 180, 186, 192, 204, 216, 228),
    ),
}
"""Ages of the atlas' standards, months."""


def nearest_standards(months: float, sex: str) -> list[int]:
    """Return the atlas' standards next to a bone age, months.

    Args:
        months: The bone age.
        sex: `F` or `M`.

    Returns:
        The standard below and the one above, or one of them beyond the first or the last. A
        standard within half a month comes alone.
    """
    ages = STANDARDS_MONTHS[sex]
    if (near := round(months)) in ages:
        return [near]
    above = bisect_left(ages, months)
    return list(ages[max(0, above - 1) : above + 1])
