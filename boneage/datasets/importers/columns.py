"""Read what tables of hand radiographs have in common: headers, numbers, sexes, ages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from boneage.datasets.cells import Cells, Finding, repeated_column
from boneage.datasets.importers.folder import IMAGE_SUFFIXES
from boneage.datasets.sex_codes import fold, read_sexes
from boneage.datasets.validation import describe_cell
from boneage.errors import InputError

_FEW = 5


def find_column(cells: Cells, known: Sequence[str]) -> str | None:
    """Return the column with the first of these folded names that the table has.

    Raises:
        InputError: Several columns have that name, or its cells can't be read.
    """
    names = [*map(str, cells.table.columns), *cells.unusable]
    for name in known:
        match [column for column in names if fold(column) == name]:
            case [column]:
                if column in cells.unusable:
                    raise InputError(cells.unusable[column].fault)
                return column
            case [_, *_] as several:
                raise InputError(repeated_column(cells.where, several).fault)
    return None


def radiograph_number(text: str) -> str:
    """Return 5131 for `5131`, `05131`, `5131.0`, `5131.jpg` and `ASIF/ASIF02/5131.jpg`."""
    name = PurePosixPath(text.replace("\\", "/")).name
    stem, dot, suffix = name.rpartition(".")
    if dot and f".{suffix.lower()}" in (*IMAGE_SUFFIXES, ".0"):
        name = stem
    return (name.lstrip("0") or "0") if name.isascii() and name.isdigit() else name


def sex_findings(cells: Cells, column: str) -> list[Finding]:
    """Return the cells of such a column that mean no sex."""
    texts = cells.table[column].tolist()
    is_flag = fold(column) == "male"
    return cells.row_findings(
        "unknown-sex",
        [row for row, sex in enumerate(read_sexes(column, texts)) if not sex],
        lambda row: describe_cell(column, texts[row]),
        "True (boy) or False (girl)" if is_flag else "M or F",
        "Correct it. A sex is never guessed.",
    )


def months_cells(months: Iterable[float]) -> list[str]:
    """Return months as a manifest writes them; NaN is an empty cell."""
    return ["" if np.isnan(value) else f"{value:.10g}" for value in months]


def few(names: Iterable[str]) -> str:
    """Return the first few names, and an ellipsis if there are more."""
    listed = list(names)
    return ", ".join(listed[:_FEW]) + (", …" if len(listed) > _FEW else "")
