from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from boneage.heap import keep_freed_memory

FAULTS = """
import resource
import numpy as np
from boneage.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(40_000_000, np.uint8)  # 40 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual, kept = faults(), keep_freed_memory({})
faults()
print(usual, kept, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_what_is_freed_is_used_again_without_the_system_clearing_it() -> None:
    said = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True
    )
    usual, kept, then = said.stdout.split()
    assert kept == "True"
    assert int(then) < 100 < int(usual)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_whoever_has_tuned_malloc_is_left_to_it(name: str) -> None:
    assert keep_freed_memory({name: "1"}) is False
