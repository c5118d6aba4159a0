"""What a process that computes on a CPU does with memory that it has done with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Has glibc keep what is freed for what is asked for next; nothing is done elsewhere.

    As it comes, glibc gives every large array back to the system at once, which then clears each
    page of the next one before it can be written to. A training frees and takes gigabytes a step,
    and on two cores spent up to half of its time on that (see experiments/throughput).

    Args:
        environment: Whoever has tuned malloc there is left to it.

    Returns:
        Whether that is so now.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environment):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
