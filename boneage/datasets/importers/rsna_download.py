"""The RSNA 2017 challenge's public archives: fetched, unpacked, counted and imported.

Everything that was done stays done: a broken transfer is taken up where it stopped, an archive that
was unpacked is not fetched again, and archives that somebody fetched by hand are used.
"""

from __future__ import annotations

import os
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
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from boneage.datasets.importers.archives import (
    Advance,
    DamagedArchiveError,
    require_room,
    unpack,
    unpacked_bytes,
)
from boneage.datasets.importers.http_download import (
    Remote,
    ask,
    bytes_here,
    fetch,
    part_of,
    record_of,
    why_unreachable,
)
from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.manifest import Manifest
from boneage.errors import Fault, InputError

OFFICIAL = "https://s3.amazonaws.com/east1.public.rsna.org/AI/2017/"
ARCHIVES = (
    "Bone Age Training Set",
    "Bone Age Validation Set",
    "Bone Age Test Set",
    "Bone Age Training Set Annotations",
)
"""Largest first: what the disk must hold at once is least that way."""
KAGGLE_DATASET = "kmader/rsna-bone-age"
TERMS = (
    "non-commercial research only; no redistribution of the images, or of tables made from them "
    "image by image; cite Halabi et al., Radiology 2019;290:498-503"
)

_TERMS_PAGES = {
    "rsna": "https://www.rsna.org/rsnai/ai-image-challenge/RSNA-Pediatric-Bone-Age-Challenge-2017",
    "kaggle": f"https://www.kaggle.com/datasets/{KAGGLE_DATASET}",
}
_KAGGLE_BYTES = 21_000_000_000  # its one archive, and what that unpacks to, at once
_GROWTH = 1.05  # PNG files hardly get smaller in an archive; the annotations are small anyway
_KAGGLE_CACHE = "KAGGLEHUB_CACHE"


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
    """Fetches the dataset into a folder and imports it to `out/manifest.csv`.

    Args:
        out: The folder; what is there already of the dataset is not fetched again.
        source: `rsna` for the challenge's own archives, with its validation and test sets;
            `kaggle` for its training images from Kaggle.
        accept_terms: Whether the user accepts the dataset's terms; nothing is done otherwise.
        seed: Of the split, where it is not the official one.
        progress: Show progress on standard error.
        base_url: Where the archives are.
        keep_archives: Keep those that were fetched here after they were unpacked, too. Archives
            that somebody else put there always stay.

    Raises:
        InputError: The terms are not accepted, the disk is too small, there is no network, a
            server or an archive is at fault, or what came can't be imported.
    """
    out = Path(out)
    _check_request(source, accept_terms)
    with _alone(out):
        if source == "kaggle":
            return _from_kaggle(out, seed=seed, progress=progress)
        try:
            _fetch_and_unpack(out, base_url, keep=keep_archives, progress=progress)
        except KeyboardInterrupt:
            _say(
                f"Interrupted. What has come is kept in {out}; to go on: {_command(out)}", progress
            )
            raise
        return import_rsna(out, out / "manifest.csv", seed=seed, progress=progress)


def _check_request(source: str, accept_terms: bool) -> None:
    if source not in _TERMS_PAGES:
        raise InputError(
            Fault(
                "source",
                f"{source!r}",
                "Name one of the two with --source.",
                expected="rsna or kaggle",
            )
        )
    if not accept_terms:
        raise InputError(
            Fault(
                f"the dataset's terms ({TERMS})",
                "they are not accepted",
                f"Read them at {_TERMS_PAGES[source]} and add --accept-terms.",
                expected="your consent before anything is fetched",
            )
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Makes the folder and holds it: two runs at once would write the same parts."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".boneage-download.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            Fault(
                str(out),
                "another download into it is running",
                "Wait for that one, or name another folder.",
                expected="one at a time",
            )
        ) from None
    except OSError as error:
        raise InputError(
            Fault(
                str(out),
                f"it can't be written to ({error.strerror or error})",
                "Name another folder.",
                expected="a writable folder",
            )
        ) from None
    try:
        yield
    finally:
        lock.release()


def _fetch_and_unpack(out: Path, base_url: str, *, keep: bool, progress: bool) -> None:
    missing = [name for name in ARCHIVES if not (out / name).is_dir()]
    here = _archives_here(out)
    with requests.Session() as session:
        wanted = [name for name in missing if name not in here]
        remotes = _ask_all(session, wanted, out, base_url)
        _require_room(out, missing, here, remotes, keep=keep)
        for name in missing:
            archive = here.get(name) or out / f"{name}.zip"
            if name in remotes:
                with _bar(f"Fetching {name}", remotes[name].size, progress) as advance:
                    fetch(session, remotes[name], archive, advance=advance)
            _unpack_one(archive, out / name, keep=keep, progress=progress)


def _unpack_one(archive: Path, folder: Path, *, keep: bool, progress: bool) -> None:
    ours = _is_ours(archive)
    try:
        with _bar(f"Unpacking {folder.name}", unpacked_bytes(archive), progress) as advance:
            unpack(archive, folder, advance=advance)
    except DamagedArchiveError as error:
        if not ours:
            raise
        archive.unlink()
        record_of(archive).unlink()
        faults = [
            replace(fault, fix="It was removed: run the same command again to fetch it anew.")
            for fault in error.faults
        ]
        raise InputError(faults) from None
    if ours and not keep:
        archive.unlink()
    begun = folder.with_name(f"{folder.name}.zip")  # a part, too, if someone fetched it by hand
    for left in (record_of(begun), part_of(begun)):
        left.unlink(missing_ok=True)


def _is_ours(archive: Path) -> bool:
    """Whether it was fetched here: only such a one has a record, and no part any more."""
    return record_of(archive).exists() and not part_of(archive).exists()


def _archives_here(out: Path) -> dict[str, Path]:
    """Whole archives in the folder, as browsers and wget call them: with blanks or with pluses."""
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
        by_hand = Fault(
            str(out),
            f"archives are missing: {', '.join(names)}",
            f"To do it by hand, fetch these with a browser or on another machine:{listed}\n"
            f"put them into {out} as they are, still packed, and run: {_command(out)}",
            expected="a network, or the archives in this folder",
        )
        raise InputError([*error.faults, by_hand]) from None


def _require_room(
    out: Path,
    missing: Sequence[str],
    here: Mapping[str, Path],
    remotes: Mapping[str, Remote],
    *,
    keep: bool,
) -> None:
    """Sees that the disk holds the most that will be on it at once."""
    most = now = 0
    for name in missing:
        if remote := remotes.get(name):
            size = remote.size
            now += size - bytes_here(remote, out / f"{name}.zip")
        else:
            size = here[name].stat().st_size
        grown = int(size * _GROWTH)
        inner = grown if name == "Bone Age Validation Set" else 0  # has archives in it
        most = max(most, now + grown + inner)
        now += grown
        if not keep and (remote or _is_ours(here[name])):
            now -= size
    if missing:
        require_room(out, most, "for the archives that are missing and what they unpack to")


def _from_kaggle(out: Path, *, seed: int, progress: bool) -> Manifest:
    try:
        import kagglehub
        from kagglehub import exceptions
    except ImportError:
        raise InputError(
            Fault(
                "source kaggle",
                "the package kagglehub is not installed",
                "Install it with: pip install kagglehub",
                expected="the extra that brings it",
            )
        ) from None
    cache = out / "kaggle"
    if not any(cache.glob("**/*.complete")):
        require_room(out, _KAGGLE_BYTES, "for Kaggle's archive and what it unpacks to")
    # All that kagglehub itself raises; it shares no base.
    refusals = (
        exceptions.UnauthenticatedError,
        exceptions.CredentialError,
        exceptions.KaggleEnvironmentError,
        exceptions.NotFoundError,
        exceptions.BackendError,
        exceptions.DataCorruptionError,
    )
    try:
        with _environment(_KAGGLE_CACHE, str(cache.resolve())):
            folder = Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except KeyboardInterrupt:
        _say(f"Interrupted. To go on: {_command(out)} --source kaggle", progress)
        raise
    except (requests.RequestException, *refusals) as error:
        raise InputError(_kaggle_fault(out, error)) from None
    except OSError as error:
        raise InputError(
            Fault(
                str(error.filename or cache),
                f"it can't be written ({error.strerror or error})",
                "Make room and run the same command again.",
                expected="a writable folder with room in it",
            )
        ) from None
    return import_rsna(folder, out / "manifest.csv", seed=seed, progress=progress)


def _kaggle_fault(out: Path, error: Exception) -> Fault:
    text = why_unreachable(error) if isinstance(error, requests.RequestException) else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return Fault(
        f"Kaggle's {KAGGLE_DATASET}",
        f"it can't be fetched ({lines[0][:200]})",
        "Log in with a token from https://www.kaggle.com/settings (in ~/.kaggle/kaggle.json or "
        "KAGGLE_USERNAME and KAGGLE_KEY) and run the same command again; or, by hand, download "
        f"{_TERMS_PAGES['kaggle']} with a browser, unpack it to {out} and run: "
        f"boneage data import rsna {shlex.quote(str(out))} "
        f"--out {shlex.quote(str(out / 'manifest.csv'))}",
        expected="a network, and an account where Kaggle asks for one",
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable for a while: kagglehub takes its folder from nowhere else, and resumes."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _bar(what: str, total: int, progress: bool) -> Iterator[Advance]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not progress) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _say(text: str, progress: bool) -> None:
    if progress:
        Console(stderr=True).print(text, markup=False, soft_wrap=True)


def _command(out: Path) -> str:
    return f"boneage data download rsna {shlex.quote(str(out))} --accept-terms"
