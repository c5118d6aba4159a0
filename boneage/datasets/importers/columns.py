"""Read what tables of hand radiographs have in common: headers, numbers, sexes, ages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from boneage.datasets.cell_text import whole_number
from boneage.datasets.cells import Cells, Finding, repeated_column
from boneage.datasets.importers.folder import IMAGE_SUFFIXES
from boneage.datasets.label_rules import parse_sex
from boneage.datasets.validation import describe_cell
from boneage.errors import InputError

# 1 means male only in a column called "male": in a column "sex" it may be a girl.
_MALE_FLAGS = {
    **dict.fromkeys(("true", "1", "wahr", "vrai", "verdadero", "verdadeiro", "vero"), "M"),
    **dict.fromkeys(("false", "0", "falsch", "faux", "falso"), "F"),
}  # spreadsheets save them in the language of their user

_FEW = 5


def fold(name: object) -> str:
    """Return a header without case, blanks and signs: `Bone age (months)` is `bone_age_months`."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


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


def read_codes(texts: Sequence[str], female: Sequence[str], male: Sequence[str]) -> list[str]:
    """Return F or M for each cell that holds one of these codes, and "" for the others.

    The code 1 is also 1.0, and TRUE is also True: spreadsheets and pandas write them so.
    """
    codes = {code.strip(): "F" for code in female} | {code.strip(): "M" for code in male}
    same = {fold_code(code): sex for code, sex in codes.items()}
    return [codes.get(text) or same.get(fold_code(text), "") for text in texts]


def fold_code(text: str) -> str:
    """Return what codes have in common that mean the same: 1 for 1.0, true for TRUE."""
    lower = text.lower()
    text = unicodedata.normalize("NFC", text)  # macOS writes an a and two dots for an ä
    return lower if lower in ("true", "false") else whole_number(text)


def read_sexes(column: str, texts: Sequence[str]) -> list[str]:
    """Return F or M for each cell of a column that means a sex by its name, "" for unknown."""
    flags = _MALE_FLAGS if fold(column) == "male" else {}
    return [flags.get(fold_code(text).lower()) or parse_sex(text) for text in texts]


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
