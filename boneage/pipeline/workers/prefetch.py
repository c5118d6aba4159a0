"""Which batches will be asked for next."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]  # epoch and index

_OVERTAKEN = 4  # times: one that is passed over more often will not be asked for


class Foresight:
    """Follows what is asked for, and tells what will be.

    A wrong guess costs time and nothing else: what was not foreseen is made when it is asked for.

    Args:
        count: Batches an epoch.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._course: Iterator[Key] = iter(())
        # The beginning of what is left of the course, and how often each was passed over: threads
        # that ask side by side overtake one another.
        self._next: dict[Key, int] = {}
        self._last: Key | None = None
        self._lock = threading.Lock()

    def upcoming(self, key: Key, ahead: int) -> list[Key]:
        """Returns what is likely to be asked for after this batch: `ahead` of them, or none."""
        with self._lock:
            if key not in self._next:
                self._take_course(key)
            else:
                for earlier in list(itertools.takewhile(key.__ne__, self._next)):
                    self._next[earlier] += 1
                    if self._next[earlier] > _OVERTAKEN:
                        del self._next[earlier]
                del self._next[key]
            for following in itertools.islice(self._course, max(0, ahead - len(self._next))):
                self._next[following] = 0
            self._last = key
            return list(self._next)[:ahead]

    def _take_course(self, key: Key) -> None:
        """Begins a course after this batch, where one begins; else it is not known."""
        epoch, index = key
        begins = index == 0 or self._last == (epoch, index - 1)
        self._next = {}
        self._course = self._after(key) if begins else iter(())

    def _after(self, key: Key) -> Iterator[Key]:
        epoch, index = key
        yield from ((epoch, following) for following in range(index + 1, self._count))
        for number in itertools.count(epoch + 1):
            yield from ((number, following) for following in range(self._count))
