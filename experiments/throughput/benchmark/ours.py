"""This package's generator on its store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.store import StoreView, open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.feed import feed
from experiments.throughput.benchmark.setting import Setting


def generator(setting: Setting, *, workers: int, processes: bool) -> DataGenerator:
    """Makes the generator with the recipe's full policy, shuffled."""
    store = open_store(setting.store)
    rows = np.arange(setting.count) % len(store)
    return DataGenerator(
        StoreView(store, rows),
        np.arange(setting.count) % 2,
        np.linspace(1.0, 228.0, setting.count),
        setting.batch,
        shuffle=True,
        augmentation=Augmentation(),
        seed=setting.seed,
        workers=workers,
        use_multiprocessing=processes,
    )


def batches(setting: Setting, *, processes: bool, adapter: bool = True) -> Iterator[Any]:
    """Yields images as `fit` gets them, or as `next` gives them.

    Args:
        setting: The conditions.
        processes: Worker processes in place of threads.
        adapter: Whether they pass through Keras' adapter; else they come from `next`.
    """
    with generator(setting, workers=setting.workers, processes=processes) as dataset:
        if adapter:
            yield from feed(dataset)
        while True:
            yield next(dataset)[0][0]
