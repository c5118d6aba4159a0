"""A command in its own process: its exit code, and the signals it receives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from boneage.training.series.command_process import CommandRunner, describe_exit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


def long_command(folder: Path) -> list[str]:
    """A command that takes minutes. It is running once the folder exists."""
    return ["data", "phantom", str(folder / "cohort"), "--count", "20000", "--size", "1024"]


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_and(action: Callable[[], None], folder: Path) -> tuple[CommandRunner, int]:
    """Runs the long command, and the action once the command is running."""

    def act() -> None:
        wait_for((folder / "cohort").exists)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    with CommandRunner() as runner:
        code = runner.run(long_command(folder), to_stderr=True)
    thread.join()
    return runner, code


def test_output_and_messages_are_passed_on(tmp_path, capfd):
    with CommandRunner() as runner:
        assert runner.run(["--help"]) == 0
        assert "cross-validate" in capfd.readouterr().out
        assert runner.run(["train", str(tmp_path / "none.toml")], to_stderr=True) == 2
    captured = capfd.readouterr()
    assert "none.toml" in captured.err
    assert captured.out == ""


def test_a_killed_command_names_the_signal(tmp_path):
    before = set(psutil.Process().children())  # of earlier tests

    def kill() -> None:
        (child,) = set(psutil.Process().children()) - before
        child.kill()

    _, code = run_and(kill, tmp_path)
    assert code == -signal.SIGKILL
    assert "killed by signal 9 (Killed)" in describe_exit(code)


@pytest.mark.slow
def test_ctrl_c_is_forwarded_and_remembered(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    runner, code = run_and(lambda: os.kill(os.getpid(), signal.SIGINT), tmp_path)
    assert code == 130
    assert runner.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_a_command_ends_when_its_parent_is_killed(tmp_path):
    module = "boneage.training.series.command_process"
    code = f"import sys; from {module} import CommandRunner; CommandRunner().run(sys.argv[1:])"
    parent = subprocess.Popen([sys.executable, "-c", code, *long_command(tmp_path)])
    wait_for((tmp_path / "cohort").exists)
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    child.wait(30)
    assert not child.is_running()
