"""Small files, written whole or not at all: a reader never meets half of one."""

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
    """Gives a new file to write; it then takes the name `path` in one step, or goes again.

    A kill leaves the old file or none; folders are made. While it is being written it is called
    `.<name>.<random>.part`, and the suffix. It is on the disk before the old one is gone.

    Raises:
        InputError: It can't be written there.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(f".part{suffix}", f".{path.name}.", path.parent)
        part = Path(name)
        os.close(handle)
        yield part
        part.chmod(0o644)  # mkstemp's 0600 would hide it from a container's other user
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(
            Fault(
                str(path),
                f"it can't be written ({error.strerror or error})",
                "Name another place for it.",
                expected="a writable place with room in it",
            )
        ) from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)  # gone already when all went well


def is_part(path: Path) -> bool:
    """Whether that is a file of `replacing`: half written, if nobody is writing it."""
    return path.name.startswith(".") and path.name.partition(".part")[1] != ""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one step, as `replacing` does.

    Raises:
        InputError: It can't be written there.
    """
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes one JSON object as `write_bytes` does."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
        InputError: The file is missing, not JSON or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            Fault(
                str(path),
                f"can't be read: {error}",
                "Was the run interrupted?",
                expected="a JSON file",
            )
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            Fault(str(path), "holds no JSON object", "Was the file edited?", expected="an object")
        )
    return values
