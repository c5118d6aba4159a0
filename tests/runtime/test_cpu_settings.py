from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from boneage.runtime.cpu_settings import _without_greeting, keep_freed_memory

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


LOADED = """
import os, sys
from boneage.runtime.cpu_settings import import_keras
import_keras()
print(os.environ["TF_ENABLE_ONEDNN_OPTS"], "keras" in sys.modules)
"""


@pytest.mark.parametrize(("given", "then"), [(None, "1"), ("0", "0")])
def test_keras_comes_with_fast_convolutions_and_without_their_greeting(
    monkeypatch: pytest.MonkeyPatch, given: str | None, then: str
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    came = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert came.stdout.split() == [then, "True"]
    assert "oneDNN" not in came.stderr
    assert "InitializeLog" not in came.stderr


def test_what_goes_wrong_meanwhile_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with _without_greeting():
            os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You may see\n")
            os.write(2, b"libcuda.so is missing\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "libcuda.so is missing\n"
