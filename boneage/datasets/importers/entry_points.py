"""Importers of other packages: functions named by entry points of the group `boneage.datasets`.

An importer is one function `(source: Path, out: Path) -> Manifest`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boneage.errors import InputError
from boneage.runtime.plug_ins import Kind, PlugIn

if TYPE_CHECKING:
    from boneage.datasets.manifest import Manifest

IMPORTERS = Kind(
    "boneage.datasets",
    "boneage data import",
    "An importer is one function (source: Path, out: Path) -> Manifest.",
)


def run_importer(plug_in: PlugIn, source: Path, out: Path) -> Manifest:
    """Import a source with the importer of another package.

    Raises:
        InputError: The importer refuses the source, fails, or does not return a manifest.
    """
    from boneage.datasets.manifest import Manifest

    function = plug_in.load()
    if not callable(function):
        raise plug_in.error(f"{plug_in.value} is not a function")
    try:
        manifest = function(source, out)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a function with other parameters raises TypeError
        raise plug_in.error(f"it failed ({type(error).__name__}: {error})") from error
    if not isinstance(manifest, Manifest):
        raise plug_in.error(f"it returned {type(manifest).__name__} instead of a Manifest")
    if not out.exists():
        raise plug_in.error(f"it wrote no {out}")
    return manifest
