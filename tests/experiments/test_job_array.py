"""The example of a job array: each task trains its own run, and comes back when it was cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "cluster" / "sweep.slurm"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a task, with stand-ins that write down what they were asked."""
    (tmp_path / "bin").mkdir()
    for name, does in {
        "boneage": "trap 'echo TERM >> said; exit 0' TERM; touch begun; "
        'while [ -e wait ]; do sleep 0.05; done; exit "${STATUS:-0}"',
        "scontrol": "",
    }.items():
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> said\n{does}\n')
        path.chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "4",
    }


def test_a_task_trains_the_run_of_its_number(cluster: dict[str, str], tmp_path: Path) -> None:
    task = subprocess.run(["bash", SCRIPT], env=cluster | {"STATUS": "1"}, cwd=tmp_path, timeout=60)
    assert task.returncode == 1
    said = (tmp_path / "said").read_text()
    assert said.startswith("boneage sweep experiments/rsna-100px/recipe.toml")
    assert said.endswith(" --only 4\n")


def test_a_task_whose_time_is_up_keeps_its_state_and_is_queued_again(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "wait").touch()
    task = subprocess.Popen(["bash", SCRIPT], env=cluster, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    task.send_signal(signal.SIGTERM)  # --signal=B: to the script alone
    assert task.wait(60) == 0
    assert (tmp_path / "said").read_text().splitlines()[1:] == ["TERM", "scontrol requeue 77_4"]
