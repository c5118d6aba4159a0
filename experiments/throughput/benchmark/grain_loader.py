"""Grain: the rows of our store, augmented and batched in its worker processes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.contenders import Setting
from experiments.throughput.benchmark.policy import stock_policy

Image = npt.NDArray[np.uint8]


class Rows:
    """A random-access source: the rows of the store, repeated up to the images of an epoch."""

    def __init__(self, setting: Setting) -> None:
        self.store = open_store(setting.store)
        self.count = setting.count

    def __len__(self) -> int:
        """Return the images per epoch."""
        return self.count

    def __getitem__(self, index: int) -> Image:
        """Return a row: uint8 `(size, size)`."""
        return self.store[index % len(self.store)]


class Stock:
    """The stock policy. Each worker process makes its own, with its own random numbers."""

    def __init__(self) -> None:
        self.policy: Any = None

    def __call__(self, image: Image) -> Image:
        """Augment an image: uint8 `(size, size)` to the same."""
        if self.policy is None:
            self.policy = stock_policy(Augmentation())
        return np.asarray(self.policy(image=image)["image"], np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": None}


def collate(images: Sequence[Image]) -> npt.NDArray[np.float32]:
    """Return a float32 array `(b, size, size, 1)` in [0, 1] from uint8 images."""
    batch = np.empty((len(images), *images[0].shape, 1), np.float32)
    for index, image in enumerate(images):
        np.divide(image, np.float32(255), out=batch[index, :, :, 0], dtype=np.float32)
    return batch


def batches(setting: Setting) -> Iterator[Any]:
    """Yield images, float32 `(b, size, size, 1)` in [0, 1]."""
    grain: Any = importlib.import_module("grain")
    flags: Any = importlib.import_module("absl.flags").FLAGS
    if not flags.is_parsed():  # grain reads flags that only an absl application parses
        flags.mark_as_parsed()
    yield from (
        grain.MapDataset.source(Rows(setting))
        .seed(setting.seed)
        .shuffle()
        .repeat()
        .map(Stock())
        .batch(setting.batch, batch_fn=collate)
        # More threads inside a worker process only slow each other down here.
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        .mp_prefetch(grain.MultiprocessingOptions(setting.workers, per_worker_buffer_size=2))
    )
