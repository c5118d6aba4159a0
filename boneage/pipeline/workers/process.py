"""A process that makes batches: told which by number, it writes them into shared memory.

It is a `Child` of the process that trains.
"""

from __future__ import annotations

import contextlib
import mmap
import pickle
import struct
from multiprocessing.connection import Connection

import cv2
import numpy as np

from boneage.pipeline.batches import Batches
from boneage.pipeline.workers.child_process import pickled

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
        connection.send_bytes(FAILED + JOB.pack(-1, -1, -1) + pickled(error))
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
            connection.send_bytes(FAILED + job + pickled(error))
        else:
            connection.send_bytes(DONE + job)
