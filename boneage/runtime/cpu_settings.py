"""What glibc does with freed memory: keep it for a training, or give it back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Make glibc keep freed memory for the next allocation. Elsewhere this does nothing.

    By default glibc returns every large array to the system. The system then clears each page of
    the next array. A training frees and allocates gigabytes per step
    (`experiments/throughput/cpu_settings.py` measures the cost).

    Args:
        environment: Environment variables. If they tune malloc already, nothing is changed.

    Returns:
        Whether glibc keeps freed memory now.
    """
    if os.name != "posix" or any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environment
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def resident_bytes() -> int:
    """Return the memory that this process has in use; 0 where that is not known."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def give_back_freed_memory() -> None:
    """Make glibc give freed memory back to the system. Elsewhere this does nothing.

    Without it, one large image makes a process larger for good. The next image then costs more,
    because the system clears each page again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
