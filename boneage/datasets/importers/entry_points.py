"""Importers of other packages: functions named by entry points of the group `boneage.datasets`.

An importer is one function `(source: Path, out: Path) -> Manifest`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest

GROUP = "boneage.datasets"


def importer_names() -> list[str]:
    """Return the names of all importers that installed packages offer; none is loaded."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_importer(name: str) -> Callable[[Path, Path], Any]:
    """Load the function of an importer.

    Raises:
        InputError: It can't be loaded or is no function, or two packages offer this name.
    """
    point, *others = _offers(name)
    if others:
        raise _error(name, "several packages offer this name")
    try:
        function = point.load()
    except (Exception, SystemExit) as error:  # whatever that module raises
        what = f"{point.value} can't be loaded ({type(error).__name__}: {error})"
        raise _error(name, what) from error
    if not callable(function):
        raise _error(name, f"{point.value} is not a function")
    loaded: Callable[[Path, Path], Any] = function
    return loaded


def run_importer(name: str, source: Path, out: Path) -> Manifest:
    """Import a source with the importer of another package.

    Raises:
        InputError: The importer refuses the source, fails, or does not return a manifest.
    """
    from boneage.datasets.manifest import Manifest

    function = load_importer(name)
    try:
        manifest = function(source, out)
    except InputError:
        raise
    except Exception as error:  # a function with other parameters raises TypeError
        raise _error(name, f"it failed ({type(error).__name__}: {error})") from error
    if not isinstance(manifest, Manifest):
        raise _error(name, f"it returned {type(manifest).__name__} instead of a Manifest")
    return manifest


def _offers(name: str) -> list[EntryPoint]:
    return [point for point in entry_points(group=GROUP) if point.name == name]


def _error(name: str, what: str) -> InputError:
    packages = [p.dist.name if p.dist else "an unknown package" for p in _offers(name)]
    package = " and ".join(sorted(packages))
    fix = (
        "An importer is one function (source: Path, out: Path) -> Manifest. Report this to the "
        f"authors of {package}, or uninstall it."
    )
    return InputError(Fault(f"boneage data import {name} (from {package})", what, fix))
