"""One contender's own process: `python -m …benchmark.contender NAME SETTING.json`.

It starts, warms up and says on standard output, in a line of JSON, what it delivers. Then, for each
line `{"seconds": S, "least": B}` on standard input, it delivers for S seconds and at least B
batches, and says how many images that were. Whatever else is printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.throughput.benchmark.contenders import BY_NAME, Contender
from experiments.throughput.benchmark.processes import cpu_seconds
from experiments.throughput.benchmark.setting import Setting


def describe(batch: Any) -> dict[str, Any] | None:
    """What a first batch is, JSON-ready; None where nothing is delivered.

    Raises:
        ValueError: It is not float32 in [0, 1], so what follows is not worth timing.
    """
    if isinstance(batch, range):  # the limit only counts
        return None
    array = np.asarray(batch)
    found: dict[str, Any] = {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "low": round(float(array.min()), 4),
        "high": round(float(array.max()), 4),
    }
    if array.dtype != np.float32 or found["low"] < 0 or not 0 < found["high"] <= 1:
        raise ValueError(f"it delivers {found}; expected float32 in [0, 1]")
    return found


def measure(batches: Iterator[Any], seconds: float, least: int) -> dict[str, float]:
    """Counts what is delivered, from the end of one batch to the end of another.

    Args:
        batches: They have a length: their images.
        seconds: For how long, at least.
        least: And how many batches, at least.

    Returns:
        `images`, `seconds` and the `cpu_seconds` of this process and its descendants.
    """
    next(batches)
    used = cpu_seconds(os.getpid())
    started = time.perf_counter()
    images = delivered = 0
    while True:
        images += len(next(batches))
        delivered += 1
        elapsed = time.perf_counter() - started
        if elapsed >= seconds and delivered >= least:
            break
    return {
        "images": images,
        "seconds": elapsed,
        "cpu_seconds": cpu_seconds(os.getpid()) - used,
    }


def run(contender: Contender, setting: Setting, channel: Any) -> None:
    """Serves the lines on standard input until it ends."""

    def say(values: dict[str, Any]) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    batches = contender.batches(setting)
    delivered = describe(next(batches))
    measure(batches, setting.warm_seconds, setting.least_batches)
    say({"ready": True, "batch": delivered})
    for line in sys.stdin:
        order = json.loads(line)
        say(measure(batches, order["seconds"], order["least"]))
    close = getattr(batches, "close", None)
    if close is not None:
        close()


def main() -> None:
    """Runs the contender that the command line names."""
    # Only this process writes there; libraries and forked workers print to standard error.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run(BY_NAME[sys.argv[1]], Setting.read(Path(sys.argv[2])), channel)


if __name__ == "__main__":
    main()
