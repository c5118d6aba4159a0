"""How processes that train together know of one another: who is there, who failed, when to stop.

They speak through a board that all of them read and write. A process that another one waits for
inside a collective operation can't be woken, so what goes wrong is told by a thread beside it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from boneage.errors import Fault, InputError
from boneage.training.distributed.hosts import Hosts

BEAT_SECONDS = 0.5
PATIENCE_SECONDS = 20.0  # silence of a process until it counts as lost
_GRACE_SECONDS = 3.0  # until a process that does not return by itself is ended


class Board(Protocol):
    """What JAX's coordination service offers."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        """Writes one value."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Reads every value whose key begins so."""


class Watch:
    """The thread that tells the others of this process, and this process of the others.

    Args:
        board: Where all of them write.
        hosts: Who they are.
        fix: What a user is told to do when one is lost.
        end: Ends this process when it hangs on another that is lost.
    """

    def __init__(
        self, board: Board, hosts: Hosts, fix: str, end: Callable[[Fault], None] | None = None
    ) -> None:
        self._board = board
        self._hosts = hosts
        self._fix = fix
        self._end = end or end_process
        self._closed = threading.Event()
        self._found = threading.Event()
        self._taken = threading.Event()
        self._fault: Fault | None = None
        self._beats = 0
        self._heard: dict[int, tuple[str, float]] = {}
        # The thread holds it from telling its batch until all have: nobody runs ahead meanwhile.
        self._stopping = threading.Lock()
        self._wanted = False
        self._batches = 0
        self._last: int | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begins; whoever is not heard of from now on is lost."""
        now = time.monotonic()
        self._heard = {r: ("", now) for r in range(self._hosts.count) if r != self._hosts.rank}
        self._thread.start()

    def close(self) -> None:
        """Ends the thread: all have come to the end."""
        self._closed.set()
        self._thread.join()

    @property
    def closed(self) -> bool:
        """Whether this process has left the others."""
        return self._closed.is_set()

    @property
    def stopped(self) -> bool:
        """Whether all processes have stopped after the same batch."""
        return self._last is not None and self._batches >= self._last

    def stops(self, wanted: bool) -> bool:
        """Tells whether to stop after this batch, the same one in every process.

        Args:
            wanted: Whether this process was asked to stop, now or before.
        """
        with self._stopping:
            self._batches += 1
            self._wanted |= wanted
            return self.stopped

    def tell_failure(self, what: str) -> None:
        """Lets the others know that this process ends, and why."""
        self._closed.set()
        self._taken.set()
        self._write(f"failed/{self._hosts.rank}", what)

    def lost(self, seconds: float) -> Fault | None:
        """Waits for what is known of a process that is gone; the caller then reports it."""
        self._found.wait(seconds)
        self._taken.set()
        return self._fault

    def fault_of(self, rank: int, what: str) -> Fault:
        """The message for a process that is gone."""
        expected = f"all {self._hosts.count} processes until the end of the training"
        return Fault(self._hosts.name(rank), what, self._fix, expected=expected)

    def _run(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            try:
                self._beat()
                self._settle_stop()
            except InputError as error:
                self._fault = error.faults[0]
            except RuntimeError:  # the board is process 0's
                self._fault = self.fault_of(0, "it can't be reached any more")
            if self._fault is not None and not self._closed.is_set():
                self._found.set()
                if not self._taken.wait(_GRACE_SECONDS):
                    self._end(self._fault)
                return

    def _beat(self) -> None:
        self._beats += 1
        self._write(f"alive/{self._hosts.rank}", str(self._beats))
        for rank, what in self._read("failed").items():
            raise InputError(self.fault_of(rank, what))
        heard, now = self._read("alive"), time.monotonic()
        for rank, (before, since) in self._heard.items():
            if heard.get(rank, "") != before:
                self._heard[rank] = (heard[rank], now)
            elif now - since > PATIENCE_SECONDS:
                what = f"it has not been heard of for {PATIENCE_SECONDS:g} seconds"
                raise InputError(self.fault_of(rank, what))

    def _settle_stop(self) -> None:
        """Finds the batch after which all stop, once one of them wants to."""
        if self._last is not None:
            return
        if self._wanted:
            self._write(f"stop/{self._hosts.rank}", "wanted")
        if not self._read("stop"):
            return
        with self._stopping:
            self._write(f"batch/{self._hosts.rank}", str(self._batches))
            while len(told := self._read("batch")) < self._hosts.count:
                if self._closed.wait(BEAT_SECONDS):
                    return
                self._beat()
            # The furthest one may have begun its next batch, and nobody has finished that yet.
            self._last = max(map(int, told.values())) + 1

    def _write(self, key: str, value: str) -> None:
        self._board.key_value_set(f"boneage/{key}", value, True)

    def _read(self, key: str) -> dict[int, str]:
        values = self._board.key_value_dir_get(f"boneage/{key}/")
        return {int(name.rpartition("/")[2]): value for name, value in values}


def end_process(fault: Fault) -> None:
    """Says what is wrong and ends this process at once: its main thread would never come back."""
    sys.stdout.flush()
    sys.stderr.write(f"error: {fault}\n")
    sys.stderr.flush()
    os._exit(2)
