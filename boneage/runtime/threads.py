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
    """A pool of threads whose `map` submits only a few items ahead."""

    def __init__(self, count: int) -> None:
        self._window = 2 * count
        self.executor = ThreadPoolExecutor(count)

    def map(
        self, work: Callable[[T], R], items: Iterable[T], ahead: int | None = None
    ) -> Iterator[R]:
        """Yield the result of the work on every item, in the order of the items.

        Args:
            work: What is done with an item.
            items: The items.
            ahead: Number of items that are submitted ahead. Default: two per thread.

        Raises:
            BaseException: The work on an item raised it.
        """
        remaining = iter(items)
        pending = deque(
            self.executor.submit(work, item) for item in islice(remaining, ahead or self._window)
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
