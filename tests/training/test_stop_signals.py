"""A request to stop: after the batch, or at once where nothing heeds it, and always in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from boneage.training.stop_signals import Stop, Terminated

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_is_raised_and_where_it_is_heeded_only_a_second_ctrl_c(number, error, capsys):
    stop = Stop()
    with stop.listening(), pytest.raises(error):
        signal.raise_signal(number)
    stop = Stop()
    with stop.listening(), stop.heeded():
        signal.raise_signal(number)
        assert stop.asked == number
        assert f"{number.name}: stopping after this batch" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_may_come_twice_as_slurm_sends_it(capsys):
    stop = Stop()
    with stop.listening(), stop.heeded():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert capsys.readouterr().err.count("stopping after this batch") == 1
    with stop.listening():  # what is kept after the batch is kept whole
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Terminated):
        stop.raise_it()


def test_the_former_handlers_are_restored_and_another_thread_sets_none():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads, seen = threading.active_count(), []

    def listen():
        with Stop().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    listen()
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen[0] != seen[1] == before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_batch_that_takes_too_long_is_broken_off(number, status):
    # One long call holds the main thread, as a batch does: Python's own handlers have to wait.
    code = """
import hashlib, sys
from boneage.training import stop_signals as stopping
stopping.PATIENCE_SECONDS = 0.5
stop = stopping.Stop()
with stop.listening(), stop.heeded():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"a", b"b", 200_000_000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == status
    assert f"{number.name}: the batch takes too long; the previous checkpoint is kept" in said
    assert time.monotonic() - began < 25
