"""Download one file over HTTP: resumed after a broken connection, and checked for its size."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_json, write_json

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds before each further try of a transfer."""

_TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
CHUNK = 1 << 16
_GOOD_TRY = 1 << 16  # bytes after which the count of failures begins again
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_IDENTITY = {"Accept-Encoding": "identity"}  # a compressed file would have another size
_RESUME = "The bytes received are kept. Run the same command again to resume."

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Remote:
    """A file on the server; the validator (ETag or Last-Modified) changes when the file does."""

    url: str
    size: int
    validator: str


class _ChangedError(Exception):
    """The server has another file now, or answers with other bytes than those asked for."""


def ask(session: requests.Session, url: str) -> Remote:
    """Return the size and validator of a file on a server.

    Raises:
        InputError: There is no network, no such file, or no size in the answer.
    """
    with _request(session, "HEAD", url, _IDENTITY, WAITS[:2]) as answer:
        length = answer.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) == 0:
            what, fix = "the server does not say how large the file is", "Try without a proxy."
            raise InputError(Fault(url, what, fix))
        return Remote(url, int(length), _validator(answer))


def fetch(
    session: requests.Session, remote: Remote, part: Path, *, advance: Advance = lambda count: None
) -> None:
    """Download a file, or the rest of it, to `part`.

    Args:
        session: The session to use.
        remote: The answer of `ask`.
        part: The file to write. A record beside it says which remote file it belongs to.
        advance: Called with the number of bytes added; negative when the download starts again.

    Raises:
        InputError: The server fails or refuses, or the disk does. The bytes received are kept.
    """
    failures = 0
    try:
        advance(received(remote, part))
        while (before := received(remote, part)) < remote.size:
            if before == 0:
                part.unlink(missing_ok=True)
                write_json(record_of(part), asdict(remote))
            try:
                _fetch_rest(session, remote, part, before, advance)
                reason = "the connection ended early"
            except _ChangedError:
                reason = "the file changes on the server"
                advance(-_size(part))
                part.unlink(missing_ok=True)
                remote = ask(session, remote.url)
            except requests.RequestException as error:
                reason = cause_of(error)
            if (have := _size(part)) == remote.size:
                break
            failures = 0 if have - before >= _GOOD_TRY else failures + 1
            if failures > len(WAITS):
                what = f"{have:,} of {remote.size:,} bytes have come, then the transfer failed"
                what += f" {failures} times in a row ({reason})"
                raise InputError(Fault(remote.url, what, _RESUME))
            time.sleep(WAITS[max(failures - 1, 0)])
    except OSError as error:
        raise InputError(write_fault(part, error)) from None


def _fetch_rest(
    session: requests.Session, remote: Remote, part: Path, have: int, advance: Advance
) -> None:
    headers = dict(_IDENTITY)
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": remote.validator}
    with _request(session, "GET", remote.url, headers, WAITS) as answer:
        if answer.status_code == 206:
            rest = f"bytes {have}-{remote.size - 1}/{remote.size}"
            is_right = answer.headers.get("Content-Range") == rest
            is_right &= _validator(answer) in ("", remote.validator)
        else:  # the whole file, though only the rest was asked for; 416: another file
            is_right = answer.headers.get("Content-Length") == str(remote.size)
            is_right &= answer.status_code == 200 and _validator(answer) == remote.validator
        if not is_right:
            raise _ChangedError
        if answer.status_code == 200 and have:
            advance(-have)
            have = 0
        with part.open("ab" if have else "wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                advance(len(chunk))


def _request(
    session: requests.Session,
    method: str,
    url: str,
    headers: Mapping[str, str],
    waits: Sequence[float],
) -> requests.Response:
    """Send a request, and send it again while the server is busy or can't be reached."""
    for wait in (*waits, None):
        try:
            answer = session.request(
                method, url, headers=headers, stream=True, timeout=_TIMEOUT, allow_redirects=True
            )
        except requests.RequestException as error:
            reason = f"the server can't be reached ({cause_of(error)})"
            fix = "Check the network, and the proxy if there is one (HTTPS_PROXY)."
        else:
            if answer.status_code in (200, 206, 416):
                return answer
            answer.close()
            reason = f"the server answered {answer.status_code} {answer.reason}"
            fix = "Check the address, and the proxy if there is one (HTTPS_PROXY)."
            wait = wait if answer.status_code in _BUSY else None
        if wait is None:
            break
        time.sleep(wait)
    raise InputError(Fault(url, reason, fix))


def received(remote: Remote, part: Path) -> int:
    """Return how many bytes of a remote file are in `part`, 0 if the record does not match."""
    record = record_of(part)
    if not remote.validator or not part.is_file() or not record.is_file():
        return 0
    try:
        is_same = read_json(record) == asdict(remote)
    except InputError:
        return 0
    return _size(part) if is_same and _size(part) <= remote.size else 0


def record_of(part: Path) -> Path:
    """Return the file that says which remote file a part belongs to."""
    return part.with_name(f".{part.stem}.json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator(answer: requests.Response) -> str:
    tag = answer.headers.get("ETag", "")
    is_strong = tag and not tag.startswith("W/")  # a weak tag may stay when bytes change
    return str(tag if is_strong else answer.headers.get("Last-Modified", ""))


def cause_of(error: requests.RequestException) -> str:
    """Return the short cause inside the long message of requests."""
    text = str(error.args[0] if error.args else error)
    cause = re.search(r"\(Caused by \w+\((.*)\)\)", text)
    return (cause[1] if cause else text)[:200]


def write_fault(path: Path, error: OSError) -> Fault:
    """Return the fault that a file or folder can't be written."""
    what = f"it can't be written ({error.strerror or error})"
    fix = "Free some space or name another folder. Then run the same command again."
    return Fault(str(error.filename or path), what, fix)
