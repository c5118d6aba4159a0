"""Download the RSNA 2017 challenge's archives, unpack them and import them.

Nothing is done twice: a transfer that broke off resumes, an unpacked archive is not downloaded
again, and archives that somebody downloaded by hand are used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote_plus

import requests
from filelock import FileLock, Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from boneage.datasets.importers.archives import (
    DamagedArchiveError,
    unpack,
    unpacked_bytes,
)
from boneage.datasets.importers.http_download import (
    Advance,
    Remote,
    ask,
    fetch,
    open_session,
    received,
    write_fault,
)
from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError
from boneage.runtime.machine import check_disk

OFFICIAL = "https://s3.amazonaws.com/east1.public.rsna.org/AI/2017/"
ARCHIVES = (  # largest first: then the disk needs the least room at once
    "Bone Age Training Set",
    "Bone Age Validation Set",
    "Bone Age Test Set",
    "Bone Age Training Set Annotations",
)
TERMS = (
    "non-commercial research only; no redistribution of the images, or of tables made from them "
    "image by image; cite Halabi et al., Radiology 2019;290:498-503"
)

_TERMS_PAGE = "https://www.rsna.org/rsnai/ai-image-challenge/RSNA-Pediatric-Bone-Age-Challenge-2017"
_GROWTH = 1.05  # PNG files hardly shrink in an archive


def download_rsna(
    out: Path,
    *,
    accept_terms: bool,
    seed: int = 0,
    progress: bool = True,
    base_url: str = OFFICIAL,
    keep_archives: bool = False,
) -> Manifest:
    """Download the dataset into a folder and import it to `out/manifest.csv`.

    Args:
        out: The folder. What it already holds of the dataset is not downloaded again.
        accept_terms: Whether the user accepts the dataset's terms. Nothing is done otherwise.
        seed: Seed of the split, where there is no official one.
        progress: Show progress on standard error.
        base_url: Address of the archives.
        keep_archives: Keep the archives after unpacking. Archives put there by hand always stay.

    Raises:
        InputError: The terms are not accepted, the disk is too small, the network or an archive is
            at fault, or the images can't be imported.
    """
    out = Path(out)
    if not accept_terms:
        what = f"the dataset's terms are not accepted ({TERMS})"
        fix = f"Read them at {_TERMS_PAGE}. To accept them, add --accept-terms."
        raise InputError(Fault("terms", what, fix))
    with _lock(out):
        try:
            _download_archives(out, base_url, keep=keep_archives, progress=progress)
        except KeyboardInterrupt:
            _print(f"Interrupted. Everything received is kept in {out}.", progress)
            _print(f"To resume: {_command(out)}", progress)
            raise
        return import_rsna(out, out / "manifest.csv", seed=seed, progress=progress)


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Make the folder and lock it: two downloads at once would write the same files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".boneage-download.lock")
        lock.acquire(timeout=0)
    except Timeout:
        what = "another download into this folder is running"
        raise InputError(Fault(str(out), what, "Wait for it, or name another folder.")) from None
    except OSError as error:
        raise InputError(write_fault(out, error)) from None
    try:
        yield
    finally:
        lock.release()


def _download_archives(out: Path, base_url: str, *, keep: bool, progress: bool) -> None:
    missing = [name for name in ARCHIVES if not (out / name).is_dir()]
    by_hand = _archives_by_hand(out)
    with open_session() as session:
        asked = [name for name in missing if name not in by_hand]
        remotes = _ask_all(session, asked, out, base_url)
        if missing:
            needed = _needed_bytes(out, missing, by_hand, remotes, keep=keep)
            _print(f"This needs {decimal(needed)} of free disk space while it runs.", progress)
            check_disk(out, needed)
        for name in missing:
            part = _part(out, name)
            if name in remotes:
                with _bar(f"Downloading {name}", remotes[name].size, progress) as advance:
                    fetch(session, remotes[name], part, advance=advance)
            archive = by_hand.get(name, part)
            try:
                with _bar(f"Unpacking {name}", unpacked_bytes(archive), progress) as advance:
                    unpack(archive, out / name, advance=advance)
            except DamagedArchiveError as error:
                if archive != part:
                    raise
                part.unlink()
                fix = "The archive was removed. Run the same command again to download it."
                raise InputError([replace(fault, fix=fix) for fault in error.faults]) from None
            if keep and archive == part:
                part.replace(out / f"{name}.zip")
            part.unlink(missing_ok=True)


def _part(out: Path, name: str) -> Path:
    return out / f"{name}.zip.part"


def _archives_by_hand(out: Path) -> dict[str, Path]:
    """Return the whole archives in the folder; browsers name them with blanks or with pluses."""
    plain = {re.sub(r"[ +_]+", " ", path.stem): path for path in sorted(out.glob("*.zip"))}
    return {name: plain[name] for name in ARCHIVES if name in plain}


def _ask_all(
    session: requests.Session, names: Sequence[str], out: Path, base_url: str
) -> dict[str, Remote]:
    urls = {name: f"{base_url.rstrip('/')}/{quote_plus(name)}.zip" for name in names}
    try:
        return {name: ask(session, url) for name, url in urls.items()}
    except InputError as error:
        listed = " ".join(urls.values())  # a message is one line
        fix = (
            f"To do it by hand, download these with a browser or on another machine: {listed} "
            f"Put them into {out} without unpacking them, and run: {_command(out)}"
        )
        by_hand = Fault(str(out), f"archives are missing: {', '.join(names)}", fix)
        raise InputError([*error.faults, by_hand]) from None


def _needed_bytes(
    out: Path,
    missing: Sequence[str],
    by_hand: Mapping[str, Path],
    remotes: Mapping[str, Remote],
    *,
    keep: bool,
) -> int:
    """Return the bytes that archives and images will need at once, at most."""
    unpacked = [
        remotes[name].size if name in remotes else by_hand[name].stat().st_size for name in missing
    ]
    rest = [remotes[name].size - received(_part(out, name)) for name in remotes]
    # Without --keep-archives, each archive is deleted before the next one is downloaded.
    archives = sum(rest) if keep else max(rest, default=0)
    return int(_GROWTH * sum(unpacked)) + archives


@contextmanager
def _bar(what: str, total: int, progress: bool) -> Iterator[Advance]:
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _print(text: str, progress: bool) -> None:
    if progress:
        Console(stderr=True).print(text, markup=False, soft_wrap=True)


def _command(out: Path) -> str:
    return f"boneage data download rsna {shlex.quote(str(out))} --accept-terms"
