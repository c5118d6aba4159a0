"""Find the files that another program writes to a folder: each once, also after a restart."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from boneage.errors import Fault, InputError

INTERVAL_SECONDS = 2.0
"""Time between two scans. A file that did not change in between is complete."""
UNFINISHED_SUFFIXES = frozenset({".part", ".partial", ".tmp", ".filepart", ".crdownload"})
"""Of files that a program renames when they are complete."""

_MOST_PENDING = 1000  # files that are remembered from one scan to the next
_SHARE_OF_TIME = 0.1  # that scanning a large folder may take
_SCHEMA = """CREATE TABLE IF NOT EXISTS answered
(path TEXT PRIMARY KEY, size INTEGER, modified INTEGER) WITHOUT ROWID"""


class _Version(NamedTuple):
    """Size and time of the last change; a file that is written again has another version."""

    size: int
    modified: int  # nanoseconds


def watch_folder(
    folder: Path,
    ledger: Path,
    *,
    answered: tuple[Path, int] | None = None,
    interval: float = INTERVAL_SECONDS,
    log: Callable[[str], None] = lambda text: None,
) -> Iterator[Path]:
    """Yield each file of a folder and its subfolders when it is complete, without an end.

    A file is complete when it has the same size and time in two scans. Hidden files, links and
    files with one of `UNFINISHED_SUFFIXES` are passed over. A file counts as answered when the next
    one is asked for. No file is moved, changed or deleted.

    Args:
        folder: The folder, which may become unreachable for a time.
        ledger: SQLite file with the answered files, made if it is missing. One process may use it.
        answered: The last file whose answer was kept, and when, in nanoseconds. A process that was
            killed may not have listed it.
        interval: Seconds between two scans. A folder that takes long to scan is scanned less often.
        log: Called with what a person should know.

    Yields:
        The files, those in the folder at the start included. A file that is written again is
        yielded again.

    Raises:
        InputError: There is no such folder, or the ledger is damaged or in use.
    """
    check_folders(folder, ledger)
    with closing(_open_ledger(ledger)) as database:
        if answered is not None:
            _add_last(database, folder, *answered)
        pending: dict[str, _Version] = {}
        is_reachable = True
        while True:
            began = time.monotonic()
            waiting = dict(islice(_unanswered(folder, database), _MOST_PENDING))
            if is_reachable != (is_reachable := folder.is_dir()):
                state = "is reachable again" if is_reachable else "can't be read; waiting for it"
                log(f"{folder}: the folder {state}")
            seconds = time.monotonic() - began
            for name, version in waiting.items():
                path = folder / name
                if pending.get(name) == version == _version(path):
                    yield path
                    _add(database, name, version)
            pending = waiting
            time.sleep(max(interval, seconds / _SHARE_OF_TIME))


def check_folders(folder: Path, ledger: Path) -> None:
    """Check that a folder can be watched, and that the results are not in it.

    Raises:
        InputError: There is no such folder, or the ledger would be in it.
    """
    if not folder.is_dir():
        raise InputError(Fault(str(folder), "there is no such folder to watch", "Check the path."))
    if folder.resolve() in ledger.resolve().parents:
        what = "the folder of the results lies in the folder that is watched"
        raise InputError(Fault(str(ledger.parent), what, "Choose a folder outside."))


def _open_ledger(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        database = sqlite3.connect(path, timeout=1.0)
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        with database:
            database.execute("BEGIN EXCLUSIVE")
            database.execute(_SCHEMA)
            database.execute("SELECT path, size, modified FROM answered LIMIT 1")
    except sqlite3.OperationalError as error:
        what = f"the list of answered files can't be used ({error})"
        fix = "If another watch uses it, end that one, or choose another folder for the results."
        raise InputError(Fault(str(path), what, fix)) from None
    except sqlite3.DatabaseError as error:
        what = f"the list of answered files is damaged ({error})"
        fix = "Remove it to answer all files again."
        raise InputError(Fault(str(path), what, fix)) from None
    return database


def _add(database: sqlite3.Connection, name: str, version: _Version) -> None:
    with database:
        database.execute("INSERT OR REPLACE INTO answered VALUES (?, ?, ?)", (name, *version))


def _add_last(database: sqlite3.Connection, folder: Path, path: Path, when: int) -> None:
    """Add a file that was answered, unless it has been written again since then."""
    version = _version(path)
    if version is not None and version.modified <= when and path.is_relative_to(folder):
        _add(database, str(path.relative_to(folder)), version)


def _unanswered(folder: Path, database: sqlite3.Connection) -> Iterator[tuple[str, _Version]]:
    """Yield the files that are not in the ledger, by their path in the folder."""
    query = "SELECT 1 FROM answered WHERE path = ? AND size = ? AND modified = ?"
    subfolders = [""]
    while subfolders:
        subfolder = subfolders.pop()
        try:
            with os.scandir(folder / subfolder) as entries:
                for entry in entries:
                    name = os.path.join(subfolder, entry.name)  # noqa: PTH118 - of two strings
                    if entry.is_dir(follow_symlinks=False):
                        subfolders.append(name)
                    elif entry.is_file(follow_symlinks=False) and not _is_unfinished(entry.name):
                        version = _version(folder / name)
                        row = (name, *(version or (-1, -1)))
                        if version and database.execute(query, row).fetchone() is None:
                            yield name, version
        except OSError:  # it was removed, or the network is gone
            continue


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or Path(name).suffix.lower() in UNFINISHED_SUFFIXES


def _version(path: Path) -> _Version | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Version(status.st_size, status.st_mtime_ns)
