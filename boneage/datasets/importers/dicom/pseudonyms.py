"""Pseudonyms of patients and radiographs: keyed digests, and the salt file that holds the key."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from boneage.errors import Fault, InputError
from boneage.runtime.files import read_bytes

PSEUDONYM_LENGTH = 16
"""Hexadecimal digits: among a million radiographs, two are equal in one of 37 million cohorts."""
MIN_SALT_BYTES = 16

_FIX = "Omit --salt to create one, or create one yourself: openssl rand -hex 32 > FILE."


class Pseudonyms:
    """Gives the same pseudonym to the same patient as long as the salt is the same.

    HMAC-SHA256, not a plain digest. Patient numbers are few enough to try every one of them, but
    nobody can try without the salt.

    Args:
        salt: The key, at least `MIN_SALT_BYTES` long.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def patient(self, issuer: str, patient_id: str) -> str:
        """Return the pseudonym of a patient; `issuer` separates equal numbers of two hospitals."""
        return self._digest("patient", issuer, patient_id)

    def radiograph(self, instance_uid: str) -> str:
        """Return the pseudonym of one radiograph, by its SOPInstanceUID."""
        return self._digest("film", instance_uid)  # the word of the first imports

    def _digest(self, *parts: str) -> str:
        message = b"\0".join(part.encode() for part in ("boneage", *parts))
        return hmac.new(self._salt, message, hashlib.sha256).hexdigest()[:PSEUDONYM_LENGTH]


def read_salt(path: Path) -> bytes:
    """Read a salt file; surrounding blanks and line ends do not count.

    Raises:
        InputError: The file is missing, can't be read, or is too short to protect anybody.
    """
    salt = read_bytes(path).strip()
    if len(salt) < MIN_SALT_BYTES:
        what = f"the salt has {len(salt)} bytes, so its pseudonyms could be reversed"
        expected = f"at least {MIN_SALT_BYTES} random bytes"
        raise InputError(Fault(str(path), what, _FIX, expected=expected))
    return salt


def make_salt(path: Path) -> bool:
    """Create a salt file that only its owner may read, unless there is one already.

    Returns:
        Whether the file was created now.

    Raises:
        InputError: The file can't be written.
    """
    key = secrets.token_bytes(32).hex() + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(key)
    except FileExistsError:
        return False
    except OSError as error:
        what = f"the salt file can't be written ({error.strerror})"
        fix = "Name a private, writable file with --salt."
        raise InputError(Fault(str(path), what, fix)) from None
    return True


def is_private(path: Path) -> bool:
    """Return whether nobody but the owner may read a file."""
    return not path.stat().st_mode & 0o077
