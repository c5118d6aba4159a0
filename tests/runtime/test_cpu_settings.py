from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from boneage.runtime.cpu_settings import keep_freed_memory

FAULTS = """
import resource
import numpy as np
from boneage.runtime.cpu_settings import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(40_000_000, np.uint8)  # 40 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual, kept = faults(), keep_freed_memory({})
faults()
print(usual, kept, faults())
"""

GIVEN_BACK = """
import numpy as np
from boneage.runtime.cpu_settings import (
    give_back_freed_memory, keep_freed_memory, resident_bytes
)

keep_freed_memory({})
start = resident_bytes()
np.ones(40_000_000, np.uint8)
kept = resident_bytes() - start
give_back_freed_memory()
print(kept, resident_bytes() - start)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_freed_memory_is_used_again_without_clearing_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True
    )
    usual, kept, then = done.stdout.split()
    assert kept == "True"
    assert int(then) < 100 < int(usual)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc"
)
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK], capture_output=True, check=True, text=True
    )
    kept, then = map(int, done.stdout.split())
    assert kept > 35_000_000
    assert then < 5_000_000


def test_a_malloc_that_is_tuned_already_is_left_alone() -> None:
    assert keep_freed_memory({"GLIBC_TUNABLES": "1"}) is False
