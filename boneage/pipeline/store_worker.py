"""One radiograph made into one row of a store's file, here or in a process that does nothing else.

Framing holds the interpreter's lock for a sixth of its time: from six threads on they would wait
for one another.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import zlib
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cv2

from boneage.errors import InputError
from boneage.pipeline.workers.child_process import Child, close, pickled
from boneage.radiographs.framing import REASONS, frame
from boneage.radiographs.hand_detection import Box
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing

_AFTER_DEATH = "If memory ran out (signal 9), prepare with fewer workers; what is done is kept."


class FramerDiedError(InputError):
    """A process that frames radiographs died; no radiograph is at fault, so there is no going on."""


@dataclass(frozen=True, slots=True)
class Radiograph:
    """What is to be framed, and where to.

    Attributes:
        path: The picture's file.
        region: The part of it that is meant; None for all of it.
        framing: How it is to be framed.
        offset: Where in the store's file its row begins, bytes.
    """

    path: Path
    region: Box | None
    framing: Framing
    offset: int


@dataclass(frozen=True, slots=True)
class Row:
    """What was written.

    Attributes:
        checksum: CRC-32 of the pixels.
        crop: Left, top, right, bottom, rotation, and the place of its reason in `REASONS`.
    """

    checksum: int
    crop: tuple[int, ...]


def make_row(radiograph: Radiograph, file: int) -> Row:
    """Decodes and frames a radiograph, and writes its pixels to a file.

    Args:
        radiograph: Which, how and where.
        file: The descriptor of the store's file.

    Raises:
        InputError: It can't be read, or its region is not inside it.
    """
    framed = frame(read_radiograph(radiograph.path), radiograph.framing, radiograph.region)
    pixels, crop = framed.pixels.tobytes(), framed.crop
    os.pwrite(file, pixels, radiograph.offset)
    return Row(zlib.crc32(pixels), (*crop.box, crop.rotation, REASONS.index(crop.why)))


class Framer:
    """A process that frames one radiograph at a time; to be closed."""

    def __init__(self, file: int) -> None:
        """Starts it, and does not wait until it is ready.

        Args:
            file: The descriptor of the store's file.
        """
        self._child = Child("boneage.pipeline.store_worker", (file,))

    def make_row(self, radiograph: Radiograph) -> Row:
        """As the function of that name, but for the interpreter's lock.

        Raises:
            FramerDiedError: The process did.
            InputError: The radiograph can't be read, or its region is not inside it.
        """
        try:
            self._child.connection.send(radiograph)
            answer = self._child.connection.recv()
        except (EOFError, OSError):
            raise FramerDiedError(self._child.fault(_AFTER_DEATH)) from None
        if isinstance(answer, bytes):
            raise pickle.loads(answer)
        row: Row = answer
        return row

    def close(self) -> None:
        """Ends the process."""
        close([self._child])


def main(descriptor: int, file: int) -> None:
    """Serves the parent until it closes the socket."""
    cv2.setNumThreads(1)  # there are as many processes as cores
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            radiograph = connection.recv()
            try:
                answer: Row | bytes = make_row(radiograph, file)
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
                answer = pickled(error)
            connection.send(answer)
