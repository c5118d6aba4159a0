"""Contenders side by side: each in its own process, started once, run in turns.

Between its turns, a contender waits on its pipe, and its own workers wait because their queues are
full. The next turn begins when that is so. A turn is timed only after the full queues are emptied.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from experiments.throughput.benchmark.contenders import Contender, Setting
from experiments.throughput.benchmark.processes import cpu_seconds, kill, memory_mb, tree

START_SECONDS = 300.0
_SETTLE_SECONDS = 20.0
_IDLE_SHARE = 0.1  # of one core


class ContenderError(Exception):
    """A contender failed, ended or gave no answer."""


def describe(batch: Any) -> dict[str, Any] | None:
    """Return what a first batch is, ready for JSON, or None if nothing is delivered.

    Raises:
        ValueError: The batch is not float32 in [0, 1], so the contender is not worth timing.
    """
    if isinstance(batch, range):  # the limit only counts
        return None
    array = np.asarray(batch)
    facts: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    facts |= {"low": round(float(array.min()), 4), "high": round(float(array.max()), 4)}
    if array.dtype != np.float32 or facts["low"] < 0 or not 0 < facts["high"] <= 1:
        raise ValueError(f"it delivers {facts}; expected float32 in [0, 1]")
    return facts


def measure(
    batches: Iterator[Any], seconds: float, least: int, waiting: int = 1
) -> dict[str, float]:
    """Count the images delivered from the end of one batch to the end of another.

    Args:
        batches: Batches whose length is their number of images.
        seconds: Shortest time.
        least: Fewest batches.
        waiting: Batches that may wait in queues. So many are taken before the clock starts.
    """
    for _ in range(waiting):
        next(batches)
    used, started = cpu_seconds(os.getpid()), time.perf_counter()
    images = delivered = 0
    elapsed = 0.0
    while elapsed < seconds or delivered < least:
        images += len(next(batches))
        delivered += 1
        elapsed = time.perf_counter() - started
    used = cpu_seconds(os.getpid()) - used
    return {"images": images, "seconds": elapsed, "cpu_seconds": used}


def serve(pipe: Connection, contender: Contender, setting: Setting) -> None:
    """Run a contender: send what it delivers, then one measurement for each order."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere:  # libraries greet their users
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    batches: Any = None
    try:
        batches = contender.batches(setting)
        facts = describe(next(batches))
        measure(batches, setting.warm_seconds, setting.least_batches)
        pipe.send(facts)
        while True:
            seconds, least = pipe.recv()
            pipe.send(measure(batches, seconds, least, contender.waiting))
    except (EOFError, KeyboardInterrupt):
        if batches is not None:
            batches.close()  # ends its workers
    except Exception as error:  # noqa: BLE001 - whatever it is, its row in the table says it
        pipe.send(ContenderError(f"{type(error).__name__}: {error}"))


class Process:
    """The process of a contender.

    Attributes:
        batch: What it delivers, see `describe`.
        peak_memory_mb: The most memory at the end of a turn, see `memory_mb`.
    """

    def __init__(self, contender: Contender, setting: Setting) -> None:
        """Start the process. `wait` returns when it is ready."""
        context = multiprocessing.get_context("spawn")
        self.batch: dict[str, Any] | None = None
        self.peak_memory_mb = 0.0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, contender, setting))
        self._process.start()
        theirs.close()

    def wait(self, seconds: float) -> None:
        """Wait until the contender has warmed up.

        Raises:
            ContenderError: It failed, or took longer.
        """
        self.batch = self._answer(seconds)
        self._settle()

    def turn(self, seconds: float, least: int, patience: float) -> dict[str, float]:
        """Have the contender deliver batches, and return its measurement.

        Raises:
            ContenderError: It failed, or gave no answer for `patience` seconds.
        """
        with contextlib.suppress(BrokenPipeError):  # `_answer` says how it ended
            self._pipe.send((seconds, least))
        answer: dict[str, float] = self._answer(patience)
        memory = memory_mb(self._process.pid or 0)["proportional_mb"]
        self.peak_memory_mb = max(self.peak_memory_mb, memory)
        self._settle()
        return answer

    def close(self, patience: float = 5.0) -> None:
        """End the process and everything that it has started, by force after some time."""
        started = tree(self._process.pid or 0)
        self._pipe.close()  # ends `serve`
        self._process.join(patience)
        kill(started)
        self._process.join()

    def _answer(self, patience: float) -> Any:
        if not self._pipe.poll(patience):
            raise ContenderError(f"no answer for {patience:.0f} s")
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            raise ContenderError(f"it ended with status {self._process.exitcode}") from None
        if isinstance(answer, ContenderError):
            raise answer
        return answer

    def _settle(self) -> None:
        """Wait until its workers have filled their queues and are idle."""
        deadline, pause = time.monotonic() + _SETTLE_SECONDS, 0.2
        used = cpu_seconds(self._process.pid or 0)
        while time.monotonic() < deadline:
            time.sleep(pause)
            before, used = used, cpu_seconds(self._process.pid or 0)
            if used - before <= _IDLE_SHARE * pause:
                return


class Contest:
    """Turns of several contenders.

    Args:
        log: Prints a line of progress.

    Attributes:
        turns: The measurements of each name.
        errors: The reason for each name that dropped out.
        processes: The process of each name that is still in the contest.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.turns: dict[str, list[dict[str, float]]] = {}
        self.errors: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self._log = log

    def enter(
        self, contenders: Sequence[Contender], setting: Setting, patience: float = START_SECONDS
    ) -> None:
        """Start contenders and warm them up, one after the other."""
        for contender in contenders:
            self._log(f"starting {contender.name}")
            self.turns[contender.name] = []
            process = self.processes[contender.name] = Process(contender, setting)
            try:
                process.wait(patience)
            except ContenderError as error:
                self._drop(contender.name, error)

    def play(self, rounds: int, seconds: float, least: int, patience: float | None = None) -> None:
        """Give every contender a turn of `seconds` and `least` batches, in each round."""
        for number in range(rounds):
            self._log(f"round {number + 1} of {rounds}")
            for name, process in list(self.processes.items()):
                # Slow contenders may need long for the fewest batches.
                limit = patience or max(60.0, 20 * seconds)
                try:
                    self.turns[name].append(process.turn(seconds, least, limit))
                except ContenderError as error:
                    self._drop(name, error)

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.close()

    def _drop(self, name: str, error: ContenderError) -> None:
        self.errors[name] = str(error)
        self.processes.pop(name).close(patience=0.0)
