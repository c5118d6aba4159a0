"""Read what tables of hand radiographs have in common: headers, numbers, sexes, ages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from boneage.datasets.importers.folder import IMAGE_SUFFIXES
from boneage.datasets.tables import Cells, Finding
from boneage.datasets.validation import describe_cell

SEX_WORDS = {"m": "M", "male": "M", "boy": "M", "f": "F", "female": "F", "girl": "F"}
# 1 means male only in a column called "male": in a column "sex" it may be a girl.
MALE_FLAGS = {"true": "M", "1": "M", "false": "F", "0": "F"}

_FEW = 5


def fold(name: object) -> str:
    """Return a header without case, blanks and signs: `Bone age (months)` is `bone_age_months`."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def find_column(cells: Cells, known: Sequence[str]) -> str | None:
    """Return the column with the first of these folded names that the table has."""
    folded = {fold(name): str(name) for name in cells.table.columns}
    return next((folded[name] for name in known if name in folded), None)


def radiograph_number(text: str) -> str:
    """Return 5131 for `5131`, `05131`, `5131.0`, `5131.jpg` and `ASIF/ASIF02/5131.jpg`."""
    name = PurePosixPath(text.replace("\\", "/")).name
    stem, dot, suffix = name.rpartition(".")
    if dot and f".{suffix.lower()}" in (*IMAGE_SUFFIXES, ".0"):
        name = stem
    return (name.lstrip("0") or "0") if name.isascii() and name.isdigit() else name


def sex_codes(column: str) -> tuple[dict[str, str], str]:
    """Return what a column of that name may say for F and M, and the same in words."""
    if fold(column) == "male":
        return SEX_WORDS | MALE_FLAGS, "True (boy) or False (girl)"
    return SEX_WORDS, "M or F"


def sex_findings(
    cells: Cells, column: str, codes: Mapping[str, str], expected: str
) -> list[Finding]:
    """Return the cells of a column that hold none of the codes for a sex."""
    texts = cells.table[column]
    return cells.row_findings(
        "unknown-sex",
        [row for row, text in enumerate(texts) if text.lower() not in codes],
        lambda row: describe_cell(column, texts[row]),
        expected,
        "Correct it. A sex is never guessed.",
    )


def months_cells(months: Iterable[float]) -> list[str]:
    """Return months as a manifest writes them; NaN is an empty cell."""
    return ["" if np.isnan(value) else f"{value:.10g}" for value in months]


def few(names: Iterable[str]) -> str:
    """Return the first few names, and an ellipsis if there are more."""
    listed = list(names)
    return ", ".join(listed[:_FEW]) + (", …" if len(listed) > _FEW else "")
