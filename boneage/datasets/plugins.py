"""Importers in other people's packages: the entry points of the group `boneage.datasets`.

An entry point names a function `(…, out: Path, …) -> Manifest`. Its parameters become arguments and
options of `boneage data import NAME`, its docstring the help.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from boneage.errors import Fault, InputError

GROUP = "boneage.datasets"


def importers() -> dict[str, EntryPoint]:
    """Every importer that an installed package offers, by its name; nothing is loaded yet."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def load_importer(point: EntryPoint) -> Callable[..., Any]:
    """Loads an importer.

    Raises:
        InputError: The package is broken, or what it names is no function.
    """
    package = point.dist.name if point.dist else "an unknown package"
    where = f"boneage data import {point.name} (from {package})"
    try:
        function = point.load()
    except Exception as error:  # whatever somebody else's module raises, say whose it is
        raise InputError(
            Fault(
                where,
                f"{point.value} can't be loaded ({type(error).__name__}: {error})",
                "a function that makes a manifest",
                f"Mend or uninstall {package}.",
            )
        ) from error
    if not callable(function):
        raise InputError(
            Fault(
                where,
                f"{point.value} is no function",
                "a function that makes a manifest",
                f"Correct the entry point of {package}.",
            )
        )
    return function  # type: ignore[no-any-return]
