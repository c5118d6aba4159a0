"""PyTorch's DataLoader: on resized PNG files, and on the rows of our store."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.pipeline.augmentation import Augment
from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.policy import stock_policy
from experiments.throughput.benchmark.setting import Setting

Image = npt.NDArray[np.uint8]


class Samples:
    """A map-style dataset: one augmented picture an index, uint8 `(size, size)`."""

    def __init__(self, setting: Setting, *, store: bool, fused: bool) -> None:
        """Reads rows of the store, or PNG files; with the fused policy, or the stock one."""
        self.setting = setting
        self.store = open_store(setting.store) if store else None
        self.fused = fused
        self.augment: Callable[[Image], Image] | None = None

    def __len__(self) -> int:
        """Images an epoch."""
        return self.setting.count

    def __getitem__(self, index: int) -> Image:
        """Reads and augments one picture."""
        if self.augment is None:  # first in this worker: each has a random state of its own
            self.augment = self._policy()
        if self.store is not None:
            picture = self.store[index % len(self.store)]
        else:
            name = self.setting.pictures[index % len(self.setting.pictures)]
            picture = np.asarray(cv2.imread(name, cv2.IMREAD_GRAYSCALE), np.uint8)
        return self.augment(picture)

    def _policy(self) -> Callable[[Image], Image]:
        torch: Any = importlib.import_module("torch")
        seed = int(torch.initial_seed()) % 2**31  # PyTorch gives every worker another
        if self.fused:
            return Augment(Augmentation()).seeded(self.setting.seed, seed)
        policy = stock_policy(Augmentation(), seed)
        return lambda picture: np.asarray(policy(image=picture)["image"], np.uint8)


def collate(pictures: Sequence[Image]) -> Any:
    """Makes one uint8 tensor `(b, size, size, 1)`, in memory that the training process sees.

    A quarter of the bytes of float32 crosses, and the division is left to that process: of the
    ways tried (float32 made here, in shared memory or not) it is the fastest by far.
    """
    torch: Any = importlib.import_module("torch")
    shape = (len(pictures), *pictures[0].shape, 1)
    # As PyTorch's own default_collate does it: else the tensor is copied once more.
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    batch = torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)
    for row, picture in zip(batch.numpy(), pictures, strict=True):
        row[:, :, 0] = picture
    return batch


def batches(setting: Setting, *, store: bool, fused: bool = False) -> Iterator[Any]:
    """Yields images, float32 tensors `(b, size, size, 1)` in [0, 1].

    Args:
        setting: The conditions.
        store: Whether to read our store; else PNG files.
        fused: Whether to augment with our fused policy; else with the stock one.
    """
    torch: Any = importlib.import_module("torch")
    loader = torch.utils.data.DataLoader(
        Samples(setting, store=store, fused=fused),
        batch_size=setting.batch,
        shuffle=True,
        num_workers=setting.workers,
        collate_fn=collate,
        persistent_workers=setting.workers > 0,
        prefetch_factor=2 if setting.workers else None,
        worker_init_fn=quiet_worker,
    )
    while True:
        for batch in loader:
            yield batch.to(torch.float32).div_(255)


def quiet_worker(_: int) -> None:
    """Keeps OpenCV from starting threads of its own in every worker."""
    cv2.setNumThreads(0)
