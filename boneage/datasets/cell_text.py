"""Write a value of a spreadsheet or a Parquet file as a person would write it."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

_WHOLE = re.compile(r"([0-9]+)[.,]00?")  # but 1.000 may be 1000


def cell_text(value: object) -> str:
    """Return a value as a person would write it: 12.0 as 12, a date as 2024-05-31, None as ''."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 2**53:
            return str(int(value))  # an identifier of 16 digits, and each is exact
        # 15 digits are what Excel shows and keeps; an exponent is never written.
        return format(Decimal(f"{value:.15g}").normalize(), "f")
    if isinstance(value, Decimal):
        return format(value.normalize(), "f") if value.is_finite() else str(value)
    if isinstance(value, datetime.datetime):
        is_midnight = value.time() == datetime.time()
        return value.date().isoformat() if is_midnight else value.isoformat(" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def whole_number(text: str) -> str:
    """Return 5 for 5.0 and 5,00, as a column of whole numbers with a gap is saved."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found else text


def number_key(text: str) -> str:
    """Return 5 for 5.0, 05 and 005: spreadsheets drop the zeros before a number and add one."""
    number = whole_number(text)
    return (number.lstrip("0") or "0") if number.isascii() and number.isdigit() else text
