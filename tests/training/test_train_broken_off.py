"""`boneage train` when the world breaks under it: one clear message, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boneage.datasets.manifest import Manifest
from boneage.datasets.phantom.cohort import make_phantom_cohort

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and processes are POSIX's"),
]

RECIPE = """
name = "broken-off"
seed = 0
framing.size = 64
model.backbone = "tiny"
training.epochs = 1000
training.batch_size = 8
training.workers = 2
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("cohort")
    return make_phantom_cohort(folder, count=40, seed=0, size=80, progress=False)


def train(manifest: Manifest, folder: Path, tiny_network: str) -> subprocess.Popen[str]:
    """A training that has begun its epochs: its processes make batches."""
    (folder / "recipe.toml").write_text(RECIPE)
    command = [
        sys.executable,
        "-c",
        tiny_network + "from boneage.cli.main import main; main()",
        "train",
        str(folder / "recipe.toml"),
    ]
    process = subprocess.Popen(
        [*command, "--data", str(manifest.path), "--out", str(folder / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    deadline = time.monotonic() + 120
    while not (folder / "run" / "history.csv").exists() or len(group(process.pid)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def group(parent: int) -> list[int]:
    """The children of a process, zombies left out."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, of, *_ = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(of) == parent and state not in "ZX":
            found.append(int(status.parent.name))
    return found


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def ended(process: subprocess.Popen[str], children: list[int]) -> tuple[str, float]:
    """What it said on standard error, and after how many seconds all of them were gone."""
    begun = time.monotonic()
    _, said = process.communicate(timeout=60)
    while any(is_there(child) for child in children) and time.monotonic() - begun < 60:
        time.sleep(0.05)
    return said, time.monotonic() - begun


def test_a_killed_worker_is_told_with_exit_2(
    manifest: Manifest, tmp_path: Path, tiny_network: str
) -> None:
    with train(manifest, tmp_path, tiny_network) as process:
        children = group(process.pid)
        os.kill(children[0], signal.SIGKILL)
        said, seconds = ended(process, children)
    assert process.returncode == 2
    assert f"worker process {children[0]}: it was killed by signal 9 (Killed)" in said
    assert "use fewer workers" in said
    assert "Traceback" not in said
    assert seconds < 10


def test_a_store_cut_short_is_told_with_exit_2(
    manifest: Manifest, tmp_path: Path, tiny_network: str
) -> None:
    with train(manifest, tmp_path, tiny_network) as process:
        children = group(process.pid)
        (images,) = manifest.path.parent.glob("*.store/*/images.npy")
        whole = images.read_bytes()
        os.truncate(images, 4096)
        said, seconds = ended(process, children)
    images.write_bytes(whole)  # the next test's
    assert process.returncode == 2
    assert "the store is damaged: images.npy was cut short before row" in said
    assert "Traceback" not in said
    assert seconds < 10


def test_ctrl_c_in_the_middle_of_an_epoch(
    manifest: Manifest, tmp_path: Path, tiny_network: str
) -> None:
    with train(manifest, tmp_path, tiny_network) as process:
        children = group(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        said, seconds = ended(process, children)
    assert process.returncode == 130
    assert f"interrupted; to continue: boneage train --resume {tmp_path / 'run'}" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "checkpoint.npz").exists()
    assert seconds < 10
