"""Contenders side by side: each in its own process, started once, run in turns.

While one runs, all others are stopped (SIGSTOP), with everything they have started. So nobody
fills queues in another's time, and nobody begins a turn with more in stock than it ended with.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from experiments.throughput.benchmark.processes import memory_mb, send

CLONE = Path(__file__).parents[3]
START_SECONDS = 300.0
SAMPLE_SECONDS = 1.0


class ContenderError(Exception):
    """A contender has ended or says nothing; the message tells why."""


def contender_command(name: str) -> list[str]:
    """How a contender of the list is started."""
    return [sys.executable, "-m", "experiments.throughput.benchmark.contender", name]


class Process:
    """A contender's process, stopped whenever it is not its turn.

    Attributes:
        batch: What it delivers, as it says itself.
        peak_memory_mb: The most its tree held in what was sampled, see `memory_mb`.
    """

    def __init__(self, command: Sequence[str], setting: Path) -> None:
        """Starts `command SETTING`; `wait` tells when it is ready."""
        self.batch: dict[str, Any] | None = None
        self.peak_memory_mb = 0.0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore", **os.environ}
        self._process = subprocess.Popen(
            [*command, str(setting)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            cwd=CLONE,
        )
        self._unread = b""

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Waits until it has warmed up, and stops it there.

        Raises:
            ContenderError: It has ended, or takes longer.
        """
        self.batch = self._answer(seconds)["batch"]
        send(self._process.pid, signal.SIGSTOP)

    def turn(self, seconds: float, least: int, patience: float) -> dict[str, float]:
        """Lets it run for a while.

        Args:
            seconds: For how long, at least.
            least: For how many batches, at least.
            patience: Seconds after which it is taken to hang.

        Returns:
            `images`, `seconds` and `cpu_seconds`.

        Raises:
            ContenderError: It has ended, or takes longer.
        """
        send(self._process.pid, signal.SIGCONT)
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watch.start()
        try:
            order = json.dumps({"seconds": seconds, "least": least}) + "\n"
            assert self._process.stdin is not None  # it is a pipe
            with contextlib.suppress(BrokenPipeError):  # that it has ended is told below
                self._process.stdin.write(order.encode())
                self._process.stdin.flush()
            return self._answer(patience)
        finally:
            over.set()
            watch.join()
            send(self._process.pid, signal.SIGSTOP)

    def close(self) -> None:
        """Ends it and everything it has started."""
        # Stopped first, so that nothing is started while the list is gone through.
        send(self._process.pid, signal.SIGSTOP)
        send(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_SECONDS):
            held = memory_mb(self._process.pid)["proportional_mb"]
            self.peak_memory_mb = max(self.peak_memory_mb, held)

    def _answer(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout is not None  # it is a pipe
        until = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise ContenderError(f"it said nothing for {patience:.0f} s")
                part = os.read(self._process.stdout.fileno(), 65_536)
                if not part:
                    raise ContenderError(self._last_words())
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)  # its standard error is complete then
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self._process.returncode}"


class Contest:
    """Turns of several contenders, and what came of them.

    Attributes:
        turns: For each name, what each of its turns gave.
        errors: For each name that fell out, why.
        processes: For each name that is in the contest, its process.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        command: Callable[[str], Sequence[str]] = contender_command,
    ) -> None:
        """Takes a function that shows what is being done, and one that says how to start a name."""
        self.turns: dict[str, list[dict[str, float]]] = {}
        self.errors: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self._say = say
        self._command = command

    def enter(self, name: str, setting: Path, patience: float = START_SECONDS) -> None:
        """Starts a contender and warms it up, while all others are stopped."""
        self._say(f"starting {name}")
        process = self.processes[name] = Process(self._command(name), setting)
        self.turns[name] = []
        try:
            process.wait(patience)
        except ContenderError as error:
            self._drop(name, error)

    def play(self, rounds: int, seconds: float, least: int, patience: float | None = None) -> None:
        """Gives everyone a turn, `rounds` times over.

        Args:
            rounds: How many.
            seconds: Of a turn, at least.
            least: Batches of a turn, at least.
            patience: Seconds after which one is taken to hang; plenty if not given.
        """
        for number in range(rounds):
            self._say(f"round {number + 1} of {rounds}")
            for name, process in list(self.processes.items()):
                # A slow one may need long for the batches it has to deliver.
                limit = patience or max(60.0, 20 * seconds)
                try:
                    self.turns[name].append(process.turn(seconds, least, limit))
                except ContenderError as error:
                    self._drop(name, error)

    def close(self) -> None:
        """Ends all of them."""
        for process in self.processes.values():
            process.close()

    def _drop(self, name: str, error: ContenderError) -> None:
        self.errors[name] = str(error)
        self.processes.pop(name).close()
