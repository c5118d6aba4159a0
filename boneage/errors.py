"""The few things that can be wrong with what a user gave us, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a user's input, in the form every message of the project has.

    Attributes:
        where: File, and row, key or image where it stands.
        what: What is wrong, with the offending value.
        expected: What was expected instead.
        fix: One sentence that says how to mend it.
    """

    where: str
    what: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}. {self.fix}"


class InputError(Exception):
    """What a user gave us is wrong; the command line prints it and exits with 2.

    Attributes:
        faults: Every fault found, in the order of the input; never empty.
    """

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Fault, ...]]]:
        return InputError, (self.faults,)  # a worker process hands it over whole
