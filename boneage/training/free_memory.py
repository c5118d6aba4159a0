"""How much memory there is still to take: the machine's, a container's, a graphics card's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def host_bytes(proc: Path = _PROC, groups: Path = _GROUPS) -> int | None:
    """The main memory that this process may still take; None where that can't be told.

    On Linux the least of what the machine has, swap included, what every control group allows
    (that is how containers and Slurm limit it), and what `ulimit -v` leaves.

    Args:
        proc: Where the kernel tells of memory and processes.
        groups: Where it tells of control groups, of either version.
    """
    memory = _table(proc / "meminfo", 1024)
    if "MemAvailable" not in memory:
        return None
    swap = memory.get("SwapFree", 0)
    left = [memory["MemAvailable"] + swap]
    left += [room + swap for room in _group_rooms(proc / "self/cgroup", groups)]
    address_space = address_space_bytes(proc)
    if address_space is not None:
        left.append(address_space)
    return max(0, min(left))


def address_space_bytes(proc: Path = _PROC) -> int | None:
    """What `ulimit -v` leaves of this process' address space; None where it sets no limit."""
    if os.name != "posix":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return limit - _table(proc / "self/status", 1024).get("VmSize", 0)


def largest_device_bytes() -> int | None:
    """All memory, in use or not, of the largest NVIDIA card here; None where nothing tells."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return max(int(line) for line in told.split()) * 2**20
    except (OSError, subprocess.CalledProcessError, ValueError):  # absent, or "[N/A]"
        return None


def _group_rooms(listing: Path, groups: Path) -> Iterator[int]:
    """What is left in each control group that this process is in, up to the root."""
    for line in _lines(listing):
        _, controllers, path = line.split(":", 2)
        root = groups / "memory" if "memory" in controllers.split(",") else groups
        if controllers and root == groups:
            continue  # another controller's, of version 1
        # A container may be told the path that it has outside; its own files are at the root then.
        inside = root / path.strip("/")
        for folder in (inside, *inside.parents):
            yield from _group_room(folder)
            if folder == root:
                break


def _group_room(group: Path) -> Iterator[int]:
    versions = (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    )
    for limit_file, usage_file, prefix in versions:
        limit, usage = _number(group / limit_file), _number(group / usage_file)
        if limit is not None and usage is not None:
            stat = _table(group / "memory.stat")
            # Pages of files count as used, and are given up when somebody asks for memory.
            given_up = sum(stat.get(f"{prefix}{age}_file", 0) for age in ("inactive", "active"))
            yield limit - usage + given_up


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _table(path: Path, unit: int = 1) -> dict[str, int]:
    """A file of the kernel's with a name and a number a line; empty where there is none."""
    fields = (line.replace(":", " ").split() for line in _lines(path))
    return {f[0]: int(f[1]) * unit for f in fields if len(f) > 1 and f[1].isdigit()}


def _number(path: Path) -> int | None:
    first = next(iter(_lines(path)), "")
    return int(first) if first.isdigit() else None  # or "max": no limit
