"""`boneage train` when a process dies or Ctrl-C comes: one message, and no process left over."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from boneage.datasets.phantom.cohort import make_phantom_cohort

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups are POSIX's"),
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
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return make_phantom_cohort(folder, count=40, seed=0, size=80, progress=False).path


@pytest.fixture
def training(manifest, tiny_network, tmp_path):
    """A training that has finished an epoch, and its worker processes."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    code = tiny_network + "from boneage.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", tmp_path / "recipe.toml", "--data", manifest]
    with subprocess.Popen(
        [*command, "--out", tmp_path / "run"], stdout=-3, stderr=-1, text=True, process_group=0
    ) as process:
        deadline = time.monotonic() + 120
        workers = []
        while not (tmp_path / "run" / "history.csv").exists() or len(workers) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
            workers = psutil.Process(process.pid).children()
        yield process, workers


def stderr_at_the_end(process, workers):
    """Return standard error, once the process and its workers have ended soon."""
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert time.monotonic() - began < 30
    assert "Traceback" not in said
    return said


def test_a_killed_worker_ends_the_training_with_exit_2(training):
    process, workers = training
    workers[0].kill()
    said = stderr_at_the_end(process, workers)
    assert process.returncode == 2
    assert f"worker process {workers[0].pid}: it was killed by signal 9 (Killed)" in said
    assert "use fewer workers" in said


def test_ctrl_c_in_the_middle_of_an_epoch_keeps_the_checkpoint(training, tmp_path):
    process, workers = training
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    said = stderr_at_the_end(process, workers)
    assert process.returncode == 130
    assert f"interrupted; to continue: boneage train --resume {tmp_path / 'run'}" in said
    assert (tmp_path / "run" / "checkpoint.npz").exists()
