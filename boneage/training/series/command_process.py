"""Run a command of boneage in its own process, so that its memory and its failures stay there."""

from __future__ import annotations

import collections
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from boneage.training.series.command_process import start; start(); "
    "from boneage.cli.main import main; main()"
)


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        code: The exit code, or minus the signal that killed the process.
        reason: The last error message, or how the process ended. Empty for exit code 0.
    """

    code: int
    reason: str


class CommandRunner:
    """Runs commands one after another, and forwards SIGINT and SIGTERM to the running command.

    Within `with`, these signals do not end this process. The running command receives them, as if
    the user had started that command directly.

    Attributes:
        received: The last of these signals, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> CommandRunner:
        if threading.current_thread() is threading.main_thread():  # others may set no handler
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def run(self, arguments: Sequence[str], *, to_stderr: bool = False) -> ExitStatus:
        """Run one command to its end. Its standard error is passed on as it arrives.

        Args:
            arguments: What follows `boneage` on the command line.
            to_stderr: Whether standard output goes to standard error too.
        """
        tail: collections.deque[str] = collections.deque(maxlen=50)
        with subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), *arguments],
            stdin=subprocess.PIPE,  # closes when this process ends, for whatever reason
            stdout=2 if to_stderr else None,
            stderr=subprocess.PIPE,
            # Ctrl-C in a terminal reaches this process only, which forwards the signal once.
            process_group=0 if os.name == "posix" else None,
        ) as process:
            self._process = process
            if self.received is not None:  # the signal came before the process existed
                process.send_signal(self.received)
            assert process.stderr is not None  # a pipe
            # newline="" also ends a line at "\r", so that progress bars move.
            with io.TextIOWrapper(process.stderr, "utf-8", "replace", newline="") as lines:
                for line in lines:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                    tail.append(line.strip())
            code = process.wait()
            self._process = None
        return ExitStatus(code, _describe(code, filter(None, tail)))

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(number)


def _describe(code: int, tail: Iterable[str]) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"the process was killed by signal {-code} ({signal.strsignal(-code)})"
    lines = list(tail)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[0] if len(errors) == 1 else f"{errors[0]} (and {len(errors) - 1} more)"
    return f"the process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")


def start() -> None:
    """Prepare a process of `CommandRunner`: name it `boneage`, and end it with its parent."""
    sys.argv[0] = "boneage"
    # The parent forwards Ctrl-C. A shell that starts both in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_terminate_with_parent, daemon=True, name="parent").start()


def _terminate_with_parent() -> None:
    # Read the file descriptor, not sys.stdin, whose lock would be held when the interpreter ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state
