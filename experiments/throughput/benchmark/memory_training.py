"""The training that `boneage bench memory` starts for each row, in a process of its own.

`python -m …benchmark.memory_training STORE MODE EPOCHS WORKERS BATCH` prints what was in use at
most, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np

from boneage.pipeline.generator import DataGenerator
from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark.processes import memory_mb

SAMPLE_EVERY = 16  # batches


def train(folder: Path, mode: str, epochs: int, workers: int, batch: int) -> dict[str, float]:
    """Trains a tiny model from a store.

    Returns:
        `anonymous_mb` and `shared_mb` of the process and all its workers, each at most;
        `peak_memory_mb`, the most that both were together; and `proportional_mb`, the same with
        pages that several of them hold counted once.
    """
    store = open_store(folder)
    count, size, _ = store.shape
    # Few batches wait: how many there happen to be would else hide what is looked for.
    generator = DataGenerator(
        store,
        np.arange(count) % 2,
        np.linspace(1, 228, count),
        batch,
        shuffle=True,
        augmentation=Augmentation(),
        workers=workers,
        use_multiprocessing=mode == "processes",
        max_queue_size=2,
    )
    model = tiny_model(size)
    most = {"peak_memory_mb": 0.0, "anonymous_mb": 0.0, "shared_mb": 0.0}
    most["proportional_mb"] = 0.0

    def watch(step: int, logs: object = None) -> None:
        if step % SAMPLE_EVERY:
            return
        held = memory_mb(os.getpid())
        held["peak_memory_mb"] = held["anonymous_mb"] + held["shared_mb"]
        for key, value in most.items():
            most[key] = max(value, round(held[key], 1))

    watching = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    try:
        model.fit(generator, epochs=epochs, shuffle=False, verbose=0, callbacks=[watching])
    finally:
        ending = getattr(generator, "close", None)
        if ending is not None:
            ending()
    return most


def tiny_model(size: int) -> keras.Model:
    """A model that costs next to nothing: coarse means of the image, and one number."""
    image = keras.Input((size, size, 1), name="image")
    gender = keras.Input((1,), name="gender")
    small = keras.layers.AveragePooling2D(min(32, size))(image)
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(small), gender])
    model = keras.Model([image, gender], keras.layers.Dense(1, name="age_months")(joined))
    model.compile(loss="mae")
    return model


def main() -> None:
    """Trains as the command line says."""
    folder, mode, *numbers = sys.argv[1:]
    most = train(Path(folder), mode, *map(int, numbers))
    sys.stdout.write("\n" + json.dumps(most) + "\n")


if __name__ == "__main__":
    main()
