"""List the files below a folder that somebody unpacked, renamed or merged."""

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
    """Return every file below a folder, sorted; links are followed, each folder once.

    Leftovers of archivers and systems (`__MACOSX`, names that begin with a dot) are left out, and
    so are pipes, sockets and devices, since reading one may never end. A broken link is included,
    so that whoever opens it reports it.

    Args:
        root: The folder.
        progress: Show progress on standard error.
        layout: What the folder should be, as messages say it.

    Returns:
        Absolute paths. The links of `root` are resolved; a link inside keeps its own name.

    Raises:
        InputError: There is no such folder, or a folder inside can't be listed.
    """
    folder = Path(root).resolve()
    if not folder.is_dir():
        what = "it is not a folder" if folder.exists() else "there is no such folder"
        raise InputError(Fault(str(root), what, "Check the path.", expected=layout))
    closed: list[OSError] = []
    found = _walk(folder, closed)
    if progress:
        console = Console(stderr=True)
        found = iter(track(found, description=f"Listing {folder.name}", console=console))
    paths = sorted(found)
    if closed:  # otherwise files would be missing silently
        raise InputError(
            [
                Fault(
                    str(error.filename),
                    f"the folder can't be listed ({error.strerror})",
                    "Change its permissions, or move it away.",
                )
                for error in closed
            ]
        )
    return paths


def is_litter(name: str) -> bool:
    """Return whether that is the name of a hidden file, or one left by an archiver or Excel."""
    return name.startswith((".", "~$")) or name == "__MACOSX"


def with_suffix(paths: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Return the paths that end in one of these suffixes (lower case), in any case."""
    return [path for path in paths if path.suffix.lower() in suffixes]


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the paths of each file name without its suffix."""
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    return stems


def _walk(root: Path, closed: list[OSError]) -> Iterator[Path]:
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=closed.append):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_litter(name))
        paths = (Path(folder, name) for name in names if not is_litter(name))
        yield from (path for path in paths if _may_be_read(path))


def _may_be_read(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # opening the file fails too, and says why
        return True
