"""A pool of processes that write batches into shared memory, ahead of time.

Only numbers cross the sockets. A batch is served without a copy, in the slot of memory that a
process wrote it to. The slot is used again when no array refers to it any more. The memory has no
name, so nothing is left behind, and the size of `/dev/shm` does not limit it.
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
from typing import Any, TypeAlias

import cloudpickle
import numpy as np

from boneage.errors import Fault, InputError
from boneage.pipeline.batches import Batches, Floats, aligned
from boneage.pipeline.workers.child_process import Child, close
from boneage.pipeline.workers.process import DONE, FAILED, JOB, READY, Span

Key: TypeAlias = tuple[int, int]  # epoch and index

MAX_LENT = 8  # batches served in place at a time; further ones are copied
POLL_SECONDS = 0.2
_AFTER_DEATH = (
    "If memory ran out (signal 9), use fewer workers or a smaller batch_size. "
    "Without use_multiprocessing, batches are made in the training process."
)
_MAX_OVERTAKEN = 4  # batches; one that is asked for later than that counts as skipped


class PrefetchPlan:
    """Predicts the next batches from those asked for. A wrong prediction only costs time.

    Args:
        count: Batches per epoch.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._planned: list[int] = []  # batches, numbered through all epochs
        self._next: int | None = None  # the first batch that is not planned yet
        self._last = -2
        self._lock = threading.Lock()

    def upcoming(self, key: Key, ahead: int) -> list[Key]:
        """Return the next `ahead` batches after this one, or none if the order is unknown."""
        number = key[0] * self._count + key[1]
        with self._lock:
            if number in self._planned:  # threads that ask side by side overtake one another
                near = number - _MAX_OVERTAKEN
                self._planned = [n for n in self._planned if n != number and n >= near]
            else:
                in_order = key[1] == 0 or number == self._last + 1
                self._planned, self._next = [], number + 1 if in_order else None
            self._last = number
            while self._next is not None and len(self._planned) < ahead:
                self._planned.append(self._next)
                self._next += 1
            return [divmod(number, self._count) for number in self._planned[:ahead]]


@dataclass(eq=False)
class _Worker:
    child: Child
    is_ready: bool = False
    jobs: int = 0  # sent and not yet answered


@dataclass(eq=False)
class _Job:
    slot: int
    is_done: bool = False
    error: BaseException | None = None


class _Lease:
    """Keeps one slot until the array made from it, and every view of that array, is gone."""

    def __init__(
        self, memory: Any, offset: int, shape: tuple[int, ...], slot: int, returned: Any
    ) -> None:
        self._memory = memory  # keeps the mapping, even after the pool is closed
        self._slot = slot
        self._returned = returned
        self.__array_interface__ = {
            "data": (memory.ctypes.data + offset, False),
            "shape": shape,
            "typestr": "<f4",
            "version": 3,
        }

    def __del__(self) -> None:
        self._returned.append(self._slot)


class Workers:
    """Processes that make the batches asked for, and those that will be. Safe for threads.

    Args:
        batches: What to make. It is pickled once, and all processes share its arrays.
        count: Number of processes.
        waiting: Most finished batches that wait to be asked for.

    Raises:
        InputError: This system can't start such processes, or has too little memory for the
            batches. `get` raises it when a process has died.
    """

    def __init__(self, batches: Batches, count: int, waiting: int) -> None:
        if os.name != "posix":
            raise InputError(
                Fault(
                    "use_multiprocessing",
                    f"{sys.platform} can't share memory with a new process",
                    "Use Linux or macOS, or leave use_multiprocessing out: threads serve the "
                    "same batches.",
                )
            )
        self.ahead = count + waiting
        self._batches = batches
        page = mmap.PAGESIZE
        # The padding of a `DeviceShard` may make its last batch the largest.
        largest = max(batches.shape(index) for index in (0, len(batches) - 1))
        self._slot_bytes = -(-int(np.prod(largest)) * 4 // page) * page
        slots = 1 + self.ahead + MAX_LENT
        ring = _shared_memory("batches", slots * self._slot_bytes)
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
            self._start(count, ring)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(ring)

    def _start(self, count: int, ring: int) -> None:
        pickled, spans = _pickle_into_memory(self._batches)
        try:
            for _ in range(count):
                worker = _Worker(Child("boneage.pipeline.workers.process", (pickled, ring)))
                self._workers.append(worker)
                self._children.append(worker.child)
                self._selector.register(worker.child.connection, selectors.EVENT_READ, worker)
                worker.child.connection.send((spans, self._slot_bytes))
        finally:
            os.close(pickled)

    @property
    def process_ids(self) -> list[int]:
        """Return the ids of the processes that are ready."""
        return [worker.child.process.pid for worker in self._workers if worker.is_ready]

    def get(self, key: Key, upcoming: Sequence[Key]) -> Floats | None:
        """Return the images of a batch, and have the next batches made.

        Args:
            key: Epoch and index of the batch.
            upcoming: The batches that will probably be asked for next, in order.

        Returns:
            float32 `(b, h, w, 1)`. None while the processes start, and after `close`.

        Raises:
            InputError: A process has died.
        """
        with self._state:
            self._asked[key] += 1
        try:
            self._receive(0.0)
            while not self._closed:
                with self._state:
                    self._send([key, *upcoming])
                    job = self._jobs.get(key)
                    if job is not None and job.is_done:
                        return self._take(key)
                    if not any(worker.is_ready for worker in self._workers):
                        return None
                self._receive(POLL_SECONDS, key)
            return None
        finally:
            with self._state:
                self._asked[key] -= 1
                if not self._asked[key]:
                    del self._asked[key]

    def close(self) -> None:
        """End the processes. Arrays that were served stay valid."""
        self._closed = True
        with self._receiving:
            self._close()

    def _send(self, wanted: Sequence[Key]) -> None:
        """Send out the wanted batches that nobody makes yet, and drop the unwanted ones."""
        if self._failure is not None:
            raise self._failure
        while self._returned:
            self._free.append(self._returned.popleft())
            self._lent -= 1
        kept = {*wanted, *self._asked}
        for key in [key for key, job in self._jobs.items() if job.is_done and key not in kept]:
            self._free.append(self._jobs.pop(key).slot)
        ready = [worker for worker in self._workers if worker.is_ready]
        if not ready:
            return
        for key in wanted:
            if len(self._free) <= MAX_LENT - self._lent:
                return
            if key not in self._jobs:
                worker = min(ready, key=lambda worker: worker.jobs)
                slot = self._free.pop()
                try:
                    worker.child.connection.send_bytes(JOB.pack(slot, *key))
                except OSError:
                    self._free.append(slot)
                    return  # the worker is dead, which `_receive` finds when it reads
                worker.jobs += 1
                self._jobs[key] = _Job(slot)

    def _take(self, key: Key) -> Floats:
        job = self._jobs.pop(key)
        if job.error is not None:
            self._free.append(job.slot)
            raise job.error
        shape = self._batches.shape(key[1])
        offset = job.slot * self._slot_bytes
        if self._lent < MAX_LENT:
            self._lent += 1
            lease = _Lease(self._memory, offset, shape, job.slot, self._returned)
            return np.asarray(lease)
        batch = aligned(shape)
        batch.reshape(-1)[:] = self._memory[offset : offset + batch.nbytes].view(np.float32)
        self._free.append(job.slot)
        return batch

    def _receive(self, seconds: float, key: Key | None = None) -> None:
        """Read the answers of the workers, for some time or until this batch is done."""
        with self._receiving:
            with self._state:
                job = self._jobs.get(key) if key else None
                if self._closed or self._failure or (job is not None and job.is_done):
                    return  # the batch came while another thread was receiving
            for selected, _ in self._selector.select(seconds):
                worker = selected.data
                try:
                    message = worker.child.connection.recv_bytes()
                except (EOFError, OSError):
                    self._failure = InputError(worker.child.fault(_AFTER_DEATH))
                    self._close()
                    return
                with self._state:
                    self._note(worker, message)

    def _note(self, worker: _Worker, message: bytes) -> None:
        kind, content = message[:1], message[1:]
        if kind == READY:
            worker.is_ready = True
            return
        error = pickle.loads(content[JOB.size :]) if kind == FAILED else None
        slot, *key = JOB.unpack(content[: JOB.size])
        if slot < 0:  # the worker could not start
            self._failure = error
            return
        assert kind in (DONE, FAILED)
        worker.jobs -= 1
        job = self._jobs[key[0], key[1]]
        job.is_done, job.error = True, error


def _shared_memory(name: str, size: int) -> int:
    """Return the descriptor of memory without a name, `size` bytes."""
    descriptor = None
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create(name)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):  # without it, too little memory ends in a signal later
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        raise InputError(
            Fault(
                "workers",
                f"the batches need {size / 1e6:,.0f} MB of shared memory ({error.strerror})",
                "Use fewer workers, a shorter max_queue_size or a smaller batch_size.",
            )
        ) from None
    return descriptor


def _pickle_into_memory(batches: Batches) -> tuple[int, list[Span]]:
    """Return the descriptor of memory with a pickle and its arrays, and where each of them is."""
    buffers: list[pickle.PickleBuffer] = []
    # By value where it is defined in a notebook or in the script: the user's augmentation.
    try:
        text = cloudpickle.dumps(batches, protocol=5, buffer_callback=buffers.append)
    except (AttributeError, TypeError, ValueError, pickle.PicklingError) as error:
        raise InputError(
            Fault(
                "augmentation",
                f"it can't be sent to another process, because it can't be pickled ({error})",
                "Open files and connections inside the function, or leave out use_multiprocessing.",
            )
        ) from None
    parts = [memoryview(text), *(buffer.raw() for buffer in buffers)]
    spans, end = [], 0
    for part in parts:
        spans.append((end, part.nbytes))
        end = -(-(end + part.nbytes) // 64) * 64
    descriptor = _shared_memory("pickle", max(1, end))
    with mmap.mmap(descriptor, 0) as memory:
        for (offset, length), part in zip(spans, parts, strict=True):
            memory[offset : offset + length] = part
    return descriptor, spans
