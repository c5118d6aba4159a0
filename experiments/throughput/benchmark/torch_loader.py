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
from experiments.throughput.benchmark.contenders import Setting
from experiments.throughput.benchmark.policy import stock_policy

Image = npt.NDArray[np.uint8]


class Samples:
    """A map-style dataset: one augmented image per index, uint8 `(size, size)`.

    It reads rows of the store or PNG files, and has the fused or the stock policy.
    """

    def __init__(self, setting: Setting, *, store: bool, fused: bool) -> None:
        self.setting = setting
        self.store = open_store(setting.store) if store else None
        self.fused = fused
        self.augment: Callable[[Image], Image] | None = None

    def __len__(self) -> int:
        """Return the images per epoch."""
        return self.setting.count

    def __getitem__(self, index: int) -> Image:
        """Read and augment an image."""
        if self.augment is None:  # made in each worker, with its own random state
            self.augment = self._make_policy()
        if self.store is not None:
            return self.augment(self.store[index % len(self.store)])
        name = self.setting.pictures[index % len(self.setting.pictures)]
        return self.augment(np.asarray(cv2.imread(name, cv2.IMREAD_GRAYSCALE), np.uint8))

    def _make_policy(self) -> Callable[[Image], Image]:
        torch: Any = importlib.import_module("torch")
        seed = int(torch.initial_seed()) % 2**31  # each worker has another
        if self.fused:
            return Augment(Augmentation()).seeded(self.setting.seed, seed)
        policy = stock_policy(Augmentation(), seed)
        return lambda image: np.asarray(policy(image=image)["image"], np.uint8)


def collate(images: Sequence[Image]) -> Any:
    """Return a uint8 tensor `(b, size, size, 1)` in shared memory.

    The training process divides by 255, so a quarter of the bytes of float32 is transported. This
    is by far the fastest of the ways tried.
    """
    torch: Any = importlib.import_module("torch")
    shape = (len(images), *images[0].shape, 1)
    # As PyTorch's default_collate does. Otherwise the tensor is copied once more.
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    batch = torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)
    for row, image in zip(batch.numpy(), images, strict=True):
        row[:, :, 0] = image
    return batch


def batches(setting: Setting, *, store: bool, fused: bool = False) -> Iterator[Any]:
    """Yield images, float32 tensors `(b, size, size, 1)` in [0, 1].

    Args:
        setting: The conditions.
        store: Whether to read our store, else PNG files.
        fused: Whether to augment with our fused policy, else with the stock policy.
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
        worker_init_fn=disable_opencv_threads,
    )
    while True:
        for batch in loader:
            yield batch.to(torch.float32).div_(255)


def disable_opencv_threads(_: int) -> None:
    """Keep OpenCV from starting threads in every worker."""
    cv2.setNumThreads(0)
