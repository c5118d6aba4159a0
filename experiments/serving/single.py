"""One request at a time, and the start: how long does a person wait?

Question: how long do a start and a single request take?
Cost: two minutes on two idle cores.
Expected result: ready in at most 3 seconds; a 512-pixel PNG answered in at most 150 ms, with one
    view and without the heat map.
Command: python -m experiments.serving.single   (in a clone)

Each row is the median of its requests, over one connection, after three that do not count. The
start is timed from the start of the process until `/readyz` says yes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import statistics
import time
from pathlib import Path
from typing import Any

from experiments.serving.load import percentile
from experiments.serving.server import HOST, ROOT, Server, machine, record, serving
from experiments.serving.uploads import MEDIA_TYPE, Upload, draw, encode, png_phantoms

RESULT = ROOT / "experiments/serving/results/single.json"
_UNCOUNTED = 3


def time_requests(server: Server, path: str, bodies: list[bytes], count: int) -> dict[str, float]:
    """Return the median and the spread of one kind of request, in milliseconds."""
    milliseconds = []
    connection = http.client.HTTPConnection(HOST, server.port, timeout=120)
    with contextlib.closing(connection):
        for number in range(_UNCOUNTED + count):
            body = bodies[number % len(bodies)]
            begin = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": MEDIA_TYPE})
            response = connection.getresponse()
            content = response.read()
            milliseconds.append(1000 * (time.perf_counter() - begin))
            assert response.status == 200, f"{path}: {response.status} {content[:300]!r}"
    counted = milliseconds[_UNCOUNTED:]
    return {
        "requests": count,
        "median_ms": round(statistics.median(counted), 1),
        "p10_ms": round(percentile(counted, 0.1), 1),
        "p90_ms": round(percentile(counted, 0.9), 1),
        "answer_kb": round(len(content) / 1000, 1),
    }


def measure(count: int, starts: int) -> dict[str, Any]:
    """Measure the starts and every kind of request; see the module."""
    small = png_phantoms()
    large = Upload("large.png", encode(draw(1, 2000), "png"), "M")
    rows: dict[str, dict[str, float]] = {}

    def add(row: str, server: Server, path: str, bodies: list[bytes], requests: int) -> None:
        rows[row] = time_requests(server, path, bodies, requests)
        print(f"{row}: {rows[row]}", flush=True)

    with serving("--views", "1") as server:
        path = "/v1/predict"
        add("512 px, one view", server, path, [each.body() for each in small], count)
        pictures = [each.body(pictures="true") for each in small]
        add("512 px, one view, with pictures", server, path, pictures, count)
        unknown = [each.body(sex="") for each in small]
        add("512 px, one view, sex not known", server, path, unknown, count)
        add("2,000 px, one view", server, path, [large.body()], count)
        shown = [large.body(pictures="true")]
        add("2,000 px, one view, with pictures", server, path, shown, count)
        heat = [each.body() for each in small]
        add("512 px, heat map", server, "/v1/explain", heat, max(3, count // 10))
    ready = [server.seconds_to_ready]
    with serving("--views", "6") as server:
        add("512 px, six views", server, path, [each.body() for each in small], count)
    for _ in range(starts - 1):
        with serving("--views", "1") as server:
            ready.append(server.seconds_to_ready)
    return {
        "requests": rows,
        "seconds_to_ready": [round(each, 2) for each in ready],
        "median_seconds_to_ready": round(statistics.median(ready), 2),
    }


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="Requests of a kind.")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    facts = machine()
    result = measure(options.count, options.starts)
    record(options.out, facts, result)


if __name__ == "__main__":
    main()
