"""Read headers and sexes as people's tables write them. This module imports no pandas."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from boneage.datasets.cell_text import whole_number
from boneage.datasets.label_rules import parse_sex

# 1 means male only in a column called "male": in a column "sex" it may be a girl.
_MALE_FLAGS = {
    **dict.fromkeys(("true", "1", "wahr", "vrai", "verdadero", "verdadeiro", "vero"), "M"),
    **dict.fromkeys(("false", "0", "falsch", "faux", "falso"), "F"),
}  # spreadsheets save them in the language of their user


def fold(name: object) -> str:
    """Return a header without case, blanks and signs: `Bone age (months)` is `bone_age_months`."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


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
