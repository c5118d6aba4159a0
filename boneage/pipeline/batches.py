"""Which images are in a batch, and their pixels: what `DataGenerator` serves, made anywhere."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from boneage.pipeline.augmentation import Augment, ImageFunction
from boneage.pipeline.sources import ImageSource

Floats: TypeAlias = npt.NDArray[np.float32]

# What a random stream is for; with the seed and the epoch it makes the stream's own seed.
_SHUFFLE, _AUGMENT = 1, 2
_ALIGNMENT = 64


def aligned(shape: tuple[int, ...]) -> Floats:
    """Returns an array of float32, not filled, that begins at a multiple of 64 bytes.

    TensorFlow takes such an array as it is and copies any other.
    """
    count = math.prod(shape)
    room = np.empty(count + _ALIGNMENT // 4, np.float32)
    start = -room.ctypes.data % _ALIGNMENT // 4
    return room[start : start + count].reshape(shape)


class Batches:
    """The batches of every epoch, each a pure function of (seed, epoch, index).

    Attributes:
        source: The images, all of one size.
        augment: What is done to each; None for nothing.
        batch_size: Images a batch; the last may have fewer.
        shuffle: Whether every epoch has an order of its own.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        source: ImageSource,
        augment: Augment | None,
        batch_size: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        """Takes what `DataGenerator` has checked."""
        self.source = source
        self.augment = augment
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.source) / self.batch_size)

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """`(b, h, w, 1)` of a batch."""
        count, height, width = self.source.shape
        return min(self.batch_size, count - index * self.batch_size), height, width, 1

    def rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        """Returns which images are in a batch: int64 `(b,)`, in the order they are served."""
        order = self._order  # one read: another thread may replace it
        if order is None or order[0] != epoch:
            count = len(self.source)
            if self.shuffle:
                rows = np.random.default_rng([self.seed, _SHUFFLE, epoch, 0]).permutation(count)
            else:
                rows = np.arange(count)
            order = self._order = (epoch, rows)
        return order[1][index * self.batch_size : (index + 1) * self.batch_size]

    def fill(self, batch: Floats, index: int, epoch: int) -> None:
        """Writes the images of a batch, in [0, 1], into float32 `(b, h, w, 1)`."""
        augment = self._seeded(index, epoch)
        for place, row in enumerate(self.rows(index, epoch)):
            self._fill_row(batch[place], row, augment)

    def _seeded(self, index: int, epoch: int) -> ImageFunction | None:
        """The augmentation with which a batch begins, its images in their order."""
        if self.augment is None:
            return None
        return self.augment.seeded(self.seed, _AUGMENT, epoch, index)

    def _fill_row(self, into: Floats, row: np.int64, augment: ImageFunction | None) -> None:
        image = self.source[int(row)]
        if augment is not None:
            image = augment(image)
        np.divide(image, np.float32(255), out=into[:, :, 0], dtype=np.float32)
