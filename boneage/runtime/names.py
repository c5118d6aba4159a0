"""Check text that becomes the name of a file or of a folder."""

from __future__ import annotations

import re

from boneage.errors import Fault, InputError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
NAME_RULE = (
    "a name of at most 100 letters (a-z), digits, '.', '_' or '-' that starts with no '.' or '-'"
)


def is_name(text: object) -> bool:
    """Return whether a text can be the name of a file or of a folder, and nothing else.

    A name holds no slash and is not `..`, so it can't lead to another folder.
    """
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def check_name(text: object, where: str, fix: str = "Choose another name.") -> str:
    """Return a text that can be the name of a file or of a folder.

    Args:
        text: The text, as somebody's file has it.
        where: That file, and the key in it.
        fix: What to do about another text.

    Raises:
        InputError: It is no such name.
    """
    if isinstance(text, str) and is_name(text):
        return text
    shown = f"{text!r:.80}" if isinstance(text, str) else f"a {type(text).__name__}"
    raise InputError(Fault(where, f"the name is {shown}", fix, expected=NAME_RULE))
