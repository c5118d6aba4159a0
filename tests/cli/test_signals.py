"""Every verb ends at once on a signal, also as the first process of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from boneage.prediction.shipped import shipped_models

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

START = [sys.executable, "-c", "from boneage.cli.main import main; main()"]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]

# An importer that holds the main thread in one long call, as a library does.
BUSY = """
import hashlib
def busy(source, out):
    (out.parent / "started").touch()
    hashlib.pbkdf2_hmac("sha512", b"a", b"b", 2_000_000_000)
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start a command in an empty folder; it is killed at the end if it is still there."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: object, before: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*before, *START, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(is_reached: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not is_reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process: subprocess.Popen[str], number: int, pid: int | None = None) -> tuple[int, str]:
    """Send a signal; gives the exit code and what was said, and checks that it took no time."""
    began = time.monotonic()
    os.kill(pid or process.pid, number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 25  # its work would take minutes
    assert "Traceback" not in said
    return process.returncode, said


def first_of_its_namespace(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: children.read_text().split(), process)
    return int(children.read_text().split()[0])


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_ends_drawing_and_leaves_no_half_written_file(start, tmp_path, name, code):
    process = start("data", "phantom", "out", "--count", "5000", "--size", "256")
    wait_for(lambda: list(tmp_path.glob("out/images/0*.png")), process)
    assert end(process, signal.Signals[name])[0] == code
    assert not list(tmp_path.glob("out/images/.*"))
    assert not (tmp_path / "out" / "manifest.csv").exists()


def test_the_first_process_of_a_container_ends_too(start, tmp_path):
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"]).returncode:
        pytest.skip("this system allows no namespaces of processes to this user")
    process = start("data", "phantom", "out", "--count", "5000", before=NAMESPACE)
    wait_for(lambda: list(tmp_path.glob("out/images/0*.png")), process)
    code, said = end(process, signal.SIGTERM, first_of_its_namespace(process))
    assert (code, "SIGTERM: stopped" in said) == (143, True)


def test_a_long_call_of_a_library_does_not_hold_a_command_up(start, tmp_path):
    (tmp_path / "busy_importer.py").write_text(BUSY)
    info = tmp_path / "busy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: busy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[boneage.datasets]\nbusy = busy_importer:busy\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = start("data", "import", "busy", ".", **environment)
    wait_for((tmp_path / "started").exists, process)
    assert end(process, signal.SIGTERM) == (143, "SIGTERM: stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0])
def test_a_signal_ends_a_prediction_also_while_keras_is_imported(start, cohort, tmp_path, seconds):
    images = sorted(cohort.parent.glob("images/*.png"))
    for name in ("best.keras", "recipe.json", "run.json"):  # a run without an ONNX file
        shutil.copy(shipped_models()["rsna-best"] / name, tmp_path)
    process = start("predict", ".", *images * 20, "--sex", "F")
    loaded = Path(f"/proc/{process.pid}/maps")
    if not loaded.exists():
        pytest.skip("this system has no /proc")
    wait_for(lambda: "tensorflow" in loaded.read_text(), process)
    time.sleep(seconds)
    assert end(process, signal.SIGTERM)[0] == 143


@pytest.mark.slow
def test_a_sweep_ends_with_the_training_that_it_has_started(
    start, cohort, tiny_recipe, tiny_plug_in, tmp_path
):
    psutil = pytest.importorskip("psutil")
    process = start(
        "sweep", tiny_recipe, "--data", cohort, "--out", "s", "--seeds", "0,1",
        "--set", "training.epochs=1000", "--set", f"model.backbone={tiny_plug_in}",
    )  # fmt: skip
    wait_for((tmp_path / "s" / "seed-0" / "checkpoint.npz").exists, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "terminated. Repeat the command to continue." in said
    assert not [child for child in children if child.is_running()]
    assert not (tmp_path / "s" / "seed-1").exists()


def test_nohup_keeps_a_command_that_loses_its_terminal(start, tmp_path):
    before = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    process = start("data", "phantom", "out", "--count", "40", "--size", "64", before=before)
    wait_for(lambda: list(tmp_path.glob("out/images/0*.png")), process)
    os.kill(process.pid, signal.SIGHUP)
    assert process.communicate(timeout=60) is not None
    assert process.returncode == 0


def test_a_reader_that_has_had_enough_ends_the_command_quietly(start):
    for arguments in (["data", "--help"], ["--version"], ["train", "--help"]):
        process = start(*arguments)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""
