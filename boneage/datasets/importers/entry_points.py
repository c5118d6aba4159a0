"""Importers in other people's packages: the entry points of the group `boneage.datasets`.

An entry point names a function `(…, out: Path, …) -> Manifest`. Its parameters become arguments and
options of `boneage data import NAME`, its docstring the help. One that can't be used so is refused
when it is loaded, with all that is wrong with it, and never stands in the way of the others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_type_hints

from boneage.errors import Fault, InputError

GROUP = "boneage.datasets"

_EXPECTED = "a function (…, out: Path, …) that makes a manifest"
_PLAIN_TYPES = (bool, int, float, str, Path)  # in this order: True is an int, too
_UNNAMED_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only",
    inspect.Parameter.VAR_POSITIONAL: "stands for any number of others",
    inspect.Parameter.VAR_KEYWORD: "stands for any number of others",
}


@dataclass(frozen=True)
class Importer:
    """Somebody else's importer, loaded and fit to be called.

    Attributes:
        name: As in `boneage data import NAME`.
        package: The package it comes from.
        function: What makes the manifest; all of its parameters can be given by name.
        parameters: Those but `out`, each with a type for its annotation.
    """

    name: str
    package: str
    function: Callable[..., Any]
    parameters: tuple[inspect.Parameter, ...]

    def fault(self, what: str, expected: str) -> Fault:
        """What is wrong with this importer or with what it did."""
        return _fault(self.name, self.package, what, expected)


def importers() -> dict[str, EntryPoint]:
    """Every importer that an installed package offers, by its name; nothing is loaded yet.

    Of two of one name it is that of the package whose name comes first.
    """
    chosen: dict[str, EntryPoint] = {}
    for point in _offered():
        chosen.setdefault(point.name, point)
    return chosen


def hidden_importers(ours: Collection[str]) -> list[str]:
    """Says of every importer that can't be reached by its name which other one has that name."""
    chosen = importers()
    notes = []
    for point in _offered():
        if point.name in ours:
            notes.append(f"{point.name} of {package_of(point)} is hidden by boneage's own.")
        elif point is not chosen[point.name]:
            winner = package_of(chosen[point.name])
            notes.append(f"{point.name} of {package_of(point)} is hidden by that of {winner}.")
    return notes


def package_of(point: EntryPoint) -> str:
    """The name of the package that offers an importer."""
    return point.dist.name if point.dist else "an unknown package"


def load_importer(point: EntryPoint) -> Importer:
    """Loads an importer and checks that it can be called from the command line.

    Raises:
        InputError: The package is broken, what it names is no function, or its parameters can't
            be arguments and options.
    """
    package = package_of(point)

    def broken(what: str) -> InputError:
        return InputError(_fault(point.name, package, what, _EXPECTED))

    try:
        function = point.load()
    except (Exception, SystemExit) as error:  # whatever their module raises, say whose it is
        raise broken(f"{point.value} can't be loaded ({_told(error)})") from error
    if not callable(function):
        raise broken(f"{point.value} is no function")
    try:
        signature = inspect.signature(function)
        hints = _hints(function, signature)
    except Exception as error:  # a hint is their code, too
        raise broken(f"the signature of {point.value} can't be read ({_told(error)})") from error
    parameters = list(signature.parameters.values())
    wrong = [
        f"its parameter {parameter.name} {_UNNAMED_KINDS[parameter.kind]}"
        for parameter in parameters
        if parameter.kind in _UNNAMED_KINDS
    ]
    if "out" not in signature.parameters:
        wrong.insert(0, f"{point.value} has no parameter out")
    typed = []
    for parameter in parameters:
        hint = hints.get(parameter.name) or _type_of_default(parameter.default)
        if hint is None:
            wrong.append(
                f"its parameter {parameter.name} has no type, and none that its default tells"
            )
        elif parameter.name != "out":
            typed.append(parameter.replace(annotation=hint))
    if wrong:
        raise InputError([_fault(point.name, package, what, _EXPECTED) for what in wrong])
    return Importer(point.name, package, function, tuple(typed))


def _offered() -> list[EntryPoint]:
    return sorted(
        entry_points(group=GROUP),
        key=lambda point: (point.name, package_of(point).lower(), point.value),
    )


def _hints(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Types of the parameters. What it returns may be named for type checkers only."""
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not hasattr(inner, "__globals__"):
        inner = type(inner).__call__
    stated = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if parameter.annotation is not inspect.Parameter.empty
    }
    bearer = type("Parameters", (), {"__annotations__": stated})()
    return get_type_hints(bearer, getattr(inner, "__globals__", {}), include_extras=True)


def _type_of_default(default: Any) -> Any:
    """The type of a parameter without a hint; None if its default does not tell."""
    if default is inspect.Parameter.empty:
        return Path  # what an importer can't do without is where the data are
    if default is None:
        return str | None
    return next((kind for kind in _PLAIN_TYPES if isinstance(default, kind)), None)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _fault(name: str, package: str, what: str, expected: str) -> Fault:
    where = f"boneage data import {name} (from {package})"
    return Fault(where, what, f"Tell the authors of {package}, or uninstall it.", expected=expected)
