"""A verb of the command line in a process of its own: its memory goes with it, its failure too."""

from __future__ import annotations

import codecs
import collections
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import IO, Any

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from boneage.training.series.command_process import begin; begin(); "
    "from boneage.cli.main import main; main()"
)
_HEARD = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Ended:
    """How such a process ended.

    Attributes:
        status: Its exit status; negative for the signal that killed it.
        reason: The last error it told, or how it ended; empty after status 0.
    """

    status: int
    reason: str


class VerbProcesses:
    """Runs verbs one after another, handing on the signals that come meanwhile.

    Within `with`, SIGINT and SIGTERM no longer end this process: the verb in hand gets them, as if
    it had been started by the user itself, and no other is begun.

    Attributes:
        received: The last of these signals; None while none came.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> VerbProcesses:
        if threading.current_thread() is threading.main_thread():  # no other may set them
            self._before = {number: signal.signal(number, self._hand_on) for number in _HEARD}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, arguments: Sequence[str], *, to_stderr: bool = False) -> Ended:
        """Runs one verb to its end.

        Args:
            arguments: As they stand behind `boneage` on the command line.
            to_stderr: Whether what it prints goes to standard error, as its errors do.
        """
        process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), *arguments],
            stdin=subprocess.PIPE,  # closes when this process ends, however it does
            stdout=2 if to_stderr else None,
            stderr=subprocess.PIPE,
            # Ctrl-C in a terminal is for this process, which hands it on: once, not twice.
            process_group=0 if os.name == "posix" else None,
        )
        assert process.stdin is not None  # both are pipes
        assert process.stderr is not None
        self._process = process
        try:
            if self.received is not None:  # just before the process was there to get it
                process.send_signal(self.received)
            told = _Told(process.stderr)
            status = process.wait()
            told.thread.join(5.0)  # longer only if somebody else still holds the pipe
        finally:
            self._process = None
            process.stdin.close()
        return Ended(status, _reason(status, list(told.lines)))

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(number)


class _Told:
    """Passes standard error on as it comes, and keeps its last lines."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=50)
        self.thread = threading.Thread(target=self._pass_on, args=(pipe,), daemon=True)
        self.thread.start()

    def _pass_on(self, pipe: Any) -> None:
        rest = ""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with pipe:
            while piece := pipe.read1(4096):
                text = decoder.decode(piece)
                sys.stderr.write(text)
                sys.stderr.flush()
                *lines, rest = (rest + text).split("\n")
                self.lines.extend(lines)
        self.lines.append(rest)


def _reason(status: int, lines: list[str]) -> str:
    if status == 0:
        return ""
    if status < 0:
        return f"it was killed by signal {-status} ({signal.strsignal(-status)})"
    said = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if errors:
        return errors[0] if len(errors) == 1 else f"{errors[0]} (and {len(errors) - 1} more)"
    return f"it ended with status {status}" + (f": {said[-1]}" if said else "")


def begin(end: Callable[[], None] | None = None) -> None:
    """Begins such a process: it is called `boneage`, and ends when its parent has.

    Args:
        end: What to do then; SIGTERM to itself if not given, so that a training keeps its state.
    """
    sys.argv[0] = "boneage"
    # Its parent hands Ctrl-C on; a shell that puts both into the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = end or (lambda: os.kill(os.getpid(), signal.SIGTERM))

    def watch() -> None:
        # Read past Python's own buffer, whose lock would be held when the interpreter ends.
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=watch, daemon=True, name="parent").start()
