"""Threads that Ctrl-C ends after what they have in hand."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool that leaves undone what is not begun when its block is left by an exception.

    Python's own does all of it first. `map` and `submit` hand everything out at once, which takes
    a while beside busy threads: whoever pressed Ctrl-C just then waited for ten thousand films.

    Args:
        count: How many; None for Python's own choice.
    """
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # `with` waits for what is in hand
            raise
