"""What lies below a folder that somebody unpacked, renamed or merged: found at any depth."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from boneage.errors import Fault, InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")


def files_below(root: Path, *, progress: bool = True, layout: str = "a folder") -> list[Path]:
    """Every file below a folder, sorted; links are followed, each folder once.

    What archivers and systems leave lying about (`__MACOSX`, names that begin with a dot) is
    passed over, and so are pipes, sockets and devices: reading one may never end. A link that
    leads nowhere is named, for who needs it to say so.

    Args:
        root: Where to begin.
        progress: Show progress on standard error.
        layout: What should be there, as messages say it.

    Returns:
        Absolute paths. A link inside keeps its own name; `root`'s own links are resolved, so that
        paths relative to it can be told.

    Raises:
        InputError: There is no such folder, or one inside can't be looked into.
    """
    here = Path(root).resolve()
    if not here.is_dir():
        what = "it is not a folder" if here.exists() else "there is no such folder"
        raise InputError(Fault(str(root), what, "Check the path.", expected=layout))
    closed: list[OSError] = []
    found = _walk(here, closed)
    if progress:
        console = Console(stderr=True)
        found = iter(track(found, description=f"Looking through {here.name}", console=console))
    paths = sorted(found)
    if closed:  # what can't be seen would be missing without a word
        raise InputError(
            [
                Fault(
                    str(error.filename),
                    f"it can't be looked into ({error.strerror})",
                    "Change its permissions, or move it away.",
                    expected="a folder that may be read",
                )
                for error in closed
            ]
        )
    return paths


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is left over from archivers or hidden."""
    return name.startswith(".") or name == "__MACOSX"


def with_suffix(paths: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Those of the paths that end in one of these suffixes (lower case), however written."""
    return [path for path in paths if path.suffix.lower() in suffixes]


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """The paths of each file name without its suffix."""
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    return stems


def _walk(root: Path, closed: list[OSError]) -> Iterator[Path]:
    seen = set()
    for here, folders, names in os.walk(root, followlinks=True, onerror=closed.append):
        real = os.path.realpath(here)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_litter(name))
        paths = (Path(here, name) for name in names if not is_litter(name))
        yield from (path for path in paths if _may_be_read(path))


def _may_be_read(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # opening it fails with the same reason, aloud
        return True
