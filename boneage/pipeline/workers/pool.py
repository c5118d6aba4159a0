"""Processes that make batches ahead of time, straight into memory that is shared.

Only numbers cross the sockets. A batch is handed out where it was written, without a copy: its
slot is used again when the last array that looks at it is gone. The memory has no name (nothing
can be left behind, and a small /dev/shm, as in a container, is no limit).
"""

from __future__ import annotations

import collections
import mmap
import os
import pickle
import selectors
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from boneage.errors import Fault, InputError
from boneage.pipeline.batches import Batches, Floats, aligned
from boneage.pipeline.workers.child_process import Child, close
from boneage.pipeline.workers.prefetch import Key
from boneage.pipeline.workers.process import DONE, FAILED, JOB, READY

LENT = 8  # batches that are handed out in place at a time; those beyond are copied
POLL_SECONDS = 0.2
_DIED = (
    "processes that make batches until the generator is closed",
    "If memory ran out (signal 9), take fewer workers or a smaller batch_size; "
    "without use_multiprocessing batches are made in this process.",
)


@dataclass(eq=False)
class _Worker:
    child: Child
    ready: bool = False
    jobs: int = 0  # sent and not yet answered


@dataclass(eq=False)
class _Job:
    slot: int
    done: bool = False
    error: BaseException | None = None


class _Lease:
    """One slot for as long as an array, or a view of it, looks at it."""

    def __init__(
        self, memory: Any, offset: int, shape: tuple[int, ...], slot: int, back: Any
    ) -> None:
        self._memory = memory  # keeps the mapping, even when the workers are closed
        self._slot = slot
        self._back = back
        self.__array_interface__ = {
            "data": (memory.ctypes.data + offset, False),
            "shape": shape,
            "typestr": "<f4",
            "version": 3,
        }

    def __del__(self) -> None:
        self._back.append(self._slot)


class Workers:
    """Makes the batches that are asked for, and those that will be, in processes of its own.

    Several threads may ask at once.

    Args:
        batches: What to make; pickled once, its arrays shared by all processes.
        count: Processes.
        waiting: Finished batches that may wait to be asked for.

    Raises:
        InputError: This system has no such processes, or no memory is left for the batches; or,
            from `get`, a process has died.
    """

    def __init__(self, batches: Batches, count: int, waiting: int) -> None:
        if os.name != "posix":
            raise InputError(
                Fault(
                    "use_multiprocessing",
                    f"{sys.platform} can't hand memory to a new process",
                    "Leave it out: threads serve the same batches.",
                    expected="Linux or macOS",
                )
            )
        self.ahead = count + waiting
        self._batches = batches
        page = mmap.PAGESIZE
        largest = max(batches.shape(index) for index in (0, len(batches) - 1))  # see Share
        self._slot_bytes = -(-int(np.prod(largest)) * 4 // page) * page
        slots = 1 + self.ahead + LENT
        ring = _memory("batches", slots * self._slot_bytes)
        self._memory = np.frombuffer(mmap.mmap(ring, 0), np.uint8)
        self._free = list(range(slots))
        self._returned: collections.deque[int] = collections.deque()
        self._lent = 0
        self._jobs: dict[Key, _Job] = {}
        self._asked: collections.Counter[Key] = collections.Counter()
        self._failure: BaseException | None = None
        self._closed = False
        self._state = threading.Lock()
        self._receiving = threading.Lock()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._children: list[Child] = []
        self._close = weakref.finalize(self, close, self._children)
        try:
            start, places = _pickled(batches)
            try:
                for _ in range(count):
                    worker = _Worker(Child("boneage.pipeline.workers.process", (start, ring)))
                    self._workers.append(worker)
                    self._children.append(worker.child)
                    self._selector.register(worker.child.connection, selectors.EVENT_READ, worker)
                    worker.child.connection.send((places, self._slot_bytes))
            finally:
                os.close(start)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(ring)

    @property
    def running(self) -> bool:
        """Whether all processes have started."""
        return all(worker.ready for worker in self._workers)

    def get(self, key: Key, upcoming: Sequence[Key]) -> Floats | None:
        """Returns the images of a batch, and sees to those that will be asked for next.

        Args:
            key: Epoch and index.
            upcoming: What is likely to be asked for next, in that order.

        Returns:
            float32 `(b, h, w, 1)`; None while the processes are still starting, and when they
            have been closed.

        Raises:
            InputError: A process has died.
        """
        with self._state:
            self._asked[key] += 1
        try:
            self._receive(0.0)
            while not self._closed:
                with self._state:
                    self._plan([key, *upcoming])
                    job = self._jobs.get(key)
                    if job is not None and job.done:
                        return self._taken(key)
                    if not any(worker.ready for worker in self._workers):
                        return None
                self._receive(POLL_SECONDS, key)
            return None
        finally:
            with self._state:
                self._asked[key] -= 1
                if not self._asked[key]:
                    del self._asked[key]

    def close(self) -> None:
        """Ends the processes. Arrays that were handed out stay good."""
        self._closed = True
        with self._receiving:
            self._close()

    def _plan(self, wanted: Sequence[Key]) -> None:
        """Sends out what is wanted and not being made; drops what is made and not wanted."""
        if self._failure is not None:
            raise self._failure
        while self._returned:
            self._free.append(self._returned.popleft())
            self._lent -= 1
        kept = {*wanted, *self._asked}
        for key in [key for key, job in self._jobs.items() if job.done and key not in kept]:
            self._free.append(self._jobs.pop(key).slot)
        ready = [worker for worker in self._workers if worker.ready]
        if not ready:
            return
        for key in wanted:
            if len(self._free) <= LENT - self._lent:
                return
            if key not in self._jobs:
                worker = min(ready, key=lambda worker: worker.jobs)
                slot = self._free.pop()
                try:
                    worker.child.connection.send_bytes(JOB.pack(slot, *key))
                except OSError:
                    self._free.append(slot)
                    return  # it is dead: its end of the socket tells, when it is read
                worker.jobs += 1
                self._jobs[key] = _Job(slot)

    def _taken(self, key: Key) -> Floats:
        job = self._jobs.pop(key)
        if job.error is not None:
            self._free.append(job.slot)
            raise job.error
        shape = self._batches.shape(key[1])
        offset = job.slot * self._slot_bytes
        if self._lent < LENT:
            self._lent += 1
            lease = _Lease(self._memory, offset, shape, job.slot, self._returned)
            return np.asarray(lease)
        batch = aligned(shape)
        batch.reshape(-1)[:] = self._memory[offset : offset + batch.nbytes].view(np.float32)
        self._free.append(job.slot)
        return batch

    def _receive(self, seconds: float, key: Key | None = None) -> None:
        """Waits for what the workers have to say: for so long, or until this batch is done."""
        with self._receiving:
            with self._state:
                job = self._jobs.get(key) if key else None
                if self._closed or self._failure or (job is not None and job.done):
                    return  # it came while another thread was receiving
            for key_of, _ in self._selector.select(seconds):
                worker = key_of.data
                try:
                    message = worker.child.connection.recv_bytes()
                except (EOFError, OSError):
                    self._failure = InputError(worker.child.fault(*_DIED))
                    self._close()
                    return
                with self._state:
                    self._note(worker, message)

    def _note(self, worker: _Worker, message: bytes) -> None:
        kind, told = message[:1], message[1:]
        if kind == READY:
            worker.ready = True
            return
        error = pickle.loads(told[JOB.size :]) if kind == FAILED else None
        slot, *key = JOB.unpack(told[: JOB.size])
        if slot < 0:  # it could not even begin
            self._failure = error
            return
        assert kind in (DONE, FAILED)
        worker.jobs -= 1
        job = self._jobs[key[0], key[1]]
        job.done, job.error = True, error


def _memory(name: str, size: int) -> int:
    """Returns the descriptor of so many bytes of memory without a name."""
    descriptor = None
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create(name)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):  # else its lack is told by a signal, at the first write
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        raise InputError(
            Fault(
                "workers",
                f"no {size / 1e6:,.0f} MB of memory can be shared with them ({error.strerror})",
                "Take fewer workers, a shorter max_queue_size or a smaller batch_size.",
                expected="room for the batches that are being made or wait",
            )
        ) from None
    return descriptor


def _pickled(batches: Batches) -> tuple[int, list[tuple[int, int]]]:
    """Returns memory with a pickle and then each of its arrays, and where they are in it."""
    buffers: list[pickle.PickleBuffer] = []
    # By value, what is defined in a notebook or in the script itself: the user's augmentation.
    try:
        text = cloudpickle.dumps(batches, protocol=5, buffer_callback=buffers.append)
    except (AttributeError, TypeError, ValueError, pickle.PicklingError) as error:
        raise InputError(
            Fault(
                "augmentation",
                f"it can't be handed to another process ({error})",
                "Open files and connections inside the function, or leave out use_multiprocessing.",
                expected="what can be pickled",
            )
        ) from None
    parts = [memoryview(text), *(buffer.raw() for buffer in buffers)]
    places, end = [], 0
    for part in parts:
        places.append((end, part.nbytes))
        end = -(-(end + part.nbytes) // 64) * 64
    descriptor = _memory("start", max(1, end))
    with mmap.mmap(descriptor, 0) as memory:
        for (offset, length), part in zip(places, parts, strict=True):
            memory[offset : offset + length] = part
    return descriptor, places
