"""One process' rows of every batch, where several processes train on the same batches together."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from boneage.pipeline.augmentation import Image
from boneage.pipeline.batches import Batches, Floats

_BLANK: Image = np.zeros((2, 2), np.uint8)


class Share(Batches):
    """The rows that some of the devices have of every batch; only these are decoded and varied.

    All shares of a batch, in the order of the devices, are the batch that one process would have
    made: the same images in the same order, each varied as it would have been there. The last
    batch of an epoch may not divide evenly: then it has `padding` further rows at its end, which
    repeat its last image and which the training step takes away.

    Args:
        whole: What one process would serve.
        first: The first of our devices.
        own: How many of them are ours, one after the other.
        devices: All of them; they divide `whole.batch_size`.
    """

    def __init__(self, whole: Batches, first: int, own: int, devices: int) -> None:
        super().__init__(whole.source, whole.augment, whole.batch_size, whole.shuffle, whole.seed)
        self._whole = whole
        self._first, self._own, self._devices = first, own, devices
        self.last = whole.shape(len(whole) - 1)[0]
        padded = math.ceil(self.last / devices) * devices
        if self.last < padded == whole.batch_size:
            padded += devices  # told from a full batch by its size alone
        self.padding = padded - self.last

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """`(b, h, w, 1)` of our rows of a batch."""
        rows, height, width, channels = self._whole.shape(index)
        if index == len(self) - 1:
            rows += self.padding
        return rows // self._devices * self._own, height, width, channels

    def rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        """Returns which images our rows of a batch are: int64 `(b,)`."""
        begin, end = self._places(index)
        return self._all_rows(index, epoch)[begin:end]

    def fill(self, batch: Floats, index: int, epoch: int) -> None:
        """Writes our images of a batch, in [0, 1], into float32 `(b, h, w, 1)`."""
        begin, end = self._places(index)
        augment = self._seeded(index, epoch)
        for place, row in enumerate(self._all_rows(index, epoch)[:end]):
            if place >= begin:
                self._fill_row(batch[place - begin], row, augment)
            elif augment is not None and self.augment is not None:
                # The images of a batch draw from one stream in turn: ours after those before.
                if self.augment.draws == "alike":
                    augment(_BLANK)
                elif self.augment.draws == "by image":
                    augment(self.source[row])

    def _places(self, index: int) -> tuple[int, int]:
        each = self.shape(index)[0] // self._own
        return each * self._first, each * (self._first + self._own)

    def _all_rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        rows = self._whole.rows(index, epoch)
        if index == len(self) - 1 and self.padding:
            rows = np.concatenate([rows, np.repeat(rows[-1:], self.padding)])
        return rows
