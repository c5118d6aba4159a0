"""A training that is asked to stop does so after the batch in hand, with a checkpoint.

Docker, Slurm and Kubernetes send SIGTERM and kill some seconds later (Docker after ten); a
terminal sends SIGINT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

PATIENCE_SECONDS = 8.0
"""So long a batch and its checkpoint may take; then the checkpoint before has to do."""


class Terminated(BaseException):
    """SIGTERM came, and what there was to keep has been kept."""


class Stop:
    """Whether somebody asked for an end, for work that ends by itself at the next good moment.

    Attributes:
        asked: The signal that came; None while none did.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._heeded = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Takes SIGTERM and SIGINT over. Outside the main thread it can't, and does nothing.

        Where nobody heeds it they raise `Terminated` and `KeyboardInterrupt`, as a second Ctrl-C
        always does. A SIGTERM after another signal does nothing: Slurm tells every process of a
        job, and one that trains for another hears it from that one too.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        read, write = os.pipe()
        os.set_blocking(write, False)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        # Python's own handlers wait for the main thread, which may be a minute inside one batch.
        watch = threading.Thread(target=_watch, args=(read,), name="stopping", daemon=True)
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
        """Within, whoever works looks at `asked` now and then, and ends with `raise_it`."""
        self._heeded = True
        try:
            yield
        finally:
            self._heeded = False

    def raise_it(self) -> None:
        """Raises what was asked for, if anything.

        Raises:
            Terminated: SIGTERM came.
            KeyboardInterrupt: SIGINT came.
        """
        if self.asked is not None:
            raise KeyboardInterrupt if self.asked == signal.SIGINT else Terminated

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = signal.Signals(number)
        if number == signal.SIGINT if again else not self._heeded:
            self.raise_it()
        if not again:
            _say(f"\n{self.asked.name}: stopping after this batch")


def _watch(read: int) -> None:
    """Ends the process when it did not end in time after the first signal."""
    first = os.read(read, 1)
    if not first:
        return
    ended = threading.Event()

    def until_closed() -> None:
        while os.read(read, 64):
            pass
        ended.set()

    threading.Thread(target=until_closed, daemon=True).start()
    if ended.wait(PATIENCE_SECONDS):
        return
    name = signal.Signals(first[0]).name
    _say(f"{name}: the batch takes too long; the checkpoint before it is kept")
    os._exit(128 + signal.SIGINT if first[0] == signal.SIGINT else 0)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
