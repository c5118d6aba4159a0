from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.throughput.benchmark.processes import cpu_seconds, memory_mb, send, tree

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")

CHILD = """
import subprocess, sys, time
held = bytearray(40_000_000)
waiting = "import time; print('up', flush=True); time.sleep(60)"
inner = subprocess.Popen([sys.executable, "-c", waiting])
until = time.process_time() + 0.3
while time.process_time() < until:
    pass
time.sleep(60)
"""


def state(process_id: int) -> str:
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_tree_is_measured_stopped_and_ended_as_one():
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # from the grandchild
        members = tree(child.pid)
        assert members[0] == child.pid
        assert len(members) == 2
        assert set(members) < set(tree(os.getpid()))

        deadline = time.monotonic() + 20
        while cpu_seconds(child.pid) < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held = memory_mb(child.pid)
        assert held["anonymous_mb"] > 38
        assert 38 < held["proportional_mb"] <= held["anonymous_mb"] + held["shared_mb"] + 1

        send(child.pid, signal.SIGSTOP)
        while {state(member) for member in members} != {"T"}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        send(child.pid, signal.SIGCONT)
        while "T" in {state(member) for member in members}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        send(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    assert memory_mb(child.pid) == {"anonymous_mb": 0, "shared_mb": 0, "proportional_mb": 0}
    assert cpu_seconds(child.pid) == 0
