"""Zip archives unpacked safely: whole or not at all, and never outside the folder named."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from boneage.datasets.importers.folder import is_litter
from boneage.errors import Fault, InputError

MOST_MEMBERS = 200_000
MOST_GROWTH = 4
"""A set of radiographs, packed already by their own format, never unpacks to so many times its size."""
SPARE_BYTES = 64 << 20
"""What is left free on the disk, and what a small archive may unpack to at least."""

_CHUNK = 1 << 20
_MOST_LISTED = 5
_DEEPEST = 2  # an archive, and the archives in it

Advance = Callable[[int], None]


class DamagedArchiveError(InputError):
    """The archive is no whole zip: it has to be fetched again."""


@dataclass
class _Budget:
    """What may still be written; an archive inside costs its own size and what is in it."""

    bytes: int
    members: int


def unpack(archive: Path, folder: Path, *, advance: Advance = lambda count: None) -> None:
    """Unpacks an archive, and the archives in it, into a new folder that appears only when done.

    An archive inside goes to a folder of its own name beside it and is not kept. A folder that is
    all there is and has the name it would be put into is not put into itself. What archivers leave
    lying about is passed over. Every byte is checked against the archive's checksums.

    Args:
        archive: A zip file; it is left as it is.
        folder: Where to; there must be nothing of that name yet.
        advance: Told how many bytes were written, from time to time.

    Raises:
        DamagedArchiveError: It is cut off, overwritten or no zip file at all.
        InputError: It would write outside the folder, holds links, is far too large unpacked, or
            there is no room. Nothing is left behind.
    """
    part = folder.with_name(f".{folder.name}.unpacking")
    if part.exists():
        shutil.rmtree(part)  # of a run that was killed
    try:
        part.mkdir(parents=True)
        size = archive.stat().st_size
        budget = _Budget(MOST_GROWTH * size + SPARE_BYTES, MOST_MEMBERS)
        _unpack_into(archive, part, budget, advance, str(archive), depth=1)
        _settle(part, folder)
    except OSError as error:
        raise InputError(_writing_fault(error, folder)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already when all went well


def unpacked_bytes(archive: Path) -> int:
    """What an archive says that unpacking it will write, archives in it counted twice.

    Raises:
        DamagedArchiveError: It is no whole zip file.
    """
    with _opened(archive, str(archive)) as opened:
        infos = opened.infolist()
    packed = [info for info in infos if info.filename.lower().endswith(".zip")]
    return sum(info.file_size for info in (*infos, *packed))


def require_room(folder: Path, needed: int, what: str) -> None:
    """Sees that the disk has room.

    Args:
        folder: On that disk; it exists.
        needed: Bytes, beside what is left spare.
        what: What they are needed for.

    Raises:
        InputError: There is less.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise InputError(
            Fault(
                str(folder),
                f"there are {in_words(free)} free on its disk",
                "Make room, or name a folder on another disk.",
                expected=f"{in_words(needed + SPARE_BYTES)} {what}",
            )
        )


def in_words(count: int) -> str:
    """Bytes as people say them: 9.6 GB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _unpack_into(
    archive: Path, folder: Path, budget: _Budget, advance: Advance, where: str, *, depth: int
) -> None:
    inner: list[tuple[Path, str]] = []
    with _opened(archive, where) as opened:
        members = [
            (info, path)
            for info, path in _safe_members(opened, where)
            if not any(map(is_litter, path.parts))
        ]
        _spend(budget, [info for info, _ in members], where)
        require_room(folder, sum(info.file_size for info, _ in members), f"to unpack {where}")
        for info, path in members:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(opened, info, target, advance, where)
            if target.suffix.lower() == ".zip":
                inner.append((target, f"{where}: {path}"))
    for packed, name in inner:
        if depth == _DEEPEST or not zipfile.is_zipfile(packed):
            continue  # the importer names it when something is missing
        part = packed.with_name(f".{packed.name}.unpacking")
        part.mkdir()
        _unpack_into(packed, part, budget, advance, name, depth=depth + 1)
        packed.unlink()
        beside = packed.with_suffix("")
        _settle(part, packed if beside.exists() else beside)


def _settle(part: Path, folder: Path) -> None:
    """Gives what was unpacked its name; a lone folder that has that name already is enough."""
    inside = list(part.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name == folder.name:
        inside[0].rename(folder)
        part.rmdir()
    else:
        part.rename(folder)


def _opened(archive: Path, where: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise DamagedArchiveError(_damage(where, str(error))) from None


def _write(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, advance: Advance, where: str
) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(_method_fault(where, f"{info.filename}: method {info.compress_type}"))
    try:
        # zipfile gives no byte beyond the size it announced, which was counted before.
        with opened.open(info) as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                advance(len(chunk))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DamagedArchiveError(_damage(where, f"{info.filename}: {error}")) from None
    except NotImplementedError as error:
        raise InputError(_method_fault(where, f"{info.filename}: {error}")) from None


def _method_fault(where: str, what: str) -> Fault:
    return Fault(
        where,
        f"it is packed in a way that can't be unpacked here ({what})",
        "Unpack it with another program, into a folder of its name beside it, and try again.",
        expected="stored or deflated files",
    )


def _safe_members(
    opened: zipfile.ZipFile, where: str
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files in an archive with their paths, all of which stay inside."""
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    seen: set[str] = set()
    wrong: list[str] = []
    for info in opened.infolist():
        # Understands both kinds of slash; archives made on Windows have either.
        path = PurePosixPath(*PureWindowsPath(info.filename).parts)
        reason = _unsafe(info) or ("it stands twice" if str(path).lower() in seen else "")
        if reason:
            wrong.append(f"{info.filename!r}: {reason}")
        elif not info.is_dir():
            seen.add(str(path).lower())
            members.append((info, path))
    if wrong:
        more = f", and {len(wrong) - _MOST_LISTED:,} more" if len(wrong) > _MOST_LISTED else ""
        raise InputError(
            Fault(
                where,
                f"it can't be unpacked safely ({'; '.join(wrong[:_MOST_LISTED])}{more})",
                "This is not the archive it should be: remove it, and don't open it.",
                expected="plain files and folders that stay inside",
            )
        )
    return members


def _unsafe(info: zipfile.ZipInfo) -> str:
    path = PureWindowsPath(info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not path.parts or "\0" in info.orig_filename:
        return "it has no proper name"
    if path.root or path.drive or ":" in info.filename:
        return "its path starts at a root"
    if ".." in path.parts:
        return "its path climbs out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link" if kind == stat.S_IFLNK else "it is no file"
    if info.flag_bits & 1:
        return "it is encrypted"
    return ""


def _spend(budget: _Budget, infos: Sequence[zipfile.ZipInfo], where: str) -> None:
    size = sum(info.file_size for info in infos)
    if size > budget.bytes or len(infos) > budget.members:
        raise InputError(
            Fault(
                where,
                f"it would unpack to {len(infos):,} files of {in_words(size)} in all",
                "This is not the archive it should be: remove it, and don't open it.",
                expected=f"at most {budget.members:,} files and {in_words(budget.bytes)}",
            )
        )
    budget.bytes -= size
    budget.members -= len(infos)


def _damage(where: str, reason: str) -> Fault:
    return Fault(
        where,
        f"the archive is damaged or cut off ({reason.rstrip('.')})",
        "Remove it, and fetch it again.",
        expected="a whole zip file",
    )


def _writing_fault(error: OSError, folder: Path) -> Fault:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Fault(
        str(error.filename or folder),
        f"it can't be written ({error.strerror or error})",
        "Make room and run the same command again." if full else "Name another folder.",
        expected="a writable folder with room in it",
    )
