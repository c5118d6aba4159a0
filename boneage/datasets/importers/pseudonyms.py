"""Names that lead nowhere: keyed digests of patients and radiographs, and the key that stays at home."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from boneage.errors import Fault, InputError

LENGTH = 16
"""Hexadecimal digits of a pseudonym: two of a million radiographs meet once in 37 million cohorts."""
SHORTEST_SALT = 16

_FIX = "Leave --salt out to have one made, or make one: openssl rand -hex 32 > FILE."


class Pseudonyms:
    """Gives the same name to the same patient as long as the salt is the same.

    HMAC-SHA256 and not a plain digest: patient numbers are few enough to be tried one by one, and
    whoever lacks the salt can't try.

    Args:
        salt: The key, `SHORTEST_SALT` bytes or more.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def patient(self, issuer: str, identifier: str) -> str:
        """The pseudonym of a patient; `issuer` keeps two hospitals' equal numbers apart."""
        return self._digest("patient", issuer, identifier)

    def radiograph(self, instance: str) -> str:
        """The pseudonym of one radiograph, by its SOPInstanceUID."""
        return self._digest("film", instance)

    def _digest(self, *parts: str) -> str:
        message = b"\0".join(part.encode() for part in ("boneage", *parts))
        return hmac.new(self._salt, message, hashlib.sha256).hexdigest()[:LENGTH]


def salt_beside(out: Path) -> Path:
    """Where the salt of a manifest is kept unless somebody names another place."""
    return out.with_name(f"{out.name}.salt")


def read_salt(path: Path) -> bytes:
    """Reads a salt; blanks and line ends around it don't count.

    Raises:
        InputError: It is missing, can't be read or is too short to keep a secret.
    """
    try:
        salt = path.read_bytes().strip()
    except FileNotFoundError:
        raise InputError(
            Fault(str(path), "there is no such file", _FIX, expected="the salt of the pseudonyms")
        ) from None
    except OSError as error:
        what = f"it can't be read ({error.strerror})"
        raise InputError(
            Fault(str(path), what, _FIX, expected="the salt of the pseudonyms")
        ) from None
    if len(salt) < SHORTEST_SALT:
        raise InputError(
            Fault(
                str(path),
                f"it holds {len(salt)} bytes",
                "Pseudonyms made with it could be undone. " + _FIX,
                expected=f"{SHORTEST_SALT} random bytes or more",
            )
        )
    return salt


def make_salt(path: Path) -> bool:
    """Makes a salt that only its owner may read, unless there is one already.

    Returns:
        Whether it was made now.

    Raises:
        InputError: It can't be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return False
        handle, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32).hex().encode() + b"\n")
            _place(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise InputError(
            Fault(
                str(path),
                f"it can't be written ({error.strerror})",
                "Name a place that is kept private with --salt.",
                expected="a writable place for the salt of the pseudonyms",
            )
        ) from None
    return True


def _place(part: str, path: Path) -> None:
    """Moves a file to a name that must still be free, where the disk knows links."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network disks know none
        os.replace(part, path)


def is_private(path: Path) -> bool:
    """Whether nobody but the owner may read a file."""
    return not path.stat().st_mode & 0o077
