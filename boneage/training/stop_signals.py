"""End a command on SIGTERM, SIGINT and SIGHUP: at once, or a training after the present batch.

Docker, Slurm and Kubernetes send SIGTERM, and kill the process some seconds later (Docker after
ten). A terminal sends SIGINT, and SIGHUP when it is closed. The first process of a container
ignores every signal that it has no handler for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TypeAlias

from boneage.runtime.files import remove_unfinished

PATIENCE_SECONDS = 8.0
"""Time for a batch and its checkpoint. After that the process ends with the previous checkpoint."""
LEAVING_SECONDS = 0.6
"""Time for everything else to close its files. After that the process ends."""

STOPPING = [
    signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
]

Limit: TypeAlias = tuple[float, str]  # seconds, and what to say when they are over

received: list[signal.Signals] = []
"""The signals that this process has handled."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP came, and everything worth keeping has been written."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


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
        """Handle the signals in this block. Outside the main thread this does nothing.

        A signal outside `heeded` raises `Terminated` or `KeyboardInterrupt`. So does a second
        Ctrl-C anywhere. A SIGTERM after another signal does nothing: Slurm sends it to every
        process of a job, and a training that runs in another process hears it from both.
        """
        with handling(self._on_signal, self._limit):
            yield self

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
            Terminated: SIGTERM or SIGHUP came.
            KeyboardInterrupt: SIGINT came.
        """
        if self.asked is not None:
            raise KeyboardInterrupt if self.asked == signal.SIGINT else Terminated(self.asked)

    def _on_signal(self, number: signal.Signals) -> None:
        is_again = self.asked is not None
        self.asked = number
        if number == signal.SIGINT if is_again else not self._is_heeded:
            self.raise_it()
        if not is_again:
            _print_error(f"\n{number.name}: stopping after this batch")

    def _limit(self) -> Limit:
        if self._is_heeded:
            return PATIENCE_SECONDS, "the batch takes too long; the previous checkpoint is kept"
        return LEAVING_SECONDS, "stopped"


@contextlib.contextmanager
def handling(
    on_signal: Callable[[signal.Signals], None], limit: Callable[[], Limit]
) -> Iterator[None]:
    """Handle the signals in this block, and end the process if it is late to leave the block.

    Outside the main thread this does nothing. SIGHUP stays ignored where `nohup` has ignored it.

    Args:
        on_signal: Called with each signal, between two steps of the main thread.
        limit: Called after the first signal. It returns how long the block may take from then on,
            and what to say after that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        on_signal(received[-1])

    before = {
        number: signal.signal(number, handle)
        for number in STOPPING
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # Python's handlers wait for the main thread, and a batch may hold it for a minute.
    watch = threading.Thread(target=_end_if_late, args=(read, limit), name="stopping", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)  # ends the thread
        watch.join()
        os.close(read)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Run a command that a signal ends at once: exit code 143 for SIGTERM, 130 for SIGINT.

    The exit code is 128 and the number of the signal, also where the process is the first one of a
    container. Half-written files are removed.
    """
    received.clear()
    stop, report = Stop(), sys.unraisablehook
    # Raised where Python can only report it, such as in a callback of the garbage collector. The
    # watching thread then ends the process.
    sys.unraisablehook = lambda raised: (
        None if isinstance(raised.exc_value, (Terminated, KeyboardInterrupt)) else report(raised)
    )
    try:
        with stop.listening():
            try:
                yield
            finally:
                if stop.asked is not None:  # else the command has said it
                    _print_error(f"{stop.asked.name}: stopped")
                if received:  # Python's own ending would wait for every thread
                    _leave(128 + received[0])
    except Terminated as ended:
        sys.exit(ended.exit_code)
    finally:
        sys.unraisablehook = report


def _end_if_late(read: int, limit: Callable[[], Limit]) -> None:
    """End the process if it is still busy some seconds after the first signal."""
    first = b""
    while not first or first[0] not in STOPPING:  # others have handlers of their own
        first = os.read(read, 1)
        if not first:
            return
    seconds, text = limit()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        if ready and not os.read(read, 64):
            return
    _print_error(f"{signal.Signals(first[0]).name}: {text}")
    _leave(128 + first[0])


def _leave(code: int) -> NoReturn:
    """End the process now, without half-written files and without waiting for threads."""
    remove_unfinished()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
