"""`boneage train` by several processes, on JAX: what one process gives, and what happens to all."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boneage.datasets.phantom.cohort import make_phantom_cohort
from boneage.run import Run

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="as JAX's processes meet on Linux"),
]

RECIPE = """
name = "together"
seed = 3
framing.size = 64
model.backbone = "tiny"
model.dense_units = [16]
model.dropout = 0.2
training.epochs = 20
training.batch_size = 8
training.learning_rate = 1e-4
training.workers = 1
"""
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
SOON = """
from boneage.training.distributed import heartbeat as watch
from boneage.runtime import provenance
provenance.lacks_bfloat16 = lambda: True
watch.BEAT_SECONDS = 0.05
watch.PATIENCE_SECONDS = 4.0
from boneage.cli.main import main
main()
"""


class Workplace:
    """A cohort, a recipe and an environment without TensorFlow, where JAX compiles but once."""

    def __init__(self, folder: Path, tiny_network: str) -> None:
        self.folder = folder
        self.code = tiny_network + SOON
        self.manifest = make_phantom_cohort(
            folder / "cohort", count=36, seed=0, size=64, progress=False
        )
        (folder / "recipe.toml").write_text(RECIPE)
        (folder / "without" / "tensorflow").mkdir(parents=True)
        (folder / "without" / "tensorflow" / "__init__.py").write_text("raise ImportError")
        self.environment = {
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": QUICKLY,
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "PYTHONPATH": str(folder / "without"),
        }

    def begin(self, run: str, *options: str, **variables: str) -> subprocess.Popen[str]:
        """Starts one process on a run, which goes on where there is one."""
        folder = self.folder / run
        recipe = [str(self.folder / "recipe.toml"), "--data", str(self.manifest.path)]
        what = ["--resume", str(folder)] if "--resume" in options else [*recipe, "--out", folder]
        others = [option for option in options if option != "--resume"]
        return subprocess.Popen(
            [sys.executable, "-c", self.code, "train", *map(str, what), *others],
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin_two(self, run: str, *each: Sequence[str]) -> list[subprocess.Popen[str]]:
        """Starts two processes that train together, with options of their own."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        hosts = f"localhost:{port},127.0.0.1:{port}"
        return [
            self.begin(run, "--hosts", hosts, "--rank", str(rank), *options)
            for rank, options in enumerate(each or ((), ()))
        ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that hangs would go on beside the other tests
    return [(one.returncode, text) for one, text in zip(processes, said, strict=True)]


def wait_for_epoch(run: Run, process: subprocess.Popen[str], epochs: int) -> None:
    deadline = time.monotonic() + 240
    while not (run.history_path.exists() and len(pd.read_csv(run.history_path)) >= epochs):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def curve(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.history_path)[["epoch", "loss", "mae", "val_loss", "val_mae"]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_network: str) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("together"), tiny_network)


@pytest.fixture(scope="module")
def alone(place: Workplace) -> Run:
    ((code, said),) = ended([place.begin("alone")])
    assert code == 0, said
    run = Run(place.folder / "alone")
    trained = run.read_info()["manifest"]["counts"]["train"]
    assert trained % 8 % 2 == 1, "the last batch must not divide by two"
    return run


def test_two_processes_give_the_curve_of_one(place: Workplace, alone: Run) -> None:
    results = ended(place.begin_two("two"))
    assert [code for code, _ in results] == [0, 0], results
    run = Run(place.folder / "two")
    pd.testing.assert_frame_equal(curve(run), curve(alone), rtol=1e-4)
    info = run.read_info()
    assert (info["stopped"], info["devices"]) == ("finished", 2)
    answers = [pd.read_csv(one.predictions_path("test")) for one in (run, alone)]
    np.testing.assert_allclose(*(each["predicted_age_months"] for each in answers), rtol=1e-3)
    assert run.report_path.exists()
    assert not list(run.folder.glob(".*")), "only one process writes, and nothing is left over"


def test_told_to_stop_they_stop_together_and_a_lost_one_ends_all(
    place: Workplace, alone: Run
) -> None:
    run = Run(place.folder / "broken")
    processes = place.begin_two("broken")
    wait_for_epoch(run, processes[0], 1)
    processes[1].send_signal(signal.SIGTERM)  # Slurm tells all of them, but not at once
    results = ended(processes)
    assert [code for code, _ in results] == [0, 0], results
    assert "to go on: boneage train --resume" in results[0][1]
    assert run.read_info()["stopped"] == "terminated"

    done = len(curve(run))  # the stop is agreed on while they train: it may be more than one
    processes = place.begin_two("broken", ["--resume"], ["--resume"])
    wait_for_epoch(run, processes[0], done + 1)
    processes[1].kill()
    killed = time.monotonic()
    code, said = ended(processes)[0]
    assert code == 2, said
    assert time.monotonic() - killed < 20
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: process 1 (127.0.0.1:"), said
    assert "has not been heard of for 4 seconds; expected all 2 processes" in last
    assert f"boneage train --resume {run.folder}" in last

    # One process with two devices goes on with what two processes began.
    flags = f"{QUICKLY} --xla_force_host_platform_device_count=2"
    ((code, said),) = ended([place.begin("broken", "--resume", XLA_FLAGS=flags)])
    assert code == 0, said
    pd.testing.assert_frame_equal(curve(run), curve(alone), rtol=1e-4)


def test_hosts_with_different_recipes_are_told_on_both(place: Workplace) -> None:
    # bfloat16 has each look for a GPU, where not even that may come before they have met.
    half = ["--set", "training.precision=mixed_bfloat16"]
    begun = place.begin_two("differing", half, [*half, "--set", "training.epochs=9"])
    (first, said_first), (second, said_second) = ended(begun)
    assert (first, second) == (2, 2)
    assert "error: process 1 (127.0.0.1:" in said_second
    assert "Give every host the same command and files." in said_second
    assert "it ended (process 1 (127.0.0.1:" in said_first
    assert not (place.folder / "differing").exists()
