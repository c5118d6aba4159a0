"""Run work in threads, with at most a few items submitted ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Threads:
    """A pool of threads whose `map` submits at most two items per thread ahead."""

    def __init__(self, count: int) -> None:
        self._window = 2 * count
        self.executor = ThreadPoolExecutor(count)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result of the work on every item, in the order of the items.

        Raises:
            BaseException: The work on an item raised it.
        """
        remaining = iter(items)
        pending = deque(
            self.executor.submit(work, item) for item in islice(remaining, self._window)
        )
        while pending:
            yield pending.popleft().result()
            pending.extend(self.executor.submit(work, item) for item in islice(remaining, 1))


@contextmanager
def threads(count: int) -> Iterator[Threads]:
    """Provide a pool of threads. At the end it drops waiting items and finishes running ones."""
    pool = Threads(count)
    try:
        yield pool
    finally:
        pool.executor.shutdown(wait=True, cancel_futures=True)
