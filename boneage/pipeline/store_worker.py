"""Frame one radiograph into one row of a store's file, in this process or in another.

Framing holds the interpreter's lock for a sixth of its time. With six threads or more, threads
would wait for each other, so processes frame instead.
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
from boneage.radiographs.framing import REASONS, cut_region, frame
from boneage.radiographs.hand_detection import Box
from boneage.radiographs.image_quality import refuse_blank
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing

_AFTER_DEATH = "If memory ran out (signal 9), prepare with fewer workers. Finished rows are kept."


class FramerDiedError(InputError):
    """A process that frames radiographs died, through no fault of a radiograph."""


@dataclass(frozen=True, slots=True)
class FramingTask:
    """One radiograph to frame.

    Attributes:
        path: The radiograph's file.
        region: The part of the image to frame; None for all of it.
        framing: How to frame it.
        offset: The start of its row in the store's file, bytes.
    """

    path: Path
    region: Box | None
    framing: Framing
    offset: int


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the store, after it was written.

    Attributes:
        checksum: CRC-32 of the pixels.
        crop: Left, top, right, bottom, rotation, the index of its reason in `REASONS`, and the
            gain (see `Framed.gain`).
    """

    checksum: int
    crop: tuple[float, ...]


def make_row(task: FramingTask, file: int) -> Row:
    """Decode and frame a radiograph, and write its pixels to a file.

    Args:
        task: The radiograph, and how and where to write it.
        file: The descriptor of the store's file.

    Raises:
        InputError: The radiograph can't be read, it is blank, or its region is not inside it.
    """
    image = read_radiograph(task.path)
    refuse_blank(image if task.region is None else cut_region(image, task.region), task.path)
    framed = frame(image, task.framing, task.region)
    pixels, crop = framed.pixels.tobytes(), framed.crop
    os.pwrite(file, pixels, task.offset)
    reason = REASONS.index(crop.why)
    return Row(zlib.crc32(pixels), (*crop.box, crop.rotation, reason, framed.gain))


class Framer:
    """A process that frames one radiograph at a time. Close it after use."""

    def __init__(self, file: int) -> None:
        """Start the process, and do not wait until it is ready.

        Args:
            file: The descriptor of the store's file.
        """
        self._child = Child("boneage.pipeline.store_worker", (file,))

    def make_row(self, task: FramingTask) -> Row:
        """Do what the function `make_row` does, in the other process.

        Raises:
            FramerDiedError: The process died.
            InputError: The radiograph can't be read, or its region is not inside the image.
        """
        try:
            self._child.connection.send(task)
            answer = self._child.connection.recv()
        except (EOFError, OSError):
            raise FramerDiedError(self._child.fault(_AFTER_DEATH)) from None
        if isinstance(answer, bytes):
            raise pickle.loads(answer)
        row: Row = answer
        return row

    def close(self) -> None:
        """End the process."""
        close([self._child])


def main(descriptor: int, file: int) -> None:
    """Serve the parent until it closes the socket."""
    cv2.setNumThreads(1)  # each core has a process
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            task = connection.recv()
            try:
                answer: Row | bytes = make_row(task, file)
            except Exception as error:  # noqa: BLE001 - the parent raises it, whatever it is
                answer = pickled(error)
            connection.send(answer)
