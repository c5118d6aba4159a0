"""Download one file over HTTP, and resume after a broken connection.

Only the size is checked here. The checksums in the archive tell whether the bytes are right.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from boneage.errors import Fault, InputError

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds before each further try of a transfer that brought nothing."""
CHUNK = 1 << 16
BUSY_RETRIES = 4
BUSY_WAIT = 1.0
"""Seconds before the second retry of a busy server; each further wait is twice as long."""

_TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
_BUSY = (408, 425, 429, 500, 502, 503, 504)

Advance = Callable[[int], None]


class Remote(NamedTuple):
    """A file on the server; the validator (ETag or Last-Modified) changes when the file does."""

    url: str
    size: int
    validator: str


def open_session() -> requests.Session:
    """Return a session that asks a busy server again."""
    retry = Retry(
        total=BUSY_RETRIES,
        connect=1,
        read=0,
        backoff_factor=BUSY_WAIT,
        status_forcelist=_BUSY,
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def ask(session: requests.Session, url: str) -> Remote:
    """Return the size and validator of a file on a server.

    Raises:
        InputError: There is no network, no such file, or no size in the answer.
    """
    try:
        with _request(session, "HEAD", url, {}) as answer:
            headers = answer.headers
    except requests.RequestException as error:
        what = f"the server can't be reached ({_cause(error)})"
        fix = "Check the network, and the proxy if there is one (HTTPS_PROXY)."
        raise InputError(Fault(url, what, fix)) from None
    length = headers.get("Content-Length", "")
    if not length.isdecimal() or int(length) == 0:
        what, fix = "the server does not say how large the file is", "Try without a proxy."
        raise InputError(Fault(url, what, fix))
    return Remote(url, int(length), headers.get("ETag") or headers.get("Last-Modified", ""))


def fetch(
    session: requests.Session, remote: Remote, part: Path, *, advance: Advance = lambda count: None
) -> None:
    """Download a file, or the rest of it, to `part`.

    Args:
        session: From `open_session`.
        remote: The answer of `ask`.
        part: The file to write, or to complete.
        advance: Called with the number of bytes added; negative when the download starts again.

    Raises:
        InputError: The server fails or refuses, or the disk does. The bytes received are kept.
    """
    failures, have = 0, received(part)
    try:
        advance(have)
        while have != remote.size:
            try:
                _fetch_rest(session, remote, part, have, advance)
                reason = "the size is wrong"
            except requests.RequestException as error:
                reason = _cause(error)
            before, have = have, received(part)
            failures = 0 if before < have < remote.size else failures + 1
            if failures > len(WAITS) and have != remote.size:
                what = f"{have:,} of {remote.size:,} bytes have come, then the transfer failed"
                what += f" {failures} times in a row ({reason})"
                fix = "The bytes received are kept. Run the same command again to resume."
                raise InputError(Fault(remote.url, what, fix))
            if have != remote.size:
                time.sleep(WAITS[max(failures - 1, 0)])
    except OSError as error:
        raise InputError(write_fault(part, error)) from None


def _fetch_rest(
    session: requests.Session, remote: Remote, part: Path, have: int, advance: Advance
) -> None:
    # With If-Range, a server sends the whole file if it has changed since `ask`.
    is_rest = 0 < have < remote.size
    headers = {"Range": f"bytes={have}-", "If-Range": remote.validator} if is_rest else {}
    with _request(session, "GET", remote.url, headers) as answer:
        is_rest = answer.status_code == 206
        if not is_rest:
            advance(-have)
        with part.open("ab" if is_rest else "wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                advance(len(chunk))


def _request(
    session: requests.Session, method: str, url: str, headers: Mapping[str, str]
) -> requests.Response:
    answer = session.request(
        method,
        url,
        headers={"Accept-Encoding": "identity", **headers},  # a compressed file has another size
        stream=True,
        timeout=_TIMEOUT,
        allow_redirects=True,
    )
    if not answer.ok:
        answer.close()
        what = f"the server answered {answer.status_code} {answer.reason}"
        fix = "Check the address, and the proxy if there is one (HTTPS_PROXY)."
        raise InputError(Fault(url, what, fix))
    return answer


def received(part: Path) -> int:
    """Return how many bytes of a file have come."""
    return part.stat().st_size if part.exists() else 0


def _cause(error: requests.RequestException) -> str:
    """Return the short cause inside the long message of requests."""
    text = str(error.args[0] if error.args else error)
    cause = re.search(r"\(Caused by \w+\((.*)\)\)", text)
    return (cause[1] if cause else text)[:200]


def write_fault(path: Path, error: OSError) -> Fault:
    """Return the fault that a file or folder can't be written."""
    what = f"it can't be written ({error.strerror or error})"
    fix = "Free some space or name another folder. Then run the same command again."
    return Fault(str(error.filename or path), what, fix)
