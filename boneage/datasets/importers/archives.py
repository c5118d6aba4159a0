"""Unpack zip archives: whole or not at all, and never outside the folder."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from boneage.datasets.importers.http_download import write_fault
from boneage.errors import Fault, InputError
from boneage.runtime.machine import check_disk

Advance = Callable[[int], None]


class DamagedArchiveError(InputError):
    """The archive is not a whole zip file: download it again."""


def unpack(archive: Path, folder: Path, *, advance: Advance = lambda count: None) -> None:
    """Unpack an archive, and the archives in it, into a new folder that appears when it is whole.

    Every byte is checked against the archive's checksums.

    Args:
        archive: A zip file. It is left as it is.
        folder: The folder to make.
        advance: Called with the number of bytes written.

    Raises:
        DamagedArchiveError: It is cut off, damaged or no zip file.
        InputError: A name in it leads outside the folder, or the disk is too small. Nothing is
            left behind.
    """
    part = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        _extract(archive, part, str(archive), advance)
        for inner in filter(zipfile.is_zipfile, sorted(part.rglob("*.zip"))):
            _extract(inner, inner.parent, f"{archive}: {inner.name}", advance)
            inner.unlink()
        part.rename(folder)
    except OSError as error:
        raise InputError(write_fault(folder, error)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def unpacked_bytes(archive: Path) -> int:
    """Return the bytes that unpacking an archive will write, by its own account.

    Raises:
        DamagedArchiveError: It is not a whole zip file.
    """
    with _opened(archive, str(archive)) as opened:
        infos = opened.infolist()
    return sum(info.file_size * (1 + info.filename.endswith(".zip")) for info in infos)


def _extract(archive: Path, folder: Path, where: str, advance: Advance) -> None:
    with _opened(archive, where) as opened:
        infos, root = opened.infolist(), folder.resolve()
        for info in infos:
            if not (root / info.filename).resolve().is_relative_to(root):
                what = f"it can't be unpacked safely: {info.filename!r} leads outside the folder"
                raise InputError(Fault(where, what, "This is the wrong archive: remove it."))
        check_disk(folder, sum(info.file_size for info in infos))
        for info in infos:
            # zipfile writes a link as a plain file, and no byte beyond the size counted above.
            opened.extract(info, folder)
            advance(info.file_size)


@contextmanager
def _opened(archive: Path, where: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    # RuntimeError: it is encrypted, or packed by a method that Python does not know
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        what = f"the archive is damaged, or can't be read ({str(error).rstrip('.')})"
        fault = Fault(where, what, "Remove it and download it again.")
        raise DamagedArchiveError(fault) from None
