"""CPU time and memory of a process and all its descendants."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psutil

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


def tree(process_id: int) -> list[psutil.Process]:
    """Return a process and all its living descendants, parents first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(process_id)
        return [process, *process.children(recursive=True)]
    return []


def cpu_seconds(process_id: int) -> float:
    """Return the CPU seconds of a tree so far, with those of its children that have ended."""
    total = 0.0
    for process in tree(process_id):
        with contextlib.suppress(*_GONE):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb(process_id: int) -> dict[str, float]:
    """Return the memory of a tree in units of 2**20 bytes, without pages of mapped files.

    `anonymous_mb` and `shared_mb` count a page once for each process that has it.
    `proportional_mb` counts each page once.
    """
    anonymous = shared = proportional = 0
    for process in tree(process_id):
        with contextlib.suppress(*_GONE):
            for mapping in process.memory_maps(grouped=False):
                is_shared = mapping.path.startswith(("/memfd:", "/dev/shm", "/dev/zero"))
                anonymous += mapping.anonymous
                shared += mapping.rss if is_shared else 0
                if is_shared or not mapping.path.startswith("/"):
                    proportional += mapping.pss
    parts = {"anonymous_mb": anonymous, "shared_mb": shared, "proportional_mb": proportional}
    return {name: part / 2**20 for name, part in parts.items()}


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that still live."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
