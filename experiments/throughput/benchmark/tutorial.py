"""The generator of the tutorials: read, resize, scale and augment each radiograph in `__getitem__`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import keras
import numpy as np

from boneage.recipe import Augmentation
from experiments.throughput.benchmark.feed import feed
from experiments.throughput.benchmark.policy import stock_policy
from experiments.throughput.benchmark.setting import Setting


class TutorialDataset(keras.utils.PyDataset):
    """Films from disk, each decoded every time it is wanted, and augmented as float32."""

    def __init__(self, setting: Setting, workers: int, use_multiprocessing: bool) -> None:
        """Serves `((image, gender), age)`, float32, images `(b, size, size, 1)` in [0, 1]."""
        super().__init__(workers, use_multiprocessing)
        self.setting = setting
        self.augment = stock_policy(Augmentation())

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(self.setting.count / self.setting.batch)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Makes one batch."""
        setting = self.setting
        start = index * setting.batch
        images = []
        for number in range(start, min(setting.count, start + setting.batch)):
            radiograph = setting.radiographs[number % len(setting.radiographs)]
            # Tutorials leave the second argument out and get three times the bytes.
            image = cv2.imread(radiograph, cv2.IMREAD_GRAYSCALE)
            image = cv2.resize(image, (setting.size, setting.size))
            image = image.astype(np.float32) / 255
            images.append(self.augment(image=image)["image"])
        batch = np.stack(images)[..., None]
        column = np.zeros((len(batch), 1), np.float32)
        return (batch, column), column


def batches(setting: Setting, *, processes: bool) -> Iterator[Any]:
    """Yields images as `fit` gets them from this dataset.

    Args:
        setting: The conditions.
        processes: Whether `use_multiprocessing` is on; else it runs in the training's thread, as
            in the tutorials.
    """
    return feed(TutorialDataset(setting, setting.workers if processes else 1, processes))
