"""A verb in a process of its own: what it told, the signals it gets, whose end it shares."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from boneage.training.series.command_process import VerbProcesses

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and /proc are POSIX's")


def long_verb(folder: Path) -> list[str]:
    """One that takes minutes, and has begun when the folder is there."""
    return ["data", "phantom", str(folder / "films"), "--count", "20000", "--size", "1024"]


def when_begun(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "films").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, of, *_ = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(of) == parent and state not in "ZX":
            found.append(int(status.parent.name))
    return found


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_verb_that_ends_well_and_one_that_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with VerbProcesses() as processes:
        assert processes.run(["--help"]).status == 0
        assert "cross-validate" in capfd.readouterr().out
        ended = processes.run(["train", str(tmp_path / "none.toml")], to_stderr=True)
    captured = capfd.readouterr()
    assert ended.status == 2
    assert "none.toml: there is no such file" in ended.reason
    assert not ended.reason.startswith("error: ")
    assert f"error: {ended.reason}" in captured.err, "it is passed on as it comes"
    assert captured.out == ""


def test_a_verb_that_is_killed_says_by_what(tmp_path: Path) -> None:
    before = children(os.getpid())  # of tests that came earlier

    def kill() -> None:
        when_begun(tmp_path)
        (child,) = set(children(os.getpid())) - set(before)
        os.kill(child, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with VerbProcesses() as processes:
        ended = processes.run(long_verb(tmp_path), to_stderr=True)
    killer.join()
    assert ended.status == -signal.SIGKILL
    assert ended.reason == "it was killed by signal 9 (Killed)"


def test_ctrl_c_goes_to_the_verb_and_is_remembered(tmp_path: Path) -> None:
    def interrupt() -> None:
        when_begun(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with VerbProcesses() as processes:
        ended = processes.run(long_verb(tmp_path), to_stderr=True)
    interrupter.join()
    assert ended.status == 130
    assert processes.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    module = "boneage.training.series.command_process"
    code = f"import sys; from {module} import VerbProcesses as P; P().run(sys.argv[1:])"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *long_verb(tmp_path)], stderr=subprocess.DEVNULL
    )
    when_begun(tmp_path)
    (child,) = children(parent.pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while is_there(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
