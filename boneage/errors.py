"""Errors in a user's input: `Fault` is one problem, `InputError` raises one or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
        return f"{self.where}: {self.what}{expected}. {self.fix}"


class InputError(Exception):
    """A user's input is wrong. The command line prints every fault and exits with code 2.

    Attributes:
        faults: Every fault found, in the order of the input; never empty.
    """

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Fault, ...]]]:
        return InputError, (self.faults,)  # pickled by worker processes
