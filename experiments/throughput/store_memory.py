"""Does memory grow with the number of images when training from a store?

Question: a store is mapped, not read, so 10,000 images at 299 px (0.9 GB) should need no more
    memory of their own than 1,000.
Cost: about a minute on one core, and next to no disk (the stores are sparse files of zeros).
Expected result: a growth of a few MB at most.
Command: python store_memory.py --out results/store-memory.json   (here, in this folder)

Each count is measured in a process of its own: plain `fit` of a tiny model on the store, shuffled
and augmented, then plain iteration, as many images for every count. What is measured is
anonymous resident memory (RssAnon in /proc/self/status, Linux): pages of the mapped file are the
kernel's to drop, and not counted; `mapped_mb` tells how many of them there were. `ratio` is a
row's own memory over the first row's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from boneage.pipeline.framing import framing_key
from boneage.pipeline.preparation import store_digest
from boneage.pipeline.store import open_store
from boneage.provenance import provenance
from boneage.recipe import Augmentation, Framing

BATCH_SIZE = 32


def make_sparse_store(folder: Path, count: int, size: int) -> None:
    """Writes a store of black images that takes no room on the disk."""
    folder.mkdir(parents=True)
    header = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size))
    del header
    framing = Framing(size=size)
    checksums = np.full(count, zlib.crc32(bytes(size * size)), np.uint32)
    np.save(folder / "checksums.npy", checksums)
    described: dict[str, Any] = {
        "key": framing_key(framing),
        "framing": framing.model_dump(mode="json"),
        "image_ids": [str(number) for number in range(count)],
    }
    described["digest"] = store_digest(described, checksums)
    (folder / "store.json").write_text(json.dumps(described))


def memory() -> dict[str, float]:
    """Resident memory of this process in MB: its own, and of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {
        key: value.split()[0]
        for key, _, value in (line.partition(":") for line in lines if "kB" in line)
    }
    return {
        "anonymous_mb": int(kilobytes["RssAnon"]) / 1024,
        "mapped_mb": int(kilobytes["RssFile"]) / 1024,
    }


def measure(folder: Path, epochs: int) -> dict[str, float]:
    """Trains a tiny model from the store, and says how much memory was in use at most."""
    import keras

    from boneage.pipeline.generator import DataGenerator

    store = open_store(folder)
    count, size, _ = store.shape
    ages = np.linspace(1, 228, count)
    gender = np.arange(count) % 2
    # Few batches wait: how many there happen to be would else hide what is looked for.
    generator = DataGenerator(
        store, gender, ages, BATCH_SIZE, True, Augmentation(), workers=2, max_queue_size=2
    )
    plain = DataGenerator(store, gender, ages, BATCH_SIZE, shuffle=True)
    image = keras.Input((size, size, 1), name="image")
    sex = keras.Input((1,), name="gender")
    small = keras.layers.AveragePooling2D(32)(image)
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(small), sex])
    model = keras.Model([image, sex], keras.layers.Dense(1, name="age_months")(joined))
    model.compile(loss="mae")

    most: dict[str, float] = {}

    def watch(*_: object, logs: object = None) -> None:
        for key, value in memory().items():
            most[key] = max(most.get(key, 0.0), value)

    watching = keras.callbacks.LambdaCallback(on_train_batch_end=watch)
    model.fit(generator, epochs=epochs, shuffle=False, verbose=0, callbacks=[watching])
    for _ in range(epochs * len(plain)):
        next(plain)
        watch()
    return most


def main() -> None:
    """Measures every count in its own process, and prints the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument(
        "--images", type=int, default=10_000, help="images to train on for every count"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure is not None:
        print(json.dumps(measure(chosen.measure, chosen.epochs)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in chosen.counts:
            folder = Path(temporary) / str(count)
            make_sparse_store(folder, count, chosen.size)
            # As many batches for every count: what grows with time would else look like growth
            # with the number of images.
            epochs = str(max(1, chosen.images // count))
            command = [sys.executable, __file__, "--measure", str(folder), "--epochs", epochs]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ)
            row = {"name": f"{count} images of {chosen.size} px", "images": count}
            rows.append(row | json.loads(done.stdout.splitlines()[-1]))
    for row in rows:
        row["ratio"] = row["anonymous_mb"] / rows[0]["anonymous_mb"]
    growth = rows[-1]["anonymous_mb"] - rows[0]["anonymous_mb"]
    machine = {key: value for key, value in provenance().items() if key != "uncommitted_changes"}
    text = json.dumps({"machine": machine, "rows": rows, "growth_mb": growth}, indent=2)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
