"""Which images are in a batch, and their pixels: the same in any thread, process or host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from boneage.pipeline.augmentation import Augment, Image, SeededFunction
from boneage.pipeline.sources import ImageSource, TwoFramings, image_and_gain

Floats: TypeAlias = npt.NDArray[np.float32]

# The purpose of a random stream. Seed, purpose, epoch and index together seed the stream.
_SHUFFLE, _AUGMENT, _ROTATE, _FRAMING = 1, 2, 3, 4
_ALIGNMENT = 64  # bytes
_BLANK: Image = np.zeros((2, 2), np.uint8)


def aligned(shape: tuple[int, ...]) -> Floats:
    """Return an uninitialised float32 array that begins at a multiple of 64 bytes.

    TensorFlow uses the memory of such an array. It copies any other.
    """
    count = math.prod(shape)
    buffer = np.empty(count + _ALIGNMENT // 4, np.float32)
    start = -buffer.ctypes.data % _ALIGNMENT // 4
    return buffer[start : start + count].reshape(shape)


class Mixture:
    """Which images of each source an epoch has, as many as there are images.

    A source with n images has a share that is as n to the power of 1 - `balance`. An epoch takes
    its share from a fixed random order of the source, and the next epoch goes on from there, round
    and round. So a larger source gives each image at most once in an epoch, a smaller one repeats
    its images evenly, and in the long run all images of a source are served equally often.

    Args:
        sources: The source of each image.
        balance: 0 for every image equally often, 1 for every source equally often.
        seed: Seed of the order.

    Attributes:
        counts: Images of each source in an epoch, by the source's name.
    """

    def __init__(self, sources: Sequence[str], balance: float, seed: int) -> None:
        names, group = np.unique(np.asarray(sources, str), return_inverse=True)
        sizes = np.bincount(group)
        shares = sizes ** (1.0 - balance)
        ends = np.rint(np.cumsum(shares) / shares.sum() * len(group)).astype(int)
        counts = np.diff(ends, prepend=0)
        self.counts = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
        self._orders = [
            np.random.default_rng([seed, _ROTATE, index, 0]).permutation(
                np.flatnonzero(group == index)
            )
            for index in range(len(names))
        ]

    def rows(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch's images in the dataset, in ascending order: int64 `(n,)`."""
        taken = [
            order[(epoch * count + np.arange(count)) % len(order)]
            for order, count in zip(self._orders, self.counts.values(), strict=True)
        ]
        return np.sort(np.concatenate(taken))


class Batches:
    """The batches of every epoch, each a pure function of (seed, epoch, index).

    Args:
        source: The images, all of one size.
        augment: The augmentation of each image, or None.
        batch_size: Images per batch. The last batch may have fewer.
        shuffle: Whether each epoch has its own order.
        seed: Seed of the order and of the augmentation.
        mixture: Which images an epoch has. Default: each image once.
    """

    def __init__(
        self,
        source: ImageSource,
        augment: Augment | None,
        batch_size: int,
        shuffle: bool,
        seed: int,
        mixture: Mixture | None = None,
    ) -> None:
        self.source = source
        self.augment = augment
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.mixture = mixture
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return math.ceil(len(self.source) / self.batch_size)

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """Return the shape `(b, h, w, 1)` of a batch."""
        count, height, width = self.source.shape
        return min(self.batch_size, count - index * self.batch_size), height, width, 1

    def rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of a batch's images in the source: int64 `(b,)`."""
        order = self._order  # read once, because another thread may replace it
        if order is None or order[0] != epoch:
            rows = np.arange(len(self.source))
            if self.mixture is not None:
                rows = self.mixture.rows(epoch)
            if self.shuffle:
                rows = np.random.default_rng([self.seed, _SHUFFLE, epoch, 0]).permutation(rows)
            order = self._order = (epoch, rows)
        return order[1][index * self.batch_size : (index + 1) * self.batch_size]

    def fill(self, batch: Floats, index: int, epoch: int) -> None:
        """Write the images of a batch, in [0, 1], into float32 `(b, h, w, 1)`."""
        augment = self._seeded(index, epoch)
        for position, row in enumerate(self.rows(index, epoch)):
            self._fill_row(batch[position], self._source(row, epoch), row, augment)

    def _seeded(self, index: int, epoch: int) -> SeededFunction | None:
        """Return the augmentation of a batch. The images of the batch must pass it in order."""
        if self.augment is None:
            return None
        return self.augment.seeded(self.seed, _AUGMENT, epoch, index)

    def _source(self, row: np.int64, epoch: int) -> ImageSource:
        """Return the source of an image in an epoch."""
        if isinstance(self.source, TwoFramings):
            return self.source.drawn(self.seed, _FRAMING, epoch, int(row))
        return self.source

    def _fill_row(
        self, target: Floats, source: ImageSource, row: np.int64, augment: SeededFunction | None
    ) -> None:
        if augment is None:
            image = source[int(row)]
        elif self.augment is not None and self.augment.uses_gain:
            image = augment(*image_and_gain(source, int(row)))
        else:
            image = augment(source[int(row)])
        np.divide(image, np.float32(255), out=target[:, :, 0], dtype=np.float32)


class DeviceShard(Batches):
    """This process's rows of every batch. Only these rows are decoded and augmented.

    The shards of all processes, in the order of the devices, are the batch that one process would
    make. The last batch of an epoch may not divide evenly. It then ends with `padding` copies of
    its last image, which the training step removes.

    Args:
        whole: The batches of all devices.
        first: Index of this process's first device.
        own: Number of this process's devices, which follow one another.
        devices: Number of all devices. It divides `whole.batch_size`.

    Attributes:
        last: Images in the last batch of an epoch, of all devices.
        padding: Rows that fill up that batch, of all devices.
    """

    def __init__(self, whole: Batches, first: int, own: int, devices: int) -> None:
        super().__init__(whole.source, whole.augment, whole.batch_size, whole.shuffle, whole.seed)
        self.whole = whole
        self._first, self._own, self._devices = first, own, devices
        self.last = whole.shape(len(whole) - 1)[0]
        padded = math.ceil(self.last / devices) * devices
        if self.last < padded == whole.batch_size:
            padded += devices  # the training step knows a padded batch by its size alone
        self.padding = padded - self.last

    def shape(self, index: int) -> tuple[int, int, int, int]:
        """Return the shape `(b, h, w, 1)` of this process's rows of a batch."""
        rows, height, width, channels = self.whole.shape(index)
        if index == len(self) - 1:
            rows += self.padding
        return rows // self._devices * self._own, height, width, channels

    def rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of this process's images of a batch: int64 `(b,)`."""
        begin, end = self._bounds(index)
        return self._padded_rows(index, epoch)[begin:end]

    def fill(self, batch: Floats, index: int, epoch: int) -> None:
        """Write this process's images of a batch, in [0, 1], into float32 `(b, h, w, 1)`."""
        begin, end = self._bounds(index)
        augment = self._seeded(index, epoch)
        for position, row in enumerate(self._padded_rows(index, epoch)[:end]):
            if position >= begin:
                source = self._source(row, epoch)
                self._fill_row(batch[position - begin], source, row, augment)
            elif augment is not None and self.augment is not None:
                # The images of a batch draw from one random stream in turn.
                if self.augment.draws == "alike":
                    augment(_BLANK)
                elif self.augment.draws == "by image":
                    augment(self._source(row, epoch)[int(row)])

    def _bounds(self, index: int) -> tuple[int, int]:
        each = self.shape(index)[0] // self._own
        return each * self._first, each * (self._first + self._own)

    def _padded_rows(self, index: int, epoch: int) -> npt.NDArray[np.int64]:
        rows = self.whole.rows(index, epoch)
        if index == len(self) - 1 and self.padding:
            rows = np.concatenate([rows, np.repeat(rows[-1:], self.padding)])
        return rows
