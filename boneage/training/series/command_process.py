"""Run a command of boneage in its own process, so that its memory and its failures stay there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from boneage.training.stop_signals import PATIENCE_SECONDS, handling

_START = (
    "from boneage.training.series.command_process import end_with_parent; end_with_parent(); "
    "from boneage.cli.main import main; main()"
)
_SECONDS_TO_LEAVE = PATIENCE_SECONDS + 4.0  # for a training to save its state, and to end


class CommandRunner:
    """Runs commands one after another, and forwards signals that stop them.

    Within `with`, these signals do not end this process. The running command receives them, as if
    the user had started that command directly.

    Attributes:
        received: The last of these signals, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._handling = handling(self._forward, lambda: (_SECONDS_TO_LEAVE, "stopped"))

    def __enter__(self) -> CommandRunner:
        self._handling.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._handling.__exit__(*error)

    def run(self, arguments: Sequence[str], *, to_stderr: bool = False) -> int:
        """Run one command to its end, and return its exit code, or minus the signal that killed it.

        Args:
            arguments: What follows `boneage` on the command line.
            to_stderr: Whether standard output goes to standard error too.
        """
        with subprocess.Popen(
            [sys.executable, "-P", "-c", _START, *arguments],
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            stdout=2 if to_stderr else None,
            # Ctrl-C in a terminal reaches this process only, which forwards the signal once.
            process_group=0 if os.name == "posix" else None,
        ) as process:
            self._process = process
            if self.received is not None:  # the signal came before the process existed
                process.send_signal(self.received)
            code = process.wait()
            self._process = None
        return code

    def _forward(self, number: signal.Signals) -> None:
        self.received = number
        if self._process is not None:
            self._process.send_signal(number)


def end_with_parent() -> None:
    """Send SIGTERM to this process when its parent ends. A training then saves its state."""

    def watch() -> None:
        os.read(0, 1)  # returns when the pipe closes; sys.stdin would hold a lock until exit
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def describe_exit(code: int) -> str:
    """Return how a process ended that did not finish its training."""
    if code < 0:
        return f"the process was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"the process ended with exit code {code}; its message is above"
