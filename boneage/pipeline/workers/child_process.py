"""A fresh interpreter that works for this one over a socket, and ends when the socket closes.

It is started, never forked, so it inherits neither TensorFlow's threads nor its locks, and the
user's script is not run a second time: no `if __name__ == "__main__"` is needed. However its parent
comes to its end, the socket closes, and the child with it.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

import cloudpickle

from boneage.errors import Fault

CLOSE_SECONDS = 5.0

# The parent's own path, so that modules found beside a script are found there too. A cluster sends
# SIGTERM to every process of a job: the parent wants its batches until it has closed the socket.
_START = (
    "import json, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "from {module} import main; main(*map(int, sys.argv[2:]))"
)


class Child:
    """One such interpreter.

    Attributes:
        process: The interpreter's.
        connection: This end of the socket.
    """

    def __init__(self, module: str, descriptors: Sequence[int] = ()) -> None:
        """Starts it, and does not wait until it is ready.

        Args:
            module: Its `main` is called with the descriptor of the other end, and these.
            descriptors: Of files that it is to have too.
        """
        ours, theirs = socket.socketpair()
        # There are as many of them as cores: none needs threads of its own.
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            given = (theirs.fileno(), *descriptors)
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _START.format(module=module)),
                    *(json.dumps(sys.path), *map(str, given)),
                ],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **alone, "NO_ALBUMENTATIONS_UPDATE": "1"},
                pass_fds=given,
                process_group=0,  # Ctrl-C is for the parent, which then closes the socket
            )
        self.connection = Connection(ours.detach())

    def fault(self, expected: str, fix: str) -> Fault:
        """What is to be told when the socket was found closed."""
        how = "has closed its socket"
        try:
            status = self.process.wait(1)
        except subprocess.TimeoutExpired:
            pass
        else:
            how = f"ended with status {status}"
            if status < 0:
                how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return Fault(f"worker process {self.process.pid}", f"it {how}", fix, expected=expected)


def close(children: Sequence[Child]) -> None:
    """Ends them all, by force those that don't go in time."""
    for child in children:
        child.connection.close()
    deadline = time.monotonic() + CLOSE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def pickled(error: Exception) -> bytes:
    """An exception for the parent to raise, with a note of where it was raised.

    One that can't be pickled, as exceptions of others need not be, becomes a RuntimeError with its
    text.
    """
    told = "".join(traceback.format_exception(error))
    error.add_note(f"Raised in a worker process:\n{told}")
    try:
        text: bytes = cloudpickle.dumps(error)
        pickle.loads(text)
    except Exception:  # noqa: BLE001 - whatever its own methods raise
        return pickle.dumps(RuntimeError(told))
    return text
