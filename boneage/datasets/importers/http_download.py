"""One file over HTTP, however often the connection drops: resumed, checked, and never half."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_json, write_json

WAITS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds before each further try; after the last one the server is given up."""

_FEW_TRIES = 2  # when nothing was had from the server yet: who has no network wants to know soon
_TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces
_CHUNK = 1 << 16  # the last one, cut short by a dropped connection, is lost
_SOME = 1 << 16  # a try that brought so much was a good one
_MOST_CHANGES = 3
_RESUME = "What has come so far is kept: run the same command again to go on."

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Remote:
    """A file as the server has it.

    Attributes:
        url: Where.
        size: Bytes.
        validator: Its ETag, or else the time of its last change; changes when the file does.
    """

    url: str
    size: int
    validator: str


class _TryAgain(Exception):  # noqa: N818 - no error yet
    pass


class _Changed(Exception):  # noqa: N818
    pass


def ask(session: requests.Session, url: str) -> Remote:
    """Asks how large a file is, without fetching it.

    Raises:
        InputError: There is no network, no such file, or no answer that says it.
    """

    def head() -> Remote:
        try:
            answer = session.head(url, timeout=_TIMEOUT, allow_redirects=True, headers=_PLAIN)
        except requests.RequestException as error:
            raise _TryAgain(why_unreachable(error)) from None
        _check_status(answer, url)
        length = answer.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) == 0:
            raise InputError(
                Fault(
                    url,
                    "the server doesn't say how large it is",
                    "Is a proxy in between? Try without it.",
                    expected="a header Content-Length",
                )
            )
        return Remote(url, int(length), _validator(answer))

    for wait in (*WAITS[:_FEW_TRIES], None):
        try:
            return head()
        except _TryAgain as error:
            if wait is None:
                raise InputError(
                    Fault(
                        url,
                        f"it can't be reached ({error})",
                        "Check the network, and the proxy if there is one (HTTPS_PROXY).",
                        expected="a connection to that server",
                    )
                ) from None
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def fetch(
    session: requests.Session, remote: Remote, target: Path, *, advance: Advance = lambda n: None
) -> None:
    """Fetches a file. While it is coming it is called `<name>.part`, and is taken up from there.

    Args:
        session: To fetch it with.
        remote: What `ask` said of it.
        target: What to call it when it is whole.
        advance: Told how many bytes were added; fewer than 0 when it had to start anew.

    Raises:
        InputError: The server gives up or refuses, or the disk does. The part is kept.
    """
    part, record = part_of(target), record_of(target)
    changes = 0
    while True:
        have = bytes_here(remote, target)
        if have == 0:
            try:
                part.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(_disk_fault(part, error)) from None
            write_json(record, asdict(remote))
        advance(have)
        try:
            _fetch_part(session, remote, part, advance)
            break
        except _Changed:
            advance(-_size(part))
            changes += 1
            if changes > _MOST_CHANGES:
                raise InputError(
                    Fault(
                        remote.url,
                        "the file changes on the server while it is fetched",
                        "Try again later.",
                        expected="the same file throughout",
                    )
                ) from None
            record.unlink(missing_ok=True)
            remote = ask(session, remote.url)
    part.replace(target)


def part_of(target: Path) -> Path:
    """What a file is called while it is coming."""
    return target.with_name(f"{target.name}.part")


def record_of(target: Path) -> Path:
    """What says which file of which server a part, or a whole file, is."""
    return target.with_name(f".{target.name}.json")


def bytes_here(remote: Remote, target: Path) -> int:
    """How much of a file is here already and can be gone on from."""
    part, record = part_of(target), record_of(target)
    if not remote.validator or not part.is_file() or not record.is_file():
        return 0
    try:
        known = read_json(record)
    except InputError:
        return 0
    have = _size(part)
    return have if known == asdict(remote) and have <= remote.size else 0


def why_unreachable(error: requests.RequestException) -> str:
    """The cause inside what requests says, which is wordy."""
    text = str(error.args[0] if error.args else error)
    cause = re.search(r"\(Caused by \w+\((.*)\)\)", text)
    return (cause[1] if cause else text)[:200]


def _fetch_part(session: requests.Session, remote: Remote, part: Path, advance: Advance) -> None:
    failures = 0
    while (have := _size(part)) < remote.size:
        try:
            _try_once(session, remote, part, advance)
        except _TryAgain as error:
            failures = 0 if _size(part) - have >= _SOME else failures + 1
            if failures > len(WAITS):
                raise InputError(
                    Fault(
                        remote.url,
                        f"the connection failed {failures} times in a row (at last: {error})",
                        _RESUME,
                        expected=f"all {remote.size:,} bytes; {_size(part):,} have come",
                    )
                ) from None
            time.sleep(WAITS[max(failures - 1, 0)])


def _try_once(session: requests.Session, remote: Remote, part: Path, advance: Advance) -> None:
    have = _size(part)
    if have and not remote.validator:  # the rest could be that of another file
        part.unlink()
        advance(-have)
        have = 0
    headers = dict(_PLAIN)
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": remote.validator}
    try:
        with session.get(remote.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == 416:  # it has no such bytes: another file, or a confused one
                raise _Changed
            _check_status(answer, remote.url)
            if answer.status_code == 206:
                _check_range(answer, remote, have)
            elif answer.headers.get("Content-Length", str(remote.size)) != str(remote.size) or (
                _validator(answer) != remote.validator
            ):
                raise _Changed
            else:  # all of it, though only the rest was asked for
                advance(-have)
                have = 0
            _receive(answer, remote, part, have, advance)
    except requests.RequestException as error:
        raise _TryAgain(why_unreachable(error)) from None


def _receive(
    answer: requests.Response, remote: Remote, part: Path, have: int, advance: Advance
) -> None:
    try:
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            for chunk in answer.iter_content(_CHUNK):
                room = remote.size - have
                file.write(chunk[:room])
                have += min(len(chunk), room)
                advance(min(len(chunk), room))
                if len(chunk) > room:
                    raise _Changed
    except requests.RequestException:
        raise  # is an OSError too
    except OSError as error:
        raise InputError(_disk_fault(part, error)) from None
    if have < remote.size:
        raise _TryAgain("it ended early")


def _check_range(answer: requests.Response, remote: Remote, have: int) -> None:
    """Sees that what comes is the rest of the same file."""
    said = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    same = said and (int(said[1]), int(said[2])) == (have, remote.size)
    if not same or _validator(answer) not in ("", remote.validator):
        raise _Changed


def _check_status(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in (408, 425, 429) or status >= 500:
        raise _TryAgain(f"the server answered {status} {answer.reason}")
    if status not in (200, 206):
        raise InputError(
            Fault(
                url,
                f"the server answered {status} {answer.reason}",
                "Was it moved, or is a proxy in between that doesn't let it through?",
                expected="the file",
            )
        )


# A file packed for the way would have another size, and bytes in it could not be counted.
_PLAIN = {"Accept-Encoding": "identity"}


def _validator(answer: requests.Response) -> str:
    tag: str = answer.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):  # a weak one may stay while bytes change
        return tag
    changed: str = answer.headers.get("Last-Modified", "")
    return changed


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _disk_fault(part: Path, error: OSError) -> Fault:
    return Fault(
        str(part),
        f"it can't be written ({error.strerror or error})",
        f"Make room or mend it. {_RESUME}",
        expected="a writable folder with room in it",
    )
