"""Which batches will be asked for next: in order, or in the order that Keras shuffles them to."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]  # epoch and index


class Foresight:
    """Follows what is asked for, and tells what will be.

    A wrong guess costs time and nothing else: what was not foreseen is made when it is asked for.

    Args:
        count: Batches an epoch.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._state = random.getstate()
        self._course: Iterator[Key] = iter(())
        self._next: list[Key] = []  # the beginning of what is left of the course
        self._lock = threading.Lock()

    def note_epoch(self) -> None:
        """Remembers Python's random state: Keras draws the order of the next epoch from it."""
        self._state = random.getstate()

    def upcoming(self, key: Key, ahead: int) -> list[Key]:
        """Returns what is likely to be asked for after this batch: `ahead` of them, or none."""
        with self._lock:
            if self._next[:1] != [key]:
                self._take_course(key)
            elif self._next:
                del self._next[0]
            self._next += itertools.islice(self._course, max(0, ahead - len(self._next)))
            return self._next[:ahead]

    def _take_course(self, key: Key) -> None:
        """Begins a course in which this batch has just been asked for; an empty one if unknown."""
        epoch, index = key
        self._next = []
        if index == 0:
            self._course = self._in_order(epoch)
        else:
            self._course = self._shuffled(epoch)
        # Keras' first may have been batch 0, which looked like the beginning of the plain order.
        for asked in itertools.islice(self._course, 2):
            if asked == key:
                return
        self._course = iter(())

    def _in_order(self, epoch: int) -> Iterator[Key]:
        for number in itertools.count(epoch):
            yield from ((number, index) for index in range(self._count))

    def _shuffled(self, epoch: int) -> Iterator[Key]:
        # As PyDatasetAdapter does it in `fit(shuffle=True)`, with a generator of our own.
        guess = random.Random()
        guess.setstate(self._state)
        for number in itertools.count(epoch):
            order = list(range(self._count))
            guess.shuffle(order)
            yield from ((number, index) for index in order)
