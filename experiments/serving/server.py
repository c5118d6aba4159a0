"""A server of its own for a measurement: started, watched and ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from boneage.runtime.files import write_json
from boneage.runtime.provenance import package_versions, provenance

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
_BONEAGE = [sys.executable, "-c", "from boneage.cli.main import main; main()"]
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
_PACKAGES = ("fastapi", "starlette", "uvicorn", "onnxruntime", "pillow", "pydicom", "selenium")


class Server:
    """`boneage serve` on a free port, with folders of its own.

    Attributes:
        port: Where it listens.
        folders: Its working directory, home and temporary folder, all empty at the start.
        seconds_to_ready: From the start of the process to the first 200 of `/readyz`.
    """

    def __init__(self, *arguments: str) -> None:
        self._parent = tempfile.TemporaryDirectory(prefix="serving-")
        self.folders = [Path(self._parent.name) / name for name in ("work", "home", "tmp")]
        for folder in self.folders:
            folder.mkdir()
        self.port = free_port()
        work, home, temporary = map(str, self.folders)
        variables = {
            "HOME": home,
            "XDG_CACHE_HOME": home,
            "TMPDIR": temporary,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [*_BONEAGE, "serve", *arguments, "--host", HOST, "--port", str(self.port)],
            cwd=work,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # a pipe, so that the log is no write to a disk
            stderr=subprocess.STDOUT,
        )
        self._log: list[bytes] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.seconds_to_ready = self._wait(begin)

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        self._log.extend(self._process.stdout)

    def _wait(self, begin: float, limit: float = 60) -> float:
        while time.perf_counter() < begin + limit:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if request(self.port, "GET", "/readyz")[0] == 200:
                    return time.perf_counter() - begin
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        self.stop()
        sys.exit(f"the server did not become ready:\n{self.log}")

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return b"".join(self._log).decode("utf-8", "replace")

    def processes(self) -> list[psutil.Process]:
        """Return the server and all its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def memory_mb(self) -> float:
        """Return the resident memory of all processes, in units of 2**20 bytes."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(*_GONE):
                total += process.memory_info().rss
        return round(total / 2**20, 1)

    def stop(self, limit: float = 20) -> float:
        """End the server as an operator does, and return the seconds that it took."""
        begin = time.perf_counter()
        processes = self.processes()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit)
        took = time.perf_counter() - begin
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._reader.join(5)
        with contextlib.suppress(OSError):
            self._parent.cleanup()
        return took


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """Start a server, and end it afterwards."""
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def request(
    port: int, method: str, path: str, body: bytes | None = None, media_type: str = ""
) -> tuple[int, bytes]:
    """Send one request over a connection of its own; return the status and the body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=180)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": media_type} if body else {})
        response = connection.getresponse()
        return response.status, response.read()


def machine() -> dict[str, Any]:
    """Return what a result says of the commit, the versions and the device."""
    values = provenance()
    values["versions"] |= package_versions(_PACKAGES)
    values["load_average_before"] = round(os.getloadavg()[0], 2)
    return values


def record(path: Path, facts: dict[str, Any], result: dict[str, Any]) -> None:
    """Write a result with what `machine` said, and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"machine": facts, **result})
    print(json.dumps(result, indent=2))
