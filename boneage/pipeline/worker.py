"""A process that makes batches: told which by number, it writes them into shared memory.

It is started as a fresh interpreter, never forked, so it inherits neither TensorFlow's threads nor
its locks, and the user's script is not run a second time. It ends when the socket to its parent
closes, however the parent came to its end.
"""

from __future__ import annotations

import contextlib
import mmap
import pickle
import struct
import traceback
from multiprocessing.connection import Connection

import cloudpickle
import cv2
import numpy as np

from boneage.pipeline.batches import Batches

JOB = struct.Struct("<qqq")  # slot, epoch, index
READY, DONE, FAILED = b"R", b"D", b"F"

# Where something stands in the memory that holds what the workers start from: offset and length.
Place = tuple[int, int]


def main(socket: int, start: int, ring: int) -> None:
    """Serves the parent until it closes the socket.

    Args:
        socket: Descriptor of a duplex connection. First comes `(places, slot_bytes)`: where in
            `start` the pickle is, then each of its arrays; then one `JOB` for each batch.
        start: Descriptor of the memory that holds a pickle of `Batches` and its arrays.
        ring: Descriptor of the memory that batches are written to, slot after slot.
    """
    connection = Connection(socket)
    # Its end: the parent has closed the generator, or is gone.
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(connection, start, ring)


def _serve(connection: Connection, start: int, ring: int) -> None:
    cv2.setNumThreads(1)  # there are as many workers as cores
    places, slot_bytes = connection.recv()
    try:
        given = memoryview(mmap.mmap(start, 0, access=mmap.ACCESS_READ))
        text, *arrays = (given[offset : offset + length] for offset, length in places)
        batches: Batches = pickle.loads(text, buffers=arrays)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        connection.send_bytes(FAILED + JOB.pack(-1, -1, -1) + _pickled(error))
        return
    slots = mmap.mmap(ring, 0)
    connection.send_bytes(READY)
    while True:
        job = connection.recv_bytes()
        slot, epoch, index = JOB.unpack(job)
        batch = np.ndarray(batches.shape(index), np.float32, slots, slot * slot_bytes)
        try:
            batches.fill(batch, index, epoch)
        except Exception as error:  # noqa: BLE001 - likewise: an augmentation may raise anything
            connection.send_bytes(FAILED + job + _pickled(error))
        else:
            connection.send_bytes(DONE + job)


def _pickled(error: Exception) -> bytes:
    told = "".join(traceback.format_exception(error))
    error.add_note(f"Raised in a process that makes batches:\n{told}")
    try:
        pickled: bytes = cloudpickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # noqa: BLE001 - exceptions of others need not be made for pickling
        return pickle.dumps(RuntimeError(told))
    return pickled
