"""Read a column of numbers in the form that most of its cells have.

A cell in another form is no number, so that one odd cell never changes what the others mean.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_GROUPED = re.compile(
    r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?|[+-]?[0-9]{1,3}([ '’\u00a0\u202f][0-9]{3})+"
)
_AMBIGUOUS = re.compile(r"[+-]?[0-9]{1,3}[.,][0-9]{3}")  # 3,652 is 3652 or 3.652
_FEWEST = 3  # cells such as 1,250 that show together that no thousands are meant
_LONGEST = 100  # letters of a number
_SWAP = str.maketrans(".,", ",.")


@dataclass(frozen=True)
class NumberColumn:
    """The numbers of a column, and the form that was decided for it.

    Attributes:
        numbers: float64 (n,); NaN where a cell is no finite number in that form.
        has_commas: Whether the column has decimal commas.
        form: The form as a message says it, such as "with a decimal comma, like 58 other cells";
            "" where it explains nothing.
    """

    numbers: NDArray[np.float64]
    has_commas: bool
    form: str


def read_numbers(texts: Sequence[str], *, has_thousands: bool = False) -> NumberColumn:
    """Read the cells of one column.

    Args:
        texts: The cells.
        has_thousands: Whether numbers may be great enough for thousands marks (3,652 days). Then
            3,652 is read only if other cells say what its comma is.
    """
    texts = [text if text.isascii() else ascii_digits(text[: _LONGEST + 1]) for text in texts]
    commas = points = unclear = 0
    for text in texts:
        if _AMBIGUOUS.fullmatch(text) and (has_thousands or "," in text):
            unclear += 1
        elif "," in text or "." in text:
            points += math.isfinite(_number(text, has_thousands))
            commas += math.isfinite(_number(text.translate(_SWAP), has_thousands))
    if not has_thousands and unclear >= _FEWEST:  # 10,125 years again and again
        commas += unclear
    has_commas = commas > points
    if has_thousands and unclear and not commas and not points:
        texts = ["" if _AMBIGUOUS.fullmatch(text) else text for text in texts]
        form = "without thousands marks"
    elif has_commas:
        form = _likewise("with a decimal comma", commas)
    else:
        form = _likewise("with a decimal point", points) if commas else ""
    if has_commas:
        texts = [text.translate(_SWAP) for text in texts]
    numbers = np.array([_number(text, has_thousands) for text in texts], np.float64)
    return NumberColumn(numbers, has_commas, form)


def ascii_digits(text: str) -> str:
    """Return a text with the digits of other scripts in ASCII."""
    return "".join(str(unicodedata.decimal(letter, letter)) for letter in text)


def _likewise(form: str, cells: int) -> str:
    return f"{form}, like {cells:,} other {'cell' if cells == 1 else 'cells'}" if cells else form


def _number(text: str, has_thousands: bool) -> float:
    if len(text) > _LONGEST:
        return math.nan
    if has_thousands and _GROUPED.fullmatch(text):
        text = re.sub(r"[^0-9.+-]", "", text)
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else math.nan
