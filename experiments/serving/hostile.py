"""1,000 hostile requests among good ones: does the server stay right, quick, small and silent?

Question: what do damaged files, bombs, slow senders and broken requests do to the others?
Cost: about 5 minutes on two cores.
Expected result: every good request right; no status 500; every connection ended by the server; at
    most 50 MB more memory; nothing written to a disk; no file name or identity in the log.
Command: python -m experiments.serving.hostile   (in a clone)

`hostile_requests.py` lists the kinds. One request in five is a good one, of four formats. Slow
attackers work at the same time as the others, on connections of their own. A good request that is
answered 503 waits as `Retry-After` says and asks again, like every client should.

`unexpected` lists statuses that the kind should not have. `hangs` counts connections that the
server neither answered nor closed within the limit. An answer to a good radiograph in a strange
request, such as one with a strange file name, must be right, too.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import queue
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from experiments.serving.hostile_requests import CLOSED, ROUTES, Attack, attack
from experiments.serving.load import percentile
from experiments.serving.server import HOST, ROOT, Server, machine, record, request, serving
from experiments.serving.uploads import (
    IDENTITY,
    MEDIA_TYPE,
    Upload,
    phantom_files,
    png_phantoms,
    with_answers,
)

RESULT = ROOT / "experiments/serving/results/hostile.json"
LIMIT = 180.0
"""Seconds within which the server must have ended every connection."""
_HOSTILE_FOR_EACH_GOOD = 4
_FAST_THREADS, _SLOW_THREADS = 4, 24
_SETTLE = 5.0
_PIECE = 2**16
_RETRIES = 20
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, OSError)


@dataclass
class Counts:
    """What has been seen so far; threads share it."""

    statuses: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    good_wrong: list[str] = field(default_factory=list)
    good_seconds: list[float] = field(default_factory=list)
    good_retries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Replies:
    """The answers on a connection, as they come.

    Attributes:
        statuses: Of the whole answers so far.
        bodies: Their bodies.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.statuses: list[int] = []
        self.bodies: list[bytes] = []

    def add(self, received: bytes, *, is_end: bool = False) -> None:
        """Take what was received, and divide it into answers."""
        self._rest += received
        while self._take(is_end):
            pass

    def _take(self, is_end: bool) -> bool:
        head, blank, rest = self._rest.partition(b"\r\n\r\n")
        if not blank or not head.startswith(b"HTTP/1."):
            return False
        lines = head.lower().split(b"\r\n")
        status = int(head.split(b" ", 2)[1])
        names = dict(line.partition(b":")[::2] for line in lines[1:])
        size = int(names.get(b"content-length", b"0"))
        if names.get(b"transfer-encoding"):
            size = rest.find(b"0\r\n\r\n") + 5 if b"0\r\n\r\n" in rest else len(rest) + 1
        if len(rest) < size and not is_end:
            return False
        self._rest = rest[size:]
        if status >= 200:
            self.statuses.append(status)
            self.bodies.append(rest[:size])
        return True


def strike(port: int, each: Attack, limit: float = LIMIT) -> tuple[Replies, bool, float]:
    """Send an attack; return the answers, whether the connection hung, and the seconds."""
    begin = time.perf_counter()
    replies = Replies()
    connection = socket.create_connection((HOST, port), timeout=limit)
    with contextlib.closing(connection):
        pieces: Iterator[bytes] | None = _pieces(each)
        due = begin
        while time.perf_counter() < begin + limit:
            wait = min(1.0, max(0.0, due - time.perf_counter())) if pieces else 1.0
            if _received(connection, replies, wait) or len(replies.statuses) >= each.replies:
                return replies, False, time.perf_counter() - begin
            if pieces is None or time.perf_counter() < due:
                continue
            try:
                _send(connection, next(pieces), replies, begin + limit)
                due = time.perf_counter() + each.pause
            except StopIteration:
                pieces = None
                if _finish(connection, each):
                    return replies, False, time.perf_counter() - begin
            except OSError:  # the server has closed the connection
                pieces = None
    return replies, True, time.perf_counter() - begin


def _pieces(each: Attack) -> Iterator[bytes]:
    for piece in each.pieces:
        yield from (piece[at : at + _PIECE] for at in range(0, len(piece), _PIECE))


def _received(connection: socket.socket, replies: Replies, wait: float) -> bool:
    """Read what there is; return whether the server has ended the connection."""
    connection.settimeout(wait or 1e-6)
    try:
        received = connection.recv(2**20)
    except (TimeoutError, BlockingIOError):
        return False
    except OSError:  # reset
        received = b""
    replies.add(received, is_end=not received)
    return not received


def _send(connection: socket.socket, piece: bytes, replies: Replies, until: float) -> None:
    """Send a piece, even if the server reads slowly."""
    sent = 0
    while sent < len(piece) and time.perf_counter() < until:
        connection.settimeout(1.0)
        try:
            sent += connection.send(piece[sent:])
        except TimeoutError:  # it may have answered, and read no more
            if _received(connection, replies, 0.0) or replies.statuses:
                raise ConnectionError("the server has answered") from None


def _finish(connection: socket.socket, each: Attack) -> bool:
    """End the sending as the attack says; return whether all is over."""
    if each.ending == "half-close":
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    if each.ending == "abort":  # with a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return each.ending == "abort"


def judge(each: Attack, number: int, found: tuple[Replies, bool, float], counts: Counts) -> None:
    """Count how an attack ended."""
    replies, is_hang, seconds = found
    ends = replies.statuses or [CLOSED]
    name = f"{each.kind} {number}"
    wrong = [
        body[:200]
        for status, body in zip(replies.statuses, replies.bodies, strict=True)
        if each.upload and status == 200 and b'"status"' in body and not _is_right(each, body)
    ]
    with counts.lock:
        if is_hang:
            counts.hangs.append(f"{name}: {seconds:.0f} s")
        for status in ends:
            word = str(status) if status else "hang" if is_hang else "closed"
            counts.statuses[word] += 1
            counts.by_kind.setdefault(each.kind, Counter())[word] += 1
            if status not in each.expected and not is_hang:
                counts.unexpected.append(f"{name}: {word}")
        counts.wrong += [f"{name}: {body!r}" for body in wrong]


def _is_right(each: Attack, body: bytes) -> bool:
    with contextlib.suppress(ValueError, KeyError):
        return each.upload is not None and each.upload.is_right(json.loads(body))
    return "models" not in json.loads(body)  # `/healthz` has another object


def ask_well(port: int, upload: Upload, counts: Counts) -> None:
    """Send a good request, and count whether its answer is right."""
    begin, problem = time.perf_counter(), "503 again and again"
    for _ in range(_RETRIES):
        connection = http.client.HTTPConnection(HOST, port, timeout=LIMIT)
        try:
            with contextlib.closing(connection):
                connection.request(
                    "POST", "/v1/predict", upload.body(), {"Content-Type": MEDIA_TYPE}
                )
                response = connection.getresponse()
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
            break
        if response.status == 503:
            with counts.lock:
                counts.good_retries += 1
            time.sleep(float(response.getheader("Retry-After", "1")))
            continue
        right = response.status == 200 and upload.is_right(json.loads(content))
        problem = "" if right else f"{response.status} {content[:200]!r}"
        break
    with counts.lock:
        counts.good_seconds.append(time.perf_counter() - begin)
        if problem:
            counts.good_wrong.append(f"{upload.name.rpartition('.')[2]}: {problem}")


class Watch(threading.Thread):
    """What the server's processes write, and how much memory they have, ten times a second.

    Attributes:
        files: Regular files that were open for writing.
        peak_mb: The most memory.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._ended = threading.Event()
        self._written: dict[int, int] = {}
        self.files: set[str] = set()
        self.peak_mb = 0.0

    def run(self) -> None:
        """Watch until the end."""
        while not self._ended.wait(0.1):
            self.sample()

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self.join()
        self.sample()

    def sample(self) -> None:
        """Read the state of all processes once."""
        self.peak_mb = max(self.peak_mb, self._server.memory_mb())
        for process in self._server.processes():
            with contextlib.suppress(*_GONE):
                self._written[process.pid] = process.io_counters().write_bytes
                self.files |= set(written_files(process.pid))

    @property
    def written_bytes(self) -> int:
        """The bytes that the processes sent to disks."""
        return sum(self._written.values())


def written_files(process_id: int) -> Iterator[str]:
    """Yield the regular files that a process has open for writing, deleted ones too."""
    folder = Path("/proc") / str(process_id)
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            flags = int(
                (folder / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0], 8
            )
            if flags & 3 and target.startswith("/") and not target.startswith(("/dev/", "/memfd:")):
                yield target


def listing(folders: list[Path]) -> dict[str, tuple[int, int]]:
    """Return the size and the time of change of all files and folders, by path."""
    found = {}
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            if "__pycache__" not in path.parts:
                status = path.stat()
                found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def run_all(server: Server, count: int, seed: int, uploads: list[Upload]) -> Counts:
    """Send all attacks, and good requests among them."""
    counts, fast, slow = Counts(), queue.Queue[int](), queue.Queue[int]()
    for number in range(count):
        (slow if attack(uploads, seed, number).is_slow else fast).put(number)
    goods = iter(range(count // _HOSTILE_FOR_EACH_GOOD))
    share = count / max(1, fast.qsize() * _HOSTILE_FOR_EACH_GOOD)  # good ones for each fast one
    begin, owed = time.perf_counter(), [0.0]

    def send_good() -> None:
        with counts.lock:
            owed[0] += share
            mine = [next(goods, None) for _ in range(int(owed[0]))]
            owed[0] -= len(mine)
        for number in mine:
            if number is not None:
                ask_well(server.port, uploads[number % len(uploads)], counts)

    def work(numbers: queue.Queue[int], is_fast: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number = numbers.get_nowait()
                each = attack(uploads, seed, number)
                judge(each, number, strike(server.port, each), counts)
                if is_fast:
                    send_good()

    threads = [threading.Thread(target=work, args=(fast, True)) for _ in range(_FAST_THREADS)]
    threads += [threading.Thread(target=work, args=(slow, False)) for _ in range(_SLOW_THREADS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        left = f"{fast.qsize()} and {slow.qsize()} slow ones left"
        print(f"\r{time.perf_counter() - begin:4.0f} s: {left}   ", end="", flush=True)
    print()
    for number in goods:  # the rest, after all attacks
        ask_well(server.port, uploads[number % len(uploads)], counts)
    return counts


def warm_up(server: Server, uploads: list[Upload]) -> None:
    """Let every worker do everything once: what it then keeps is no growth."""
    few = (uploads[3], uploads[-1])  # DICOM, and the large one
    bodies = [(route, upload.body(pictures="true")) for route in ROUTES for upload in few]
    bodies += [(ROUTES[0], upload.body()) for upload in uploads]

    def work() -> None:
        for route, body in bodies:
            request(server.port, "POST", route, body, MEDIA_TYPE)

    time.sleep(_SETTLE)  # the other workers start after the first one is ready
    threads = [threading.Thread(target=work) for _ in range(_FAST_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(count: int, seed: int, arguments: list[str]) -> dict[str, Any]:
    """Attack a server; see the module."""
    uploads = with_answers([*phantom_files(), *png_phantoms(1, size=2000)])
    begin = time.perf_counter()
    with serving("--views", "1", *arguments) as server:
        places = [*server.folders, ROOT / "boneage"]
        files = listing(places)
        watch = Watch(server)
        warm_up(server, uploads)
        time.sleep(_SETTLE)
        before, open_files = server.memory_mb(), count_open(server)
        watch.start()
        counts = run_all(server, count, seed, uploads)
        time.sleep(_SETTLE)
        watch.end()
        after, still_open = server.memory_mb(), count_open(server)
        changed = [path for path, state in listing(places).items() if files.get(path) != state]
        is_ready = request(server.port, "GET", "/readyz")[0] == 200
        seconds_to_end = server.stop()
        log = server.log
    forbidden = [word for word in (IDENTITY, "passwd", "Erika") if word.lower() in log.lower()]
    return {
        "seed": seed,
        "seconds": round(time.perf_counter() - begin),
        "hostile": count,
        "good": len(counts.good_seconds),
        "good_right": len(counts.good_seconds) - len(counts.good_wrong),
        "good_wrong": counts.good_wrong[:50],
        "good_retries_after_503": counts.good_retries,
        "good_median_ms": round(1000 * percentile(counts.good_seconds, 0.5)),
        "good_longest_ms": round(1000 * max(counts.good_seconds)),
        "wrong_answers_to_strange_requests": counts.wrong[:50],
        "status_500": counts.statuses["500"],
        "hangs": counts.hangs,
        "unexpected": sorted(counts.unexpected),
        "statuses": dict(sorted(counts.statuses.items())),
        "statuses_by_kind": {
            kind: dict(sorted(each.items())) for kind, each in sorted(counts.by_kind.items())
        },
        "memory_before_mb": before,
        "memory_peak_mb": watch.peak_mb,
        "memory_after_mb": after,
        "memory_growth_mb": round(after - before, 1),
        "open_files_growth": still_open - open_files,
        "files_changed": changed,
        "files_open_for_writing": sorted(watch.files),
        "bytes_written": watch.written_bytes,
        "words_in_the_log": forbidden,
        "tracebacks_in_the_log": log.count("Traceback"),
        "log_lines": log.count("\n"),
        "is_ready_afterwards": is_ready,
        "seconds_to_end": round(seconds_to_end, 1),
    }


def count_open(server: Server) -> int:
    """Return how many descriptors the server's processes have."""
    total = 0
    for process in server.processes():
        with contextlib.suppress(*_GONE):
            total += process.num_fds()
    return total


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="Hostile requests.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("arguments", nargs="*", help="Further options of `boneage serve`.")
    options = parser.parse_args()
    facts = machine()
    result = measure(options.count, options.seed, options.arguments)
    record(options.out, facts, result)


if __name__ == "__main__":
    main()
