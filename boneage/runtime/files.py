"""Write small files completely or not at all, so that no reader finds half a file."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Provide a temporary file to write, which then replaces `path` in one step.

    After an error or a kill the old file remains. Missing folders are made. The temporary file is
    `.<name>.<random>.part` with the suffix. It is on the disk before it replaces the old file.

    Raises:
        InputError: The file can't be written.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(f".part{suffix}", f".{path.name}.", path.parent)
        part = Path(name)
        os.close(handle)
        yield part
        part.chmod(0o644)  # mkstemp sets 0600, which other users of a container can't read
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(
            Fault(
                str(path),
                f"it can't be written ({error.strerror or error})",
                "Free some disk space, or choose another folder.",
            )
        ) from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)  # already renamed if all went well


def is_part(path: Path) -> bool:
    """Return whether a path is a temporary file of `replacing`."""
    return path.name.startswith(".") and path.name.partition(".part")[1] != ""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step.

    Raises:
        InputError: The file can't be written.
    """
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write one JSON object in one step."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        InputError: The file is missing, not JSON or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            Fault(
                str(path),
                f"the file can't be read: {error}",
                "Check the path. If it is a run folder, the training may not have started.",
            )
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            Fault(str(path), "the file holds no JSON object", "Restore the original file.")
        )
    return values
