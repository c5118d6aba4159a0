"""The worker processes, behind a bounded queue. One that takes too long or ends is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from boneage.errors import Fault, InputError
from boneage.runtime.provenance import usable_cores
from boneage.serving.asking import Asked, Reply
from boneage.serving.problems import MEDIA_TYPE, is_busy, problem_reply
from boneage.serving.worker import NOT_WITHIN_LIMITS, run_worker

T = TypeVar("T")

_START_SECONDS = 60.0
_LONGEST_PAUSE = 30.0  # seconds between two starts of a worker that does not start
_CHECK_SECONDS = 5.0  # after which an idle worker is found to have ended
_LARGEST_REPLY = 64 * 2**20
_OUTCOMES = ("answered", "refused", "unreadable", "failed")
_MEDIA_TYPES = ("application/json", "application/dicom", MEDIA_TYPE)


class _EndedError(Exception):
    """A worker has ended, or has said what no worker says."""


@dataclass(eq=False)
class _Job:
    asked: Asked
    content: bytes
    reply: asyncio.Future[Reply]
    is_taken: bool = False


class _Worker:
    """One process, and the pipe to it. Its methods block, so they run in a thread."""

    def __init__(
        self, target: Callable[..., None], options: Mapping[str, Any], cores: int, limit: int
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=target, args=(theirs, dict(options), cores, limit), daemon=True
        )
        self.process.start()
        theirs.close()
        self.is_ready = False

    def hear_start(self) -> dict[str, Any]:
        """Return what the worker says of its models.

        Raises:
            InputError: It can't load them.
            _EndedError: It ended.
        """
        with _ending():
            values = json.loads(self._pipe.recv_bytes(2**20))
            if faults := values.get("faults"):
                raise InputError([Fault(**fault) for fault in faults])
            if "description" not in values:
                raise _EndedError(str(values.get("error"))[:500])
            self.is_ready = True
            return dict(values["description"])

    def ask(self, asked: Asked, content: bytes) -> tuple[Reply, str]:
        """Return the reply to a request, and the name of an error that was not expected.

        Raises:
            _EndedError: The worker ended.
        """
        with _ending():
            self._pipe.send_bytes(asked.to_json())
            self._pipe.send_bytes(content)
            header = json.loads(self._pipe.recv_bytes(2**16))
            body = self._pipe.recv_bytes(_LARGEST_REPLY)
            status, kind, outcome = (header[key] for key in ("status", "media_type", "outcome"))
            if type(status) is not int or not 200 <= status < 600:
                raise ValueError
            if kind not in _MEDIA_TYPES or outcome not in _OUTCOMES:
                raise ValueError
            error = str(header["error"])
            return Reply(status, kind, body, outcome), error if error.isidentifier() else ""

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive()

    def end(self) -> None:
        """Kill the process, and wait for its end."""
        self.process.kill()
        self.process.join()
        self._pipe.close()


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except (InputError, _EndedError):
        raise
    except Exception as error:  # noqa: BLE001 - a file may make a worker say anything
        raise _EndedError(type(error).__name__) from None


class Workers:
    """Processes that answer, each one request at a time.

    Attributes:
        description: What they say of their models; empty until one is ready.
        waiting: Requests that wait for a worker.
        in_progress: Requests that a worker is answering.
        restarts: Workers that took the place of another.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        count: int,
        queue: int,
        seconds: float,
        log: Callable[[str], None],
        target: Callable[..., None] = run_worker,
    ) -> None:
        """Start the processes, which load their models meanwhile.

        Args:
            options: As for `boneage.serving.worker.run_worker`.
            count: Number of processes.
            queue: Most requests that may wait.
            seconds: Time limit of an answer.
            log: Writes a line for the operator.
            target: What a process runs.
        """
        self._arguments = (target, options, max(1, usable_cores() // count), round(seconds))
        self._seconds, self._log, self._queue_length = seconds, log, queue
        self._processes: list[_Worker | None] = [self._new() for _ in range(count)]
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._tasks: list[asyncio.Task[None]] = []
        self._failures: dict[int, InputError] = {}
        self._has_started = asyncio.Event()
        self._idle = 0
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self.description: dict[str, Any] = {}
        self.waiting = self.in_progress = self.restarts = 0

    async def start(self) -> None:
        """Wait until a worker is ready.

        Raises:
            InputError: None can load its models.
        """
        self._tasks = [asyncio.create_task(self._work(n)) for n in range(len(self._processes))]
        await self._has_started.wait()
        if not self.description:
            raise next(iter(self._failures.values()))

    @property
    def is_ready(self) -> bool:
        """Whether a worker is ready."""
        return any(each is not None and each.is_ready and each.is_alive for each in self._processes)

    @property
    def process_ids(self) -> list[int]:
        """The processes that live."""
        found = (None if each is None else each.process.pid for each in self._processes)
        return [number for number in found if number is not None]

    async def answer(self, asked: Asked, content: bytes) -> Reply:
        """Return the reply of the next worker that is free. A cancelled request is dropped.

        Raises:
            ProblemError: Too many requests wait, or none is ready for too long.
        """
        if self.waiting >= self._queue_length + self._idle:
            raise is_busy("Too many requests wait for an answer.")
        job = _Job(asked, content, asyncio.get_running_loop().create_future())
        self.waiting += 1
        self._jobs.put_nowait(job)
        try:
            done, _ = await asyncio.wait([job.reply], timeout=self._seconds)
            if not done and not job.is_taken:
                raise is_busy("No worker was free for too long.")
            return await job.reply
        finally:
            if not job.is_taken:
                self.waiting -= 1
            job.reply.cancel()
            job.content = b""

    async def stop(self) -> None:
        """End all processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.end()

    def end(self) -> None:
        """End all processes, outside an event loop."""
        for worker in self._processes:
            if worker is not None:
                worker.end()
        self._processes = [None] * len(self._processes)
        self._threads.shutdown(wait=False)

    async def _work(self, slot: int) -> None:
        """Answer requests with one process after another."""
        job: _Job | None = None
        while True:
            worker = await self._ready_worker(slot)
            while True:
                if job is None:
                    job = await self._next_job()
                if not worker.is_alive:  # it ended while it waited; the next one takes the request
                    break
                if job is None:
                    continue
                is_well = await self._ask(worker, job)
                job = None
                if not is_well:
                    break
            self.restarts += 1
            await self._end_worker(slot)

    async def _ready_worker(self, slot: int) -> _Worker:
        """Return the process of a slot when it is ready, however often it has to be started."""
        pause = 0.5
        while True:
            try:
                worker = self._processes[slot]
                if worker is None:
                    worker = await self._in_thread(self._new)
                    self._processes[slot] = worker
                with _kill_after(worker, _START_SECONDS):
                    self.description = await self._in_thread(worker.hear_start)
            except (InputError, OSError, _EndedError) as error:
                if not isinstance(error, InputError):
                    fix = "Is there enough memory? Try fewer --workers."
                    what = f"a worker process did not start ({error})"
                    error = InputError(Fault("boneage serve", what, fix))
                await self._end_worker(slot)
                self._failures[slot] = error
                if len(self._failures) == len(self._processes):
                    self._has_started.set()
                if self.description:  # else the command ends with the error
                    self._log(f"error: {error}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._failures.pop(slot, None)
                self._has_started.set()
                return worker

    async def _next_job(self) -> _Job | None:
        """Return the request that waits the longest, or None after some seconds without one."""
        self._idle += 1
        try:
            return await asyncio.wait_for(self._jobs.get(), _CHECK_SECONDS)
        except TimeoutError:
            return None
        finally:
            self._idle -= 1

    async def _ask(self, worker: _Worker, job: _Job) -> bool:
        """Answer one request; return whether the worker can answer another one."""
        if job.reply.done():
            return True
        job.is_taken = True
        self.waiting -= 1
        self.in_progress += 1
        error = ""
        try:
            with _kill_after(worker, self._seconds) as is_late:
                asked = self._in_thread(worker.ask, job.asked, job.content)
                reply, error = await asked
        except _EndedError:
            reply = problem_reply(504, "The answer took too long.") if is_late else _NOT_DECODED
            error = "it took too long" if is_late else "it ended"
        finally:
            self.in_progress -= 1
        if error:
            self._log(f"error: a worker is replaced ({error})")
        if not job.reply.done():
            job.reply.set_result(reply)
        return not error and not is_late

    async def _end_worker(self, slot: int) -> None:
        worker, self._processes[slot] = self._processes[slot], None
        if worker is not None:
            await self._in_thread(worker.end)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _new(self) -> _Worker:
        return _Worker(*self._arguments)


@contextlib.contextmanager
def _kill_after(worker: _Worker, seconds: float) -> Iterator[list[bool]]:
    """Kill a worker that takes longer than this block may; give a list that then is not empty."""
    late: list[bool] = []

    def kill() -> None:
        late.append(True)
        worker.process.kill()

    timer = asyncio.get_running_loop().call_later(seconds, kill)
    try:
        yield late
    finally:
        timer.cancel()


_NOT_DECODED = problem_reply(422, NOT_WITHIN_LIMITS, "unreadable")
