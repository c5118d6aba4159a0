"""The memory that training steps take, beside what `boneage.training.batch_memory` estimates.

    python experiments/capacity/measure.py > experiments/capacity/results/cpu.json

A few minutes on two idle cores, 4 GB, Linux, TensorFlow on the processor. Each case is a process of
its own, forked when Keras has been imported: it builds and compiles a model, takes two steps on
zeros, and reads the most that was resident (`VmHWM`) less what was before the model.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from boneage.models.builder import build_model
from boneage.training.batch_memory import needed_bytes
from experiments.throughput.benchmark.result import document

STEPS = 2
CASES = [
    ("mini_xception", 100, "float32", (1, 64, 256)),
    ("mini_xception", 100, "mixed_bfloat16", (64, 256)),
    ("mini_resnet", 100, "float32", (1, 64, 192)),
    ("mini_resnet", 100, "mixed_bfloat16", (64, 192)),
    ("xception", 100, "float32", (8, 32)),
    ("xception", 100, "mixed_bfloat16", (32,)),
    ("xception", 299, "float32", (4, 8)),
    ("xception", 299, "mixed_bfloat16", (4, 8)),
    ("inception_v3", 150, "float32", (16,)),
    ("densenet169", 100, "float32", (16,)),
    ("densenet169", 100, "mixed_bfloat16", (16,)),
]


def resident(key: str) -> int:
    """Bytes that this process has in memory (`VmRSS`), or had at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measure(case: tuple[Any, ...]) -> dict[str, Any]:
    """Trains for a few steps, in a process that has not computed anything yet."""
    backbone, size, precision, batch = case
    keras.ops.convert_to_numpy(keras.ops.ones(2) + 1)  # threads and allocators are there from here
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
    model = build_model(backbone, size, precision=precision)
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss="mae", metrics=["mae"])
    image = np.zeros((batch, size, size, 1), "float32")
    number = np.zeros((batch, 1), "float32")
    for _ in range(STEPS):
        model.train_on_batch((image, number), number)
    measured, estimated = resident("VmHWM") - before, needed_bytes(model, batch)
    return {
        "name": f"{backbone}, {size} px, {precision}, batch {batch}",
        "backbone": backbone,
        "size": size,
        "precision": precision,
        "batch": batch,
        "parameters": model.count_params(),
        "measured_mb": round(measured / 1e6, 1),
        "estimated_mb": round(estimated / 1e6, 1),
        "ratio": round(measured / estimated, 3),
    }


def main() -> None:
    """Measures every case, one after the other."""
    cases = [(*case, batch) for *case, batches in CASES for batch in batches]
    rows = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(measure, cases, chunksize=1):
            print(row["name"], row["ratio"], file=sys.stderr, flush=True)
            rows.append(row)
    ratios = [row["ratio"] for row in rows]
    settings = {"steps": STEPS, "backend": keras.backend.backend()}
    least_and_most = {"least_ratio": min(ratios), "most_ratio": max(ratios)}
    print(json.dumps(document(settings, rows, **least_and_most), indent=2))


if __name__ == "__main__":
    main()
