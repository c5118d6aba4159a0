"""One film made into one row of a store's file, here or in a process that does nothing else.

Framing holds the interpreter's lock for a sixth of its time: from six threads on they would wait
for one another. A process is a fresh interpreter, never forked, so it inherits no threads and no
locks, and the user's script is not run a second time. It ends when its socket closes, however its
parent came to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from boneage.errors import Fault, InputError
from boneage.pipeline.framing import REASONS, frame
from boneage.pipeline.hand import Box
from boneage.pipeline.radiograph import read_radiograph
from boneage.recipe import Framing

CLOSE_SECONDS = 5.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from boneage.pipeline.framer import main; main(int(sys.argv[2]))"
)


class FramerDiedError(InputError):
    """A process that frames films died; no film is at fault, so there is no going on."""


@dataclass(frozen=True, slots=True)
class Film:
    """What is to be framed, and where to.

    Attributes:
        path: The picture's file.
        region: The part of it that is meant; None for all of it.
        framing: How it is to be framed.
        offset: Where in the store's file its row begins, bytes.
    """

    path: Path
    region: Box | None
    framing: Framing
    offset: int


@dataclass(frozen=True, slots=True)
class Row:
    """What was written.

    Attributes:
        checksum: CRC-32 of the pixels.
        crop: Left, top, right, bottom, rotation, and the place of its reason in `REASONS`.
    """

    checksum: int
    crop: tuple[int, ...]


def make_row(film: Film, file: int) -> Row:
    """Decodes and frames a film, and writes its pixels to a file.

    Args:
        film: Which, how and where.
        file: The descriptor of the store's file.

    Raises:
        InputError: It can't be read, or its region is not inside it.
    """
    framed = frame(read_radiograph(film.path), film.framing, film.region)
    pixels, crop = framed.pixels.tobytes(), framed.crop
    os.pwrite(file, pixels, film.offset)
    return Row(zlib.crc32(pixels), (*crop.box, crop.rotation, REASONS.index(crop.why)))


class Framer:
    """A process that frames one film at a time; to be closed."""

    def __init__(self, file: int) -> None:
        """Starts it, and does not wait until it is ready.

        Args:
            file: The descriptor of the store's file.
        """
        ours, theirs = socket.socketpair()
        # Each film has a process of its own: none needs threads of its own.
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **alone},
                pass_fds=(theirs.fileno(), file),
                process_group=0,  # Ctrl-C is for the parent, which then closes the socket
            )
        self._connection = Connection(ours.detach())
        self._file = file

    def make_row(self, film: Film) -> Row:
        """As the function of that name, but for the interpreter's lock.

        Raises:
            FramerDiedError: The process did.
            InputError: The film can't be read, or its region is not inside it.
        """
        try:
            self._connection.send((film, self._file))
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise FramerDiedError(self._death()) from None
        if isinstance(answer, Exception):
            raise answer
        row: Row = answer
        return row

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _death(self) -> Fault:
        how = "closed its socket"
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(1)
            how = f"ended with status {status}"
            if status < 0:
                how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
        return Fault(
            f"worker process {self._process.pid}",
            f"it {how}",
            "a process that frames films until the store stands",
            "If memory ran out (signal 9), prepare with fewer workers; what is done is kept.",
        )


def main(descriptor: int) -> None:
    """Serves the parent until it closes the socket."""
    cv2.setNumThreads(1)  # there are as many processes as cores
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            film, file = connection.recv()
            try:
                answer: Row | Exception = make_row(film, file)
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
                answer = _portable(error)
            connection.send(answer)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - exceptions of others need not be made for pickling
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
