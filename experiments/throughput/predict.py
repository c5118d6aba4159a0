"""How much of the network's own rate does `boneage predict` reach, and does its memory stay flat?

Question: what do decoding, checks and framing cost while the network computes?
Cost: a minute on two idle cores. Nothing of an image is written to the result.
Expected result: 0.7 of the network alone or more, and no more memory for more images.
Command: python -m experiments.throughput.predict RUN FOLDER --out FILE   (in a clone)

A round answers the radiographs of the folder, one view each, and computes as many framed images in
the same batches with the network alone. Both take turns. `ratio` is that of the wall times, and
`cpu_ratio` that of the processor times, which other processes of the machine change less; the least
over the rounds counts. `memory` is the resident memory of a process of its own that answers the
folder once, and again several times in one stream.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from boneage.prediction.predict import Estimator, Request
from boneage.prediction.requests import RadiographFiles
from boneage.prediction.shipped import open_run
from boneage.prediction.test_time_views import BATCH_SIZE
from boneage.runtime.provenance import provenance

_REPEATS = (1, 5)
_MEMORY = """
import resource, sys
from experiments.throughput.predict import answer, list_requests, open_estimator
requests = list_requests(sys.argv[2])
answer(open_estimator(sys.argv[1]), requests * int(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def open_estimator(run: str) -> Estimator:
    """Return the estimator of a run, one view for each image."""
    return Estimator(open_run(Path(run)), views=1)


def list_requests(folder: str) -> list[Request]:
    """Return the radiographs of a folder, as girls'."""
    return [Request(str(path), "F") for path in RadiographFiles([folder])]


def answer(estimator: Estimator, requests: list[Request]) -> int:
    """Answer the requests, and return how many have an answer."""
    return sum(each.status == "answered" for each in estimator.predict_many(iter(requests)))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of wall and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(run: str, folder: str, rounds: int) -> dict[str, object]:
    """Measure the rates; see the module."""
    estimator, requests = open_estimator(run), list_requests(folder)
    (engine,) = estimator.predictor.engines[0]
    size = estimator.predictor.groups[0].framing.size
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, size, size), np.uint8)
    gender = np.zeros((BATCH_SIZE, 1), np.float32)
    answered = answer(estimator, requests[:BATCH_SIZE]) and answer(estimator, requests)

    def compute() -> None:
        for count in [BATCH_SIZE] * (answered // BATCH_SIZE) + [answered % BATCH_SIZE]:
            engine.predict(images[: count or 1], gender[: count or 1])

    times = [(timed(compute), timed(lambda: answer(estimator, requests))) for _ in range(rounds)]
    alone, predict = ([pair[k] for pair in times] for k in (0, 1))
    best = [min(each[1] for each in part) for part in (alone, predict)]
    return {
        "machine": {**provenance(), "load_average": round(os.getloadavg()[0], 2)},
        "engine": type(engine).__name__,
        "radiographs": len(requests),
        "answered": answered,
        "rounds": rounds,
        "network_images_per_second": [round(answered / wall, 1) for wall, _ in alone],
        "predict_images_per_second": [round(answered / wall, 1) for wall, _ in predict],
        "ratio": round(statistics.median(a[0] / p[0] for a, p in times), 3),
        "network_cpu_ms": [round(1000 * cpu / answered, 2) for _, cpu in alone],
        "predict_cpu_ms": [round(1000 * cpu / answered, 2) for _, cpu in predict],
        "cpu_ratio": round(best[0] / best[1], 3),
    }


def memory(run: str, folder: str) -> dict[str, float]:
    """Return the resident memory in MB by the number of radiographs in one stream."""
    found = {}
    for repeats in _REPEATS:
        command = [sys.executable, "-c", _MEMORY, run, folder, str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"{repeats * len(list_requests(folder)):,}"] = round(float(done.stdout), 1)
    return found


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure(options.run, options.folder, options.rounds)
    result["resident_mb"] = memory(options.run, options.folder)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
