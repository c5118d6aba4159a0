"""Unpack zip archives safely: whole or not at all, and never outside the folder."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from rich.filesize import decimal

from boneage.datasets.importers.folder import is_litter
from boneage.datasets.importers.http_download import write_fault
from boneage.errors import Fault, InputError

MOST_MEMBERS = 200_000
MOST_GROWTH = 4
"""Radiographs are packed by their own format: unpacking never needs so many times the archive."""
SPARE_BYTES = 64 << 20
"""Free space to leave on the disk, and what any small archive may unpack to."""

Advance = Callable[[int], None]


class DamagedArchiveError(InputError):
    """The archive is not a whole zip file: download it again."""


def unpack(archive: Path, folder: Path, *, advance: Advance = lambda count: None) -> None:
    """Unpack an archive, and the archives in it, into a new folder that appears when it is whole.

    Every byte is checked against the archive's checksums. A folder that is all there is, and has
    the name of the new one, is not put into itself.

    Args:
        archive: A zip file. It is left as it is.
        folder: The folder to make.
        advance: Called with the number of bytes written.

    Raises:
        DamagedArchiveError: It is cut off, damaged or no zip file.
        InputError: Its names are not safe, it is far too large unpacked, or the disk is full.
            Nothing is left behind.
    """
    part = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        _extract(archive, part, str(archive), advance)
        for inner in filter(zipfile.is_zipfile, sorted(part.rglob("*.zip"))):
            inner_part = inner.with_name(f".{inner.name}.unpacking")
            inner_part.mkdir()
            _extract(inner, inner_part, f"{archive}: {inner.relative_to(part)}", advance)
            inner.unlink()
            target = inner.with_suffix("")
            _settle(inner_part, inner if target.exists() else target)
        _settle(part, folder)
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


def _settle(part: Path, folder: Path) -> None:
    """Give the unpacked files their folder; a lone folder of that name becomes it."""
    inside = list(part.iterdir())
    is_folder = len(inside) == 1 and inside[0].is_dir() and inside[0].name == folder.name
    (inside[0] if is_folder else part).rename(folder)
    if is_folder:
        part.rmdir()


@contextmanager
def _opened(archive: Path, where: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        what = f"the archive is damaged or cut off ({str(error).rstrip('.')})"
        fault = Fault(where, what, "Remove it and download it again.")
        raise DamagedArchiveError(fault) from None
    except NotImplementedError as error:
        what = f"the archive is packed in a way that can't be read here ({error})"
        fix = "Unpack it with another program, into a folder of the same name."
        raise InputError(Fault(where, what, fix)) from None


def _extract(archive: Path, folder: Path, where: str, advance: Advance) -> None:
    with _opened(archive, where) as opened:
        members = _safe_members(opened, where)
        size, most = (
            sum(info.file_size for info, _ in members),
            MOST_GROWTH * archive.stat().st_size,
        )
        if size > most + SPARE_BYTES or len(members) > MOST_MEMBERS:
            what = f"it would unpack to {len(members):,} files of {decimal(size)}"
            raise InputError(Fault(where, what, "This is the wrong archive: remove it."))
        for info, path in members:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError(f"{info.filename}: method {info.compress_type}")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # zipfile gives no byte beyond the size that was counted above.
            with opened.open(info) as source, target.open("xb") as file:
                while chunk := source.read(1 << 20):
                    file.write(chunk)
                    advance(len(chunk))


def _safe_members(
    opened: zipfile.ZipFile, where: str
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Return the files of an archive with paths that stay inside the folder."""
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    wrong: list[str] = []
    seen: set[str] = set()
    for info in opened.infolist():
        path = PurePosixPath(*PureWindowsPath(info.filename).parts)  # both kinds of slash
        reason = _why_unsafe(info) or (
            "its name is there twice" if str(path).lower() in seen else ""
        )
        if reason:
            wrong.append(f"{info.filename!r}: {reason}")
        elif not info.is_dir() and not any(map(is_litter, path.parts)):
            members.append((info, path))
            seen.add(str(path).lower())
    if wrong:
        more = f", and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        what = f"it can't be unpacked safely ({'; '.join(wrong[:5])}{more})"
        raise InputError(Fault(where, what, "This is the wrong archive: remove it."))
    return members


def _why_unsafe(info: zipfile.ZipInfo) -> str:
    path = PureWindowsPath(info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not path.parts or "\0" in info.orig_filename:
        return "it has no proper name"
    if path.root or path.drive or ":" in info.filename:
        return "its path starts at a root"
    if ".." in path.parts:
        return "its path leaves the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link" if kind == stat.S_IFLNK else "it is no file"
    return "it is encrypted" if info.flag_bits & 1 else ""
