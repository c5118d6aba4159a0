"""The limit: the policy alone, on images in memory, in one plain process a core."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.pipeline.augmentation import Augment
from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.policy import stock_policy
from experiments.throughput.benchmark.setting import Setting

POLL_SECONDS = 0.02
IN_MEMORY = 2_048  # images a process holds, at most
TALLY_EVERY = 32

Image = npt.NDArray[np.uint8]


def batches(setting: Setting, *, fused: bool) -> Iterator[range]:
    """Yields ranges as long as the number of images augmented since the last one.

    No image is delivered, batched or scaled.

    Args:
        setting: The conditions; there are `workers` processes.
        fused: Whether our fused policy runs; else the stock one.
    """
    context = multiprocessing.get_context("spawn")
    counters = [context.Value("q", 0) for _ in range(setting.workers)]
    workers = [
        context.Process(target=work, args=(setting, fused, number, counter), daemon=True)
        for number, counter in enumerate(counters)
    ]
    for worker in workers:
        worker.start()
    seen = 0
    try:
        while True:
            time.sleep(POLL_SECONDS)
            if not all(worker.is_alive() for worker in workers):
                raise RuntimeError("a process of the limit has died")
            total = sum(int(counter.value) for counter in counters)
            if total > seen:
                yield range(total - seen)
                seen = total
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def work(setting: Setting, fused: bool, number: int, counter: Synchronized[int]) -> None:
    """Augments the same images over and over, and counts."""
    cv2.setNumThreads(0)
    store = open_store(setting.store)
    images = np.array(store.images[:IN_MEMORY])
    augment = policy(fused, setting.seed, number)
    while True:
        for start in range(0, len(images), TALLY_EVERY):
            part = images[start : start + TALLY_EVERY]
            for image in part:
                augment(image)
            with counter.get_lock():
                counter.value += len(part)


def policy(fused: bool, seed: int, number: int) -> Callable[[Image], Any]:
    """Returns one of the two policies as a function of a uint8 picture `(h, w)`."""
    if fused:
        return Augment(Augmentation()).seeded(seed, number)
    stock = stock_policy(Augmentation(), seed + number)
    return lambda picture: stock(image=picture)["image"]
