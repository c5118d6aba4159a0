"""A fresh interpreter that works for this one over a socket, and ends when the socket closes.

The interpreter is started, never forked, so it inherits neither TensorFlow's threads nor its
locks. The user's script is not run a second time, so it needs no `if __name__ == "__main__"`.
The child ends with the parent, however that ends, also while it still imports its modules.
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

# The child gets the parent's path, to find modules next to the user's script. It ignores SIGTERM,
# which a cluster sends to every process of a job: the parent needs batches until it closes.
_START = (
    "import json, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "parent, *descriptors = map(int, sys.argv[2:]); "
    "from boneage.pipeline.workers.parent_watch import watch; watch(parent, descriptors[0]); "
    "from {module} import main; main(*descriptors)"
)


class Child:
    """A child interpreter.

    Attributes:
        process: The process of the interpreter.
        connection: The parent's end of the socket.
    """

    def __init__(self, module: str, descriptors: Sequence[int] = ()) -> None:
        """Start the interpreter, and do not wait until it is ready.

        Args:
            module: Its `main` is called with the descriptor of the child's end of the socket, and
                with `descriptors`.
            descriptors: Open files that the child gets too.
        """
        ours, theirs = socket.socketpair()
        # There are as many children as cores, so each uses one thread.
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            passed = (theirs.fileno(), *descriptors)
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _START.format(module=module)),
                    *(json.dumps(sys.path), str(os.getpid()), *map(str, passed)),
                ],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **one_thread, "NO_ALBUMENTATIONS_UPDATE": "1"},
                pass_fds=passed,
                process_group=0,  # Ctrl-C reaches the parent alone, which then closes the socket
            )
        self.connection = Connection(ours.detach())

    def fault(self, fix: str) -> Fault:
        """Describe how the process ended, after its socket was found closed."""
        what = "it closed its socket"
        try:
            status = self.process.wait(1)
        except subprocess.TimeoutExpired:
            pass
        else:
            what = f"it ended with status {status}"
            if status < 0:
                what = f"it was killed by signal {-status} ({signal.strsignal(-status)})"
        return Fault(f"worker process {self.process.pid}", what, fix)


def close(children: Sequence[Child]) -> None:
    """End all children, and kill those that have not ended in time."""
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
    """Return an exception for the parent to raise, with a note of where it was raised.

    An exception that can't be pickled becomes a RuntimeError with its text.
    """
    text = "".join(traceback.format_exception(error))
    error.add_note(f"Raised in a worker process:\n{text}")
    try:
        data: bytes = cloudpickle.dumps(error)
        pickle.loads(data)
    except Exception:  # noqa: BLE001 - an exception's own methods may raise anything
        return pickle.dumps(RuntimeError(text))
    return data
