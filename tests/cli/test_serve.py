from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from boneage.cli.app import app
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError

pytestmark = pytest.mark.slow

pytest.importorskip("fastapi", reason='needs the extra "serve"')
ROOT = Path(__file__).parents[2]
HAND = cv2.imencode(".png", phantom(3, 0, 256).image)[1].tobytes()
HAS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def refusal(*arguments: str) -> str:
    error = CliRunner().invoke(app, ["serve", *arguments]).exception
    assert isinstance(error, InputError)
    return str(error)


def test_another_address_needs_a_token(monkeypatch):
    monkeypatch.delenv("BONEAGE_TOKEN", raising=False)
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        assert "Give a --token, or --insecure" in refusal("--host", host)
    assert "can't listen there" in refusal("--host", "192.0.2.1", "--token", "x")
    monkeypatch.setenv("BONEAGE_TOKEN", "x")
    assert "can't listen there" in refusal("--host", "192.0.2.1")
    assert "--token" in refusal("--token", " ")


def test_a_name_of_another_address_needs_a_token_whatever_it_is(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    for host in ("127.example", "localhost"):
        assert "Give a --token, or --insecure" in refusal("--host", host)


def test_what_is_wrong_is_said_before_it_listens():
    assert "Did you mean 'rsna-best'" in refusal("rsna-bst", "--port", "0", "--workers", "1")
    assert "Choose one of 1, 2, 6" in refusal("--views", "3", "--port", "0", "--workers", "1")
    assert "Write 0.9 for 90 %" in refusal("--level", "90")
    assert "--workers 9999" in refusal("--workers", "9999")


def test_a_port_in_use_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"--port {port}: the server can't listen there" in refusal("--port", port)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("boneage.cli.serve.find_spec", lambda name: None)
    error = CliRunner().invoke(app, ["serve"]).exception
    from boneage.runtime.extras import describe_missing

    assert isinstance(error, ModuleNotFoundError)
    assert 'pip install "boneage[serve]"' in str(describe_missing(error))


class Running:
    """A server in a process of its own."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "boneage", "serve", "--port", "0", "--views", "1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*command, "--workers", "1", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self.process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", self.address), self.process.stderr.read()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=20) as response:
            return response.read()

    def post(self, path: str, content: bytes = HAND) -> bytes:
        parts = [b'--x\r\nContent-Disposition: form-data; name="sex"\r\n\r\nF\r\n']
        parts += [b'--x\r\nContent-Disposition: form-data; name="image"; filename="hand.png"\r\n']
        parts += [b"\r\n", content, b"\r\n--x--\r\n"]
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(self.address + path, b"".join(parts), kind)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def children(self) -> list[int]:
        """The processes that the server has started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == self.process.pid:
                    found.append(int(stat.parent.name))
        return found


@pytest.fixture
def server():
    running = Running()
    yield running
    running.process.kill()
    running.process.communicate()


def wait_until_gone(processes: list[int]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not [number for number in processes if Path(f"/proc/{number}").exists()]:
            return
        time.sleep(0.05)
    pytest.fail("a process is left")


@HAS_PROC
def test_the_answer_is_that_of_predict_and_sigterm_waits_for_it(server, tmp_path, boneage):
    assert server.get("readyz") == b"ready\n"
    (tmp_path / "hand.png").write_bytes(HAND)
    found = json.loads(server.post("v1/predict"))
    line = ("predict", "rsna-best", tmp_path / "hand.png", "--sex", "F", "--views", "1", "--json")
    (expected,) = json.loads(boneage(*line)[1])["predictions"]
    assert {**found, "image": ""} == {**expected, "image": ""}

    processes = server.children()
    for number in processes:
        os.kill(number, signal.SIGSTOP)  # for as long as the request takes
    answers = []
    asking = threading.Thread(target=lambda: answers.append(json.loads(server.post("v1/predict"))))
    asking.start()
    while b"in_progress 1.0" not in server.get("metrics"):
        time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.process.poll() is None
    for number in processes:
        os.kill(number, signal.SIGCONT)
    asking.join()
    assert answers == [found]
    assert server.process.wait(25) == 0
    wait_until_gone(processes)
    lines = server.process.stderr.read().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"(GET|POST) /\S+ 200 \d+ ms", line)]


def test_dicom_is_answered_in_dicom_within_the_limits_of_a_worker(server, tmp_path, write_dicom):
    pytest.importorskip("highdicom", reason='needs the extra "dicom"')
    numbers = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    uids = {key: f"1.2.826.0.1.3680043.10.999.{n}" for n, key in enumerate(numbers, start=1)}
    radiograph = write_dicom(tmp_path / "a.dcm", BodyPartExamined="HAND", Laterality="L", **uids)
    for kind in ("report", "image"):
        document = server.post(f"v1/dicom/{kind}", radiograph.read_bytes())
        assert document[128:132] == b"DICM"


@HAS_PROC
def test_a_server_that_is_killed_leaves_no_process(server):
    processes = server.children()
    server.process.kill()
    server.process.wait()
    wait_until_gone(processes)


@HAS_PROC
def test_ctrl_c_ends_an_idle_server(server):
    processes = server.children()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(25) == 0  # it would wait 30 seconds for requests
    wait_until_gone(processes)
