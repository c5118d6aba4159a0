"""Errors in a user's input: `Fault` is one problem, `InputError` raises one or several."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_SURROGATES = frozenset({"Cs"})  # categories of Unicode
_CONTROLS = _SURROGATES | {"Cc", "Cf", "Zl", "Zp"}


def printable(text: str) -> str:
    """Return a text in which control characters and bytes that are no UTF-8 are escaped.

    The name of a file may hold commands to the terminal, or a line break.
    """
    return _escape(text, _CONTROLS)


def utf8(text: str) -> str:
    """Return the name of a file, in which bytes that are no UTF-8 are escaped."""
    return _escape(text, _SURROGATES)


def _escape(text: str, categories: frozenset[str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if unicodedata.category(char) not in categories
        else f"\\x{ord(char) - 0xDC00:02x}"  # how Python stores a byte that is no UTF-8
        if "\udc80" <= char <= "\udcff"
        else ascii(char)[1:-1]
        for char in text
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """One problem with a user's input, in the form of every message of the project.

    Attributes:
        where: The file, and the row, key or image in it.
        what: What is wrong, with the value: a clause that ends without a full stop.
        fix: What to do: one or more whole sentences.
        expected: What was expected instead, where that helps; else empty.
    """

    where: str
    what: str
    fix: str
    expected: str = ""

    def __str__(self) -> str:
        expected = f"; expected {self.expected}" if self.expected else ""
        return printable(f"{self.where}: {self.what}{expected}. {self.fix}")


class InputError(Exception):
    """A user's input is wrong. The command line prints every fault and exits with code 2.

    Attributes:
        faults: Every fault found, in the order of the input; never empty.
    """

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        """Keep the faults. The text of the exception has a line for each."""
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Fault, ...]]]:
        return InputError, (self.faults,)  # pickled by worker processes
