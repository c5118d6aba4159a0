"""The limit: the policy alone, on images in memory, in one plain process per core."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage.pipeline.augmentation import Augment
from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.contenders import Setting
from experiments.throughput.benchmark.policy import stock_policy

MAX_IMAGES = 2_048  # in the memory of a process
COUNTED = 128  # images between two counts

Image = npt.NDArray[np.uint8]


def batches(setting: Setting, *, fused: bool) -> Iterator[range]:
    """Yield ranges as long as the number of images augmented since the last one.

    No image is delivered, batched or scaled. When the counts are not read, the processes wait.

    Args:
        setting: The conditions. There are `workers` processes.
        fused: Whether our fused policy runs, else the stock policy.
    """
    context = multiprocessing.get_context("spawn")
    counts = context.Queue(2 * setting.workers)
    workers = [
        context.Process(target=work, args=(setting, fused, number, counts), daemon=True)
        for number in range(setting.workers)
    ]
    for worker in workers:
        worker.start()
    try:
        while True:
            try:
                yield range(counts.get(timeout=1))
            except queue.Empty:
                if not all(worker.is_alive() for worker in workers):
                    raise RuntimeError("a process of the limit has died") from None
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def work(setting: Setting, fused: bool, number: int, counts: Any) -> None:
    """Augment the same images repeatedly, and count."""
    cv2.setNumThreads(0)
    images = np.array(open_store(setting.store).images[:MAX_IMAGES])
    augment = make_policy(fused, setting.seed, number)
    while True:
        for start in range(0, len(images), COUNTED):
            part = images[start : start + COUNTED]
            for image in part:
                augment(image)
            counts.put(len(part))


def make_policy(fused: bool, seed: int, number: int) -> Callable[[Image], Any]:
    """Return one of the two policies as a function of a uint8 image `(h, w)`."""
    if fused:
        return Augment(Augmentation()).seeded(seed, number)
    stock = stock_policy(Augmentation(), seed + number)
    return lambda image: stock(image=image)["image"]
