"""What the server counts, for Prometheus."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from boneage.serving.workers import Workers

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server. They hold no name, no address and no answer."""

    def __init__(self, workers: Workers) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "boneage_requests",
            "Requests, by route and status.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._answers = Counter(
            "boneage_answers",
            "Replies of the workers.",
            ("kind", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "boneage_request_seconds",
            "Time from the head of a request to the end of its response.",
            ("route",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._registry.register(_State(workers))

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def count_answer(self, kind: str, outcome: str) -> None:
        """Count the reply of a worker."""
        self._answers.labels(kind, outcome).inc()

    def as_text(self) -> bytes:
        """Return all in the format of Prometheus."""
        return generate_latest(self._registry)


class _State(Collector):
    """The present state of the workers."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        workers = self._workers
        for name, text, value in (
            ("boneage_requests_waiting", "Requests that wait for a worker.", workers.waiting),
            ("boneage_requests_in_progress", "Requests being answered.", workers.in_progress),
        ):
            yield GaugeMetricFamily(name, text, value)
        yield CounterMetricFamily(
            "boneage_worker_restarts", "Workers that were replaced.", workers.restarts
        )
        memory = GaugeMetricFamily(
            "boneage_resident_memory_bytes", "Memory in use, by process.", labels=("process",)
        )
        memory.add_metric(("server",), _resident_bytes(os.getpid()))
        memory.add_metric(("workers",), sum(map(_resident_bytes, workers.process_ids)))
        yield memory


def _resident_bytes(process: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or is not on Linux
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
