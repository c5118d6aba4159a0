"""32 clients at once for a minute: errors, waiting times and memory.

Question: how long do many clients wait, is every answer right, and does memory stay flat?
Cost: 90 seconds on two idle cores, which the clients share with the server.
Expected result: no error; the 99th percentile at most 20 times the median of a single request;
    at most 50 MB more memory.
Command: python -m experiments.serving.load   (in a clone)

Each client sends its next request when it has its answer, over one connection. Bodies are made
beforehand. The clients work in rounds, and the single request is measured before each of them: so
both meet the same machine, which may be slower for some seconds. Memory is that of all processes of
the server, after the warm-up and at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.serving.server import HOST, ROOT, Server, machine, record, serving
from experiments.serving.uploads import MEDIA_TYPE, Upload, png_phantoms, with_answers

RESULT = ROOT / "experiments/serving/results/load.json"
_WARM_UP_SECONDS = 5.0
_ROUNDS = 7


class Client(threading.Thread):
    """One client: its waiting times in seconds, and its errors by kind."""

    def __init__(self, port: int, work: list[tuple[Upload, bytes]], until: float) -> None:
        super().__init__(daemon=True)
        self._port, self._work, self._until = port, work, until
        self.seconds: list[float] = []
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        """Send requests until the time is over."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=120)
        with contextlib.closing(connection):
            number = 0
            while (begin := time.perf_counter()) < self._until:
                error = ask(connection, *self._work[number % len(self._work)])
                self.seconds.append(time.perf_counter() - begin)
                if error:
                    self.errors[error] += 1
                number += 1


def ask(connection: http.client.HTTPConnection, upload: Upload, body: bytes) -> str:
    """Send one request; return what is wrong with its answer, or ""."""
    try:
        connection.request("POST", "/v1/predict", body, {"Content-Type": MEDIA_TYPE})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__
    if response.status != 200:
        return f"status {response.status}"
    return "" if upload.is_right(json.loads(content)) else "another answer"


def percentile(values: list[float], share: float) -> float:
    """Return a percentile: the smallest value that so many values do not exceed."""
    return sorted(values)[max(0, -(-round(100 * share) * len(values) // 100) - 1)]


def run_clients(server: Server, count: int, seconds: float, work: list[Any]) -> list[Client]:
    """Let clients work for some time, each beginning with another radiograph."""
    until = time.perf_counter() + seconds
    turns = [work[number % len(work) :] + work[: number % len(work)] for number in range(count)]
    clients = [Client(server.port, turn, until) for turn in turns]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return clients


def measure(server: Server, clients: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Measure the single request, then many clients; see the module."""
    uploads = with_answers(png_phantoms())
    work = [(upload, upload.body()) for upload in uploads]
    run_clients(server, 1, 5.0, work)  # meanwhile the other workers start
    run_clients(server, clients, _WARM_UP_SECONDS, work)
    time.sleep(1)
    before = server.memory_mb()
    single: list[float] = []
    waits: list[float] = []
    errors: Counter[str] = Counter()
    ratios, took = [], 0.0
    for _ in range(_ROUNDS):
        alone = run_clients_once(server, work, -(-repeats // _ROUNDS))
        begin = time.perf_counter()
        done = run_clients(server, clients, seconds / _ROUNDS, work)
        took += time.perf_counter() - begin
        round_waits = [wait for client in done for wait in client.seconds]
        errors += sum((client.errors for client in done), Counter[str]())
        ratios.append(round(percentile(round_waits, 0.99) / statistics.median(alone), 1))
        single += alone
        waits += round_waits
    time.sleep(1)
    after = server.memory_mb()
    median, p99 = statistics.median(single), percentile(waits, 0.99)
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "rounds": _ROUNDS,
        "radiographs": f"{len(work)} PNG phantoms of 512 pixels",
        "requests": len(waits),
        "errors": sum(errors.values()),
        "errors_by_kind": dict(errors),
        "requests_per_second": round(len(waits) / took, 1),
        "single_median_ms": round(1000 * median, 1),
        "p50_ms": round(1000 * percentile(waits, 0.5), 1),
        "p99_ms": round(1000 * p99, 1),
        "longest_ms": round(1000 * max(waits), 1),
        "p99_to_single_median": round(p99 / median, 1),
        "p99_to_single_median_of_each_round": ratios,
        "p99_to_single_median_of_the_median_round": statistics.median(ratios),
        "memory_before_mb": before,
        "memory_after_mb": after,
        "memory_growth_mb": round(after - before, 1),
        "processes": len(server.processes()),
    }


def run_clients_once(server: Server, work: list[tuple[Upload, bytes]], repeats: int) -> list[float]:
    """Return the waiting times of one client that sends so many requests."""
    seconds = []
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    with contextlib.closing(connection):
        for number in range(repeats):
            begin = time.perf_counter()
            error = ask(connection, *work[number % len(work)])
            seconds.append(time.perf_counter() - begin)
            assert not error, f"a single request failed: {error}"
    return seconds


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--single", type=int, default=100, help="Requests of the single client.")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    facts = machine()
    with serving("--views", "1") as server:
        result = measure(server, options.clients, options.seconds, options.single)
    record(options.out, facts, result)


if __name__ == "__main__":
    main()
