"""Divide the images of a table into groups by a column of it, such as `race` or `machine`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from boneage.datasets.number_columns import read_numbers
from boneage.errors import Fault, InputError

MAX_GROUPS = 12
MAX_NUMBERS = 6
"""A column with more different numbers is divided into quarters."""

EMPTY = "(empty)"
_LONGEST_NAME = 60
_UNUSABLE = ("image_id", "image")  # each image is a group of its own
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Groups = dict[str, dict[str, NDArray[np.bool_]]]
"""For each column, the members (n,) of each group by its name."""


def group_by_columns(table: pd.DataFrame, columns: Sequence[str], where: str) -> Groups:
    """Return the groups of the images by each column.

    A column of at most six different numbers makes a group of each number. One with more numbers
    makes four groups at its quartiles. A column of text makes a group of each text. Empty cells
    are a group of their own.

    Args:
        table: One row for each image.
        columns: Names of columns of the table.
        where: The file, for messages.

    Raises:
        InputError: There is no such column, or it would make more than twelve groups. All faults
            are reported.
    """
    groups: Groups = {}
    faults = []
    for column in dict.fromkeys(columns):
        if column not in table or column in _UNUSABLE:
            usable = [str(name) for name in table.columns if name not in _UNUSABLE]
            what = f"--by {column}: there is no such column to group by"
            faults.append(Fault(where, what, f"Choose one of {', '.join(usable)}."))
            continue
        texts = ["" if pd.isna(cell) else str(cell).strip() for cell in table[column]]
        groups[column] = dict(_groups(texts))
        if (count := len(groups[column])) > MAX_GROUPS:
            what = f"--by {column}: the column has {count:,} different values"
            fix = "Add a column that combines them into groups."
            faults.append(Fault(where, what, fix, expected=f"at most {MAX_GROUPS}"))
    if faults:
        raise InputError(faults)
    return groups


def _groups(texts: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    is_empty = np.array([not text for text in texts])
    numbers = read_numbers(list(texts)).numbers
    if not is_empty.all() and np.isfinite(numbers[~is_empty]).all():
        yield from _number_groups(numbers)
    else:
        names = np.array([_name(text) for text in texts])
        for name in sorted(set(names[~is_empty].tolist())):
            yield name, ~is_empty & (names == name)
    if is_empty.any():
        yield EMPTY, is_empty


def _number_groups(numbers: NDArray[np.float64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    given = numbers[np.isfinite(numbers)]
    values = np.unique(given)
    if len(values) <= MAX_NUMBERS:
        for name, value in zip(_number_names(values), values, strict=True):
            yield name, numbers == value
        return
    edges = np.unique(np.quantile(given, (0, 0.25, 0.5, 0.75, 1)))
    names = _number_names(edges)
    for (low, high), (first, last) in zip(pairwise(edges.tolist()), pairwise(names), strict=True):
        is_last = high == edges[-1]
        chosen = (numbers >= low) & ((numbers <= high) if is_last else (numbers < high))
        yield f"{first} to {'' if is_last else 'under '}{last}", chosen


def _number_names(values: NDArray[np.float64]) -> list[str]:
    """Return different numbers as texts that differ: dates and station numbers have all digits."""
    names: list[str] = []
    for digits in (6, 15, 17):
        names = [f"{each:.{15 if each.is_integer() else digits}g}" for each in values.tolist()]
        if len(set(names)) == len(names):
            break
    return names


def _name(text: str) -> str:
    name = _CONTROL.sub(" ", text)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
