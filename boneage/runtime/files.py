"""Write files completely or not at all; read only regular files of a limited size."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError

LARGEST_TEXT = 64 * 2**20  # bytes of a JSON, TOML or history file; ours have a few thousand
LARGEST_FILE = 2**40  # bytes of a model, a checkpoint or an archive
DEEPEST_JSON = 20  # objects and lists inside one another; ours have six
_CHECK_PATH = "Check the path."
_unfinished: set[Path] = set()  # temporary files and folders that are being written


class RegularFile(io.BufferedReader):
    """A file whose `read` never reserves more memory than the file has bytes left."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or all that are left."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_regular(path: Path, limit: int = LARGEST_TEXT) -> RegularFile:
    """Open a regular file of at most `limit` bytes for reading.

    Every file that a user names is opened here. A pipe would never end, a device would fill the
    memory.

    Raises:
        InputError: It is missing, a folder, a pipe, a device, too large or not readable.
    """
    fix = _CHECK_PATH
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        file = RegularFile(io.FileIO(path, opener=_open_without_waiting))
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size <= limit:
            return file
        file.close()
        if stat.S_ISREG(status.st_mode):
            what = f"the file has {status.st_size:,} bytes, more than the limit of {limit:,}"
            fix = "Is it the right file?"
        else:
            what = "the path can't be read as a file: it is a folder, a pipe or a device"
    except FileNotFoundError:
        what = "there is no such file"
    except IsADirectoryError:
        what, fix = "the path can't be read as a file: it is a folder", "Name the file inside it."
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        what = f"the file can't be read ({getattr(error, 'strerror', None) or error})"
    raise InputError(Fault(str(path), what, fix))


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_bytes(path: Path, limit: int = LARGEST_TEXT) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raises:
        InputError: As `open_regular`, or the disk fails.
    """
    with open_regular(path, limit) as file:
        try:
            return file.read()
        except OSError as error:
            what = f"the file can't be read ({error.strerror or error})"
            raise InputError(Fault(str(path), what, _CHECK_PATH)) from None


def read_text(path: Path, limit: int = LARGEST_TEXT) -> str:
    """Return the UTF-8 text of a regular file of at most `limit` bytes.

    Raises:
        InputError: As `read_bytes`, or the file is no UTF-8 text.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the file is not UTF-8 text (byte {error.start})"
        raise InputError(Fault(str(path), what, "Save it as UTF-8.")) from None


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Provide a temporary file to write, which then replaces `path` in one step.

    After an error or a kill the old file remains. Missing folders are made. The temporary file is
    `.<name>.<random>.part` with the suffix. It is on the disk before it replaces the old file.

    Raises:
        InputError: The file can't be written, or the path is a folder, a pipe or a device.
    """
    part: Path | None = None
    try:
        _refuse_irregular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(f".part{suffix}", f".{path.name}.", path.parent)
        part = Path(name)
        _unfinished.add(part)
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
            _unfinished.discard(part)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "boneage-") -> Iterator[Path]:
    """Provide a new folder that is removed at the end, however the process ends by a signal.

    Args:
        parent: The folder that it is made in. Default: that of the system's temporary files.
        prefix: The beginning of its name.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:
        _unfinished.add(Path(name))
        try:
            yield Path(name)
        finally:
            _unfinished.discard(Path(name))


def check_new_folder(out: Path) -> None:
    """Check that a folder can be made: nothing has its name, or an empty folder.

    Raises:
        InputError: The path is in use, or no file can be written next to it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(Fault(str(out), "it exists already", "Move it, or name another folder."))
    check_folder_writable(out.parent)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Provide a folder to fill, which becomes `out` in one step if all goes well.

    It has the name of `out`. After an error nothing is left.

    Raises:
        InputError: As `check_new_folder`.
    """
    check_new_folder(out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out.absolute().parent, f".{out.name}.") as parent:
        folder = parent / out.name
        folder.mkdir()
        yield folder
        folder.chmod(0o755)
        if out.exists():
            out.rmdir()
        folder.rename(out)


def remove_unfinished() -> None:
    """Remove the temporary files and folders of this process, which is about to end."""
    for path in tuple(_unfinished):
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_folder_writable(folder: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet. Nothing is made.

    Raises:
        InputError: No file can be written to the folder or, if it is missing, next to it.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        what = f"no file can be written to this folder ({error.strerror})"
        raise InputError(Fault(str(folder), what, "Choose another folder with --out.")) from None


def is_lost_with_container(folder: Path) -> bool:
    """Return whether a folder of one of our images is on no volume, and so goes with the container.

    The images set `BONEAGE_IMAGE`. Elsewhere the answer is False.
    """
    whole = folder.absolute()
    mounts = (whole, *whole.parents[:-1])  # all but the root
    return "BONEAGE_IMAGE" in os.environ and not any(map(os.path.ismount, mounts))


def check_file_writable(path: Path) -> None:
    """Check that a file can be written, which need not exist yet. Nothing is made.

    Raises:
        InputError: The path is a folder, a pipe or a device, or no file can be written there.
    """
    check_folder_writable(path.parent)
    _refuse_irregular(path)


def _refuse_irregular(path: Path) -> None:
    if path.is_dir():
        raise InputError(Fault(str(path), "it is a folder", f"Name a file: {path / 'NAME'}."))
    if path.exists() and not path.is_file():  # root could put a file in place of /dev/null
        raise InputError(Fault(str(path), "it is a pipe or a device", "Name a file."))


def home_folder() -> Path:
    """Return the user's home folder, or that of temporary files for a user without one."""
    try:
        return Path.home()
    except RuntimeError:  # a container started with --user, without HOME
        return Path(tempfile.gettempdir())


def cache_folder() -> Path:
    """Return the folder of phantoms, and of stores whose manifest lies where none can be."""
    return Path(os.environ.get("BONEAGE_CACHE") or home_folder() / ".cache" / "boneage")


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


def json_bytes(values: dict[str, Any]) -> bytes:
    """Return the content of a file with one JSON object."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write one JSON object in one step."""
    write_bytes(path, json_bytes(values))


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object of at most `LARGEST_TEXT` bytes.

    Raises:
        InputError: The file is missing, no regular file, too large, not JSON or not an object.
    """
    try:
        values = json.loads(read_text(path))
    except InputError as error:
        fix = f"{error.faults[0].fix} If it is a run folder, the training may not have started."
        raise InputError(replace(error.faults[0], fix=fix)) from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; deep nesting
        what = f"the file is not JSON that can be read: {error}"
        raise InputError(Fault(str(path), what, "Restore the original file.")) from None
    what = ""
    if not isinstance(values, dict):
        what = "the file holds no JSON object"
    elif _is_deeper(values, DEEPEST_JSON):
        what = f"the file is not JSON that can be read: more than {DEEPEST_JSON} levels of nesting"
    if what:
        raise InputError(Fault(str(path), what, "Restore the original file."))
    return dict(values)


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in inner)
