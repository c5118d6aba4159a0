"""Threads that Ctrl-C ends after what they have in hand."""

from __future__ import annotations

import _thread
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Threads:
    """What `threads` gives: `map`, as of Python's own pools, with nothing handed out ahead.

    Ctrl-C is raised between any two instructions of the main thread. Where Python's own pools hand
    out work they take locks that are written in Python, and one whose holder is interrupted stays
    locked for ever: the pool's threads then wait for it, and whoever pressed Ctrl-C for them. So
    nothing here takes one: each thread takes the next number from an iterator, queues are C's.
    """

    def __init__(self, count: int) -> None:
        """Takes how many threads there are to be."""
        self._count = count
        self._begun = 0
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._left = False

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Does the work on every item; the answers come in the order of the items.

        Raises:
            BaseException: What the work raised, in its turn.
        """
        todo = list(items)
        numbers = iter(range(len(todo)))
        answers: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                for number in numbers:  # one iterator for all threads
                    if self._left:
                        return
                    try:
                        answers.put((number, work(todo[number]), None))
                    except BaseException as error:  # noqa: BLE001 - raised below, in its turn
                        answers.put((number, None, error))
            finally:
                self._ended.put(None)

        for _ in range(min(self._count, len(todo))):
            # threading's own would wait, with such a lock, until the new thread runs.
            _thread.start_new_thread(run, ())
            self._begun += 1
        early: dict[int, tuple[Any, BaseException | None]] = {}
        for number in range(len(todo)):
            while number not in early:
                done, answer, error = answers.get()
                early[done] = answer, error
            answer, error = early.pop(number)
            if error is not None:
                raise error
            yield answer

    def leave(self) -> None:
        """Leaves undone what is not begun, and waits for what is in hand."""
        self._left = True
        while self._begun:
            self._ended.get()
            self._begun -= 1


@contextmanager
def threads(count: int) -> Iterator[Threads]:
    """So many threads, which leave undone what is not begun when their block is left."""
    pool = Threads(count)
    try:
        yield pool
    finally:
        pool.leave()
