"""Datasets of Keras: this package's generator, and the generator of the tutorials."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import cv2
import keras
import numpy as np
from keras.src.trainers.data_adapters import get_data_adapter

from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.store import StoreView, open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.contenders import Setting
from experiments.throughput.benchmark.policy import stock_policy

LOWER_QUALITY = Augmentation(resample=0.2, blur=0.2, noise=0.2, jpeg=0.2)


class TutorialDataset(keras.utils.PyDataset):
    """Decodes each radiograph whenever it is needed, and augments it as float32.

    It serves `((image, gender), age)`, float32, with images `(b, size, size, 1)` in [0, 1].
    """

    def __init__(self, setting: Setting, workers: int, use_multiprocessing: bool) -> None:
        super().__init__(workers, use_multiprocessing)
        self.setting = setting
        self.augment = stock_policy(Augmentation())

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return math.ceil(self.setting.count / self.setting.batch)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return a batch."""
        setting = self.setting
        start = index * setting.batch
        images = []
        for number in range(start, min(setting.count, start + setting.batch)):
            path = setting.radiographs[number % len(setting.radiographs)]
            # Tutorials leave the second argument out, and get three times the bytes.
            image = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
            image = cv2.resize(image, (setting.size, setting.size))
            image = image.astype(np.float32) / 255
            images.append(self.augment(image=image)["image"])
        batch = np.stack(images)[..., None]
        column = np.zeros((len(batch), 1), np.float32)
        return (batch, column), column


def make_generator(
    store: str, count: int, batch: int, *, workers: int, processes: bool, **settings: Any
) -> DataGenerator:
    """Return a shuffled generator, by default with the recipe's default policy.

    Args:
        store: Folder of a store. Its rows are repeated up to `count`.
        count: Images per epoch.
        batch: Images per batch.
        workers: Number of threads or processes.
        processes: Whether they are processes.
        settings: Further arguments of `DataGenerator`.
    """
    opened = open_store(store)
    settings.setdefault("augmentation", Augmentation())
    return DataGenerator(
        StoreView(opened, np.arange(count) % len(opened)),
        np.arange(count) % 2,
        np.linspace(1.0, 228.0, count),
        batch,
        shuffle=True,
        workers=workers,
        use_multiprocessing=processes,
        **settings,
    )


def batches(setting: Setting, *, kind: str) -> Iterator[Any]:
    """Yield the images of each batch as `fit` gets them, or as `next` returns them.

    Args:
        setting: The conditions.
        kind: The contender's name.
    """
    if kind.startswith("tutorial"):
        processes = kind == "tutorial-processes"
        yield from feed(TutorialDataset(setting, setting.workers if processes else 1, processes))
    shape = (setting.store, setting.count, setting.batch)
    processes = kind != "boneage-threads"
    policy = LOWER_QUALITY if kind == "boneage-lower-quality" else Augmentation()
    with make_generator(
        *shape,
        workers=setting.workers,
        processes=processes,
        seed=setting.seed,
        augmentation=policy,
    ) as generator:
        if kind != "boneage-next":
            yield from feed(generator)
        while True:
            yield next(generator)[0][0]


def feed(dataset: keras.utils.PyDataset) -> Iterator[Any]:
    """Yield the images of each batch without end, through the adapter that Keras takes.

    On TensorFlow this is a `tf.data.Dataset`, on JAX an iterator. Each has the threads or processes
    that the dataset asks for, so only the training step of `fit` is missing.
    """
    adapter = get_data_adapter(dataset, shuffle=False)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    tensors: Any = adapter.get_tf_dataset() if on_tensorflow else None
    while True:
        adapter.on_epoch_begin()
        try:
            for batch in tensors if on_tensorflow else adapter.get_jax_iterator():
                yield batch[0][0]
        finally:
            adapter.on_epoch_end()
