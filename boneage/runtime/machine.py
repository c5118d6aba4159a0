"""Compare what a user asks for with this machine, before it takes memory, disk space or processes.

A machine that runs out of memory ends other people's processes, so limits come before the work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from rich.filesize import decimal

from boneage.errors import Fault, InputError
from boneage.runtime.provenance import usable_cores

WORKERS_PER_CORE = 4
ALWAYS_ALLOWED_WORKERS = 16
_WORKER_BYTES = 100 * 2**20  # a worker process of its own, with Python, numpy and OpenCV
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def usable_memory() -> int | None:
    """Return the bytes of memory that this machine or container has; None if unknown."""
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not POSIX
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(path.read_text()))
    return min(limits, default=None)


def check_workers(workers: int, where: str) -> None:
    """Refuse more worker processes or threads than this machine can have any use of.

    Args:
        workers: Their number.
        where: The setting that says so.

    Raises:
        InputError: There are too many.
    """
    cores, memory = usable_cores(), usable_memory()
    largest = max(ALWAYS_ALLOWED_WORKERS, WORKERS_PER_CORE * cores)
    reason = f"this machine has {cores} cores"
    if memory is not None and memory // (2 * _WORKER_BYTES) < largest:
        largest = max(cores, memory // (2 * _WORKER_BYTES))
        reason = f"this machine has {memory / 1e9:.1f} GB of memory"
    if workers > largest:
        what = f"it is {workers:,}, and {reason}"
        raise InputError(Fault(where, what, f"Set at most {largest}. The best number is {cores}."))


def check_memory(needed: int, where: str, what: str, fix: str) -> None:
    """Refuse what needs more memory than this machine has.

    Args:
        needed: Bytes.
        where: The setting that says so.
        what: What needs the memory.
        fix: What to set instead.

    Raises:
        InputError: There is too little memory.
    """
    memory = usable_memory()
    if memory is not None and needed > memory:
        need = f"{what} needs {needed / 1e9:,.1f} GB of memory, and this machine has"
        raise InputError(Fault(where, f"{need} {memory / 1e9:.1f} GB", fix))


def check_disk(
    folder: Path, needed: int, fix: str = "Free some space, or name another folder."
) -> None:
    """Refuse what needs more space than a disk has left.

    Args:
        folder: A folder on the disk. It need not exist yet.
        needed: Bytes.
        fix: What to do instead.

    Raises:
        InputError: There is too little space.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        what = f"its disk has {decimal(free)} left, but {decimal(needed)} are needed"
        raise InputError(Fault(str(folder), what, fix))
