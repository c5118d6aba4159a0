"""Download the RSNA 2017 challenge's archives, unpack them and import them.

Nothing is done twice: a transfer that broke off resumes, an unpacked archive is not downloaded
again, and archives that somebody downloaded by hand are used.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote_plus

import requests
from filelock import FileLock, Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from boneage.datasets.importers.archives import (
    SPARE_BYTES,
    DamagedArchiveError,
    unpack,
    unpacked_bytes,
)
from boneage.datasets.importers.http_download import (
    Advance,
    Remote,
    ask,
    cause_of,
    fetch,
    received,
    record_of,
    write_fault,
)
from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError

OFFICIAL = "https://s3.amazonaws.com/east1.public.rsna.org/AI/2017/"
ARCHIVES = (  # largest first: then the disk needs the least room at once
    "Bone Age Training Set",
    "Bone Age Validation Set",
    "Bone Age Test Set",
    "Bone Age Training Set Annotations",
)
KAGGLE_DATASET = "kmader/rsna-bone-age"
TERMS = (
    "non-commercial research only; no redistribution of the images, or of tables made from them "
    "image by image; cite Halabi et al., Radiology 2019;290:498-503"
)

_TERMS_PAGES = {
    "rsna": "https://www.rsna.org/rsnai/ai-image-challenge/RSNA-Pediatric-Bone-Age-Challenge-2017",
    "kaggle": f"https://www.kaggle.com/datasets/{KAGGLE_DATASET}",
}
KAGGLE_BYTES = 21_000_000_000  # Kaggle's one archive, and what it unpacks to
_GROWTH = 1.05  # PNG files hardly shrink in an archive


def download_rsna(
    out: Path,
    *,
    source: str = "rsna",
    accept_terms: bool,
    seed: int = 0,
    progress: bool = True,
    base_url: str = OFFICIAL,
    keep_archives: bool = False,
) -> Manifest:
    """Download the dataset into a folder and import it to `out/manifest.csv`.

    Args:
        out: The folder. What it already holds of the dataset is not downloaded again.
        source: `rsna` for the challenge's archives, with its validation and test sets; `kaggle`
            for its training images from Kaggle.
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
    if source not in _TERMS_PAGES:
        raise InputError(Fault("--source", f"unknown source {source!r}", "Pass rsna or kaggle."))
    if not accept_terms:
        what = f"the dataset's terms are not accepted ({TERMS})"
        fix = f"Read them at {_TERMS_PAGES[source]}. To accept them, add --accept-terms."
        raise InputError(Fault("terms", what, fix))
    with _lock(out):
        try:
            if source == "kaggle":
                folder = _download_from_kaggle(out, progress)
            else:
                folder = _download_archives(out, base_url, keep=keep_archives, progress=progress)
        except KeyboardInterrupt:
            _print(f"Interrupted. Everything received is kept in {out}.", progress)
            _print(f"To resume: {_command(out, source)}", progress)
            raise
        return import_rsna(folder, out / "manifest.csv", seed=seed, progress=progress)


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


def _download_archives(out: Path, base_url: str, *, keep: bool, progress: bool) -> Path:
    missing = [name for name in ARCHIVES if not (out / name).is_dir()]
    by_hand = _archives_by_hand(out)
    with requests.Session() as session:
        remotes = _ask_all(
            session, [name for name in missing if name not in by_hand], out, base_url
        )
        if missing:
            needed = _needed_bytes(out, missing, by_hand, remotes, keep=keep)
            _print(f"This needs {decimal(needed)} of free disk space while it runs.", progress)
            _require_space(out, needed)
        for name in missing:
            part = out / f"{name}.zip.part"
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
            record_of(part).unlink(missing_ok=True)
    return out


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
        listed = "".join(f"\n  {url}" for url in urls.values())
        fix = (
            f"To do it by hand, download these with a browser or on another machine:{listed}\n"
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
    """Return the most bytes that archives and images will need at once."""
    most = now = 0
    for name in missing:
        remote = remotes.get(name)
        size = remote.size if remote else by_hand[name].stat().st_size
        if remote:
            now += size - received(remote, out / f"{name}.zip.part")
        unpacked = int(size * _GROWTH)
        inner = unpacked if name == "Bone Age Validation Set" else 0  # holds archives
        most = max(most, now + unpacked + inner)
        now += unpacked - (size if remote and not keep else 0)
    return most + SPARE_BYTES


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        what = f"its disk has {decimal(free)} of free space, but {decimal(needed)} are needed"
        raise InputError(Fault(str(folder), what, "Free some space, or name another folder."))


def _download_from_kaggle(out: Path, progress: bool) -> Path:
    try:
        import kagglehub
        from kagglehub import exceptions
    except ImportError:
        what, fix = "the package kagglehub is not installed", "Install it: pip install kagglehub"
        raise InputError(Fault("--source kaggle", what, fix)) from None
    cache = out / "kaggle"
    if not any(cache.glob("**/*.complete")):
        _print(f"This needs {decimal(KAGGLE_BYTES)} of free disk space while it runs.", progress)
        _require_space(out, KAGGLE_BYTES)
    refusals = (  # all that kagglehub raises by itself; they share no base
        exceptions.UnauthenticatedError,
        exceptions.CredentialError,
        exceptions.KaggleEnvironmentError,
        exceptions.NotFoundError,
        exceptions.BackendError,
        exceptions.DataCorruptionError,
    )
    before = os.environ.get("KAGGLEHUB_CACHE")
    os.environ["KAGGLEHUB_CACHE"] = str(cache.resolve())  # the only way to name its folder
    try:
        return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except (requests.RequestException, *refusals) as error:
        text = cause_of(error) if isinstance(error, requests.RequestException) else str(error)
        what = f"it can't be downloaded ({(text.strip() or type(error).__name__).splitlines()[0]})"
        folder = shlex.quote(str(out))
        fix = (
            "Log in with a token from https://www.kaggle.com/settings, in ~/.kaggle/kaggle.json or "
            "in KAGGLE_USERNAME and KAGGLE_KEY. Then run the same command again. To do it by hand, "
            f"download {_TERMS_PAGES['kaggle']} with a browser, unpack it to {folder}, and run: "
            f"boneage data import rsna {folder} --out {folder}/manifest.csv"
        )
        raise InputError(Fault(f"Kaggle's {KAGGLE_DATASET}", what, fix)) from None
    except OSError as error:
        raise InputError(write_fault(cache, error)) from None
    finally:
        if before is None:
            del os.environ["KAGGLEHUB_CACHE"]
        else:
            os.environ["KAGGLEHUB_CACHE"] = before


@contextmanager
def _bar(what: str, total: int, progress: bool) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _print(text: str, progress: bool) -> None:
    if progress:
        Console(stderr=True).print(text, markup=False, soft_wrap=True)


def _command(out: Path, source: str = "rsna") -> str:
    option = "" if source == "rsna" else f" --source {source}"
    return f"boneage data download rsna {shlex.quote(str(out))}{option} --accept-terms"
