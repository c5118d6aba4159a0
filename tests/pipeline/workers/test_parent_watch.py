from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX"),
    pytest.mark.slow,
]

# The module of the workers imports for a second or more.
PARENT = """
import sys, time
from boneage.pipeline.workers.child_process import Child
children = [Child({module!r}) for _ in range(3)]
print(*[child.process.pid for child in children], flush=True)
{then}
time.sleep(60)
"""


def are_gone(processes: list[int], seconds: float) -> bool:
    def is_alive(process: int) -> bool:
        try:
            return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + seconds
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, processes))


def start(module: str, then: str = "") -> tuple[subprocess.Popen[str], list[int]]:
    code = PARENT.format(module=module, then=then)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, [int(process) for process in parent.stdout.readline().split()]


@pytest.mark.parametrize("seconds", [0, 0.05, 0.3])
def test_workers_that_still_import_end_with_a_killed_parent(seconds: float) -> None:
    parent, workers = start("boneage.pipeline.workers.process")
    with parent:
        time.sleep(seconds)
        parent.kill()
        parent.wait()
        assert len(workers) == 3
        assert are_gone(workers, 2)


def test_workers_that_still_import_end_when_the_socket_closes() -> None:
    close = "for child in children: child.connection.close()"
    parent, workers = start("boneage.pipeline.workers.process", close)
    with parent:
        assert are_gone(workers, 5)
        parent.kill()
