"""Stop a training after the present batch, with a checkpoint, on SIGTERM and on Ctrl-C.

Docker, Slurm and Kubernetes send SIGTERM, and kill the process some seconds later (Docker after
ten). A terminal sends SIGINT.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

PATIENCE_SECONDS = 8.0
"""Time for a batch and its checkpoint. After that the process ends with the previous checkpoint."""


class Terminated(BaseException):
    """SIGTERM came, and everything worth keeping has been written."""


class Stop:
    """A request to stop, for work that ends at the next good moment.

    Attributes:
        asked: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._is_heeded = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle SIGTERM and SIGINT in this block. Outside the main thread this does nothing.

        A signal outside `heeded` raises `Terminated` or `KeyboardInterrupt`. So does a second
        Ctrl-C anywhere. A SIGTERM after another signal does nothing: Slurm sends it to every
        process of a job, and a training that runs in another process hears it from both.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        read, write = os.pipe()
        os.set_blocking(write, False)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # Python's handlers wait for the main thread, and a batch may hold it for a minute.
        watch = threading.Thread(target=_end_if_late, args=(read,), name="stopping", daemon=True)
        watch.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(write)  # ends the thread
            watch.join()
            os.close(read)

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Only record a signal in this block, whose work checks `asked` after every batch."""
        self._is_heeded = True
        try:
            yield
        finally:
            self._is_heeded = False

    def raise_it(self) -> None:
        """Raise the exception of the signal that came, if any.

        Raises:
            Terminated: SIGTERM came.
            KeyboardInterrupt: SIGINT came.
        """
        if self.asked is not None:
            raise KeyboardInterrupt if self.asked == signal.SIGINT else Terminated

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        is_again = self.asked is not None
        self.asked = signal.Signals(number)
        if number == signal.SIGINT if is_again else not self._is_heeded:
            self.raise_it()
        if not is_again:
            _print_error(f"\n{self.asked.name}: stopping after this batch")


def _end_if_late(read: int) -> None:
    """End the process if it is still busy some seconds after the first signal."""
    first = os.read(read, 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while first and time.monotonic() < deadline:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        if ready and not os.read(read, 64):
            return
    if first:
        name = signal.Signals(first[0]).name
        _print_error(f"{name}: the batch takes too long; the previous checkpoint is kept")
        os._exit(128 + signal.SIGINT if first[0] == signal.SIGINT else 0)


def _print_error(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
