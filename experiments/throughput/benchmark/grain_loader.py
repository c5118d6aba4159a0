"""Grain: our store's rows, augmented and batched in its worker processes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.policy import stock_policy
from experiments.throughput.benchmark.setting import Setting

Image = npt.NDArray[np.uint8]


class Rows:
    """A random-access source: the store's rows, repeated up to the images of an epoch."""

    def __init__(self, setting: Setting) -> None:
        """Opens the store; each worker process opens it again."""
        self.store = open_store(setting.store)
        self.count = setting.count

    def __len__(self) -> int:
        """Images an epoch."""
        return self.count

    def __getitem__(self, index: int) -> Image:
        """Returns one row: uint8 `(size, size)`."""
        return self.store[index % len(self.store)]


class Stock:
    """The stock policy; made anew, with other draws, in every worker process."""

    def __init__(self) -> None:
        """Makes it when it is first called."""
        self.policy: Any = None

    def __call__(self, picture: Image) -> Image:
        """Augments one picture: uint8 `(size, size)` to the same."""
        if self.policy is None:
            self.policy = stock_policy(Augmentation())
        return np.asarray(self.policy(image=picture)["image"], np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": None}


def scaled(pictures: Sequence[Image]) -> npt.NDArray[np.float32]:
    """Makes one float32 array `(b, size, size, 1)` in [0, 1] of uint8 pictures."""
    batch = np.empty((len(pictures), *pictures[0].shape, 1), np.float32)
    for place, picture in enumerate(pictures):
        np.divide(picture, np.float32(255), out=batch[place, :, :, 0], dtype=np.float32)
    return batch


def batches(setting: Setting) -> Iterator[Any]:
    """Yields images, float32 `(b, size, size, 1)` in [0, 1]."""
    grain: Any = importlib.import_module("grain")
    flags: Any = importlib.import_module("absl.flags").FLAGS
    if not flags.is_parsed():  # grain reads some, which nobody parses outside an absl application
        flags.mark_as_parsed()
    dataset = (
        grain.MapDataset.source(Rows(setting))
        .seed(setting.seed)
        .shuffle()
        .repeat()
        .map(Stock())
        .batch(setting.batch, batch_fn=scaled)
        # Threads inside a worker process only stand in each other's way here.
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        .mp_prefetch(grain.MultiprocessingOptions(setting.workers, per_worker_buffer_size=2))
    )
    yield from dataset
