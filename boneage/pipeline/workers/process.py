"""The process of a worker: it makes batches by number and writes them into shared memory.

It is a `Child` of the process that trains.
"""

from __future__ import annotations

import contextlib
import mmap
import pickle
import struct
from multiprocessing.connection import Connection
from typing import TypeAlias

import cv2
import numpy as np

from boneage.pipeline.batches import Batches
from boneage.pipeline.workers.child_process import pickled

JOB = struct.Struct("<qqq")  # slot, epoch, index
READY, DONE, FAILED = b"R", b"D", b"F"

Span: TypeAlias = tuple[int, int]  # offset and length, in bytes of the shared memory


def main(socket: int, pickle_memory: int, ring: int) -> None:
    """Serve the parent until it closes the socket.

    Args:
        socket: Descriptor of a duplex connection. The first message is `(spans, slot_bytes)`, with
            the spans of the pickle and of each of its arrays. Then follows one `JOB` per batch.
        pickle_memory: Descriptor of the memory that holds a pickle of `Batches` and its arrays.
        ring: Descriptor of the memory that batches are written to, slot after slot.
    """
    connection = Connection(socket)
    # The socket closes when the parent has closed the generator, or has ended.
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(connection, pickle_memory, ring)


def _serve(connection: Connection, pickle_memory: int, ring: int) -> None:
    cv2.setNumThreads(1)  # there are as many workers as cores
    spans, slot_bytes = connection.recv()
    try:
        memory = memoryview(mmap.mmap(pickle_memory, 0, access=mmap.ACCESS_READ))
        text, *arrays = (memory[offset : offset + length] for offset, length in spans)
        batches: Batches = pickle.loads(text, buffers=arrays)
    except Exception as error:  # noqa: BLE001 - the parent raises whatever it is
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
        except Exception as error:  # noqa: BLE001 - an augmentation may raise anything
            connection.send_bytes(FAILED + job + pickled(error))
        else:
            connection.send_bytes(DONE + job)
