"""Devices and processes that train together: the result is that of one device."""

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

import keras
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.phantom.cohort import make_phantom_cohort
from boneage.errors import InputError
from boneage.pipeline.generator import DataGenerator
from boneage.run import Run
from boneage.training.distributed import DeviceGroup, joined, without_padding
from boneage.training.hosts import Hosts

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tests what TensorFlow refuses"
)


@on_tensorflow
def test_several_hosts_on_tensorflow_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"2 hosts: Keras runs on tensorflow.*KERAS_BACKEND=jax"),
        joined(Hosts("a:1", 2, 0), tmp_path / "run"),
    ):
        pass


@on_tensorflow
def test_one_process_on_tensorflow_trains_on_one_device(tmp_path: Path) -> None:
    with joined(None, tmp_path / "run") as group:
        assert (group.devices, group.writes) == (1, True)
        batches = DataGenerator(np.zeros((5, 8, 8), np.uint8), [1] * 5, [90.0] * 5, 4)
        assert group.shard(keras.Model(), batches, batches) == (batches, batches)


def test_a_batch_size_that_the_devices_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match=r"8 images can't be divided among 3 devices.*6 or 9"):
        DeviceGroup(None, 0, 3, 3).check_batch_size(8)


def test_a_step_never_sees_the_padding_of_the_last_batch() -> None:
    seen = []
    step = without_padding(lambda state, data: seen.append(data), rows=3, padded=4)
    for rows in (8, 4):
        images, gender, ages = (np.arange(rows) for _ in range(3))
        step(None, ((images, gender), ages))
    sizes = [[len(part) for part in keras.tree.flatten(batch)] for batch in seen]
    assert sizes == [[8, 8, 8], [3, 3, 3]]


RECIPE = """
name = "together"
seed = 3
framing.size = 64
model.backbone = "tiny"
model.dense_units = [16]
model.dropout = 0.2
training.epochs = 6
training.batch_size = 8
training.learning_rate = 1e-4
training.ema = 0.8
training.ema_statistics = true
training.workers = 1
"""
CONNECT = "import jax; jax.distributed.initialize"  # as Ray's JaxTrainer does
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# On a busy machine, a batch and its checkpoint may take longer than the eight seconds after which a
# process ends alone. The other one is then aborted. `test_stop_signals` tests that limit.
# After an epoch, the training waits while there is a file `hold`, so that the test acts in time.
MAIN = """
import os, pathlib, time
replace = os.replace
def holding(source, target, **more):
    replace(source, target, **more)
    hold, deadline = pathlib.Path(target).parent.with_name("hold"), time.monotonic() + 240
    while str(target).endswith("history.csv") and hold.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
os.replace = holding
from boneage.runtime import provenance
from boneage.training import stop_signals
provenance.lacks_bfloat16 = lambda: True
stop_signals.PATIENCE_SECONDS = 240
from boneage.cli.main import main
main()
"""


class Workplace:
    """A dataset, a recipe and an environment without TensorFlow, where JAX compiles only once."""

    def __init__(self, folder: Path, tiny_network: str) -> None:
        self.folder = folder
        self.code = tiny_network + MAIN
        self.manifest = make_phantom_cohort(
            folder / "cohort", count=36, seed=0, size=64, progress=False
        )
        (folder / "recipe.toml").write_text(RECIPE)
        for package in ("tensorflow", "sklearn"):  # Keras would import both where they are
            (folder / "without" / package).mkdir(parents=True)
            (folder / "without" / package / "__init__.py").write_text("raise ImportError")
        self.environment = {
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": QUICKLY,
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "PYTHONPATH": f"{folder / 'without'}:{os.environ.get('PYTHONPATH', '')}",
        }

    def start(
        self, run: str, *options: str, code: str | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """Start one process that begins a run, or with `--resume` continues it."""
        folder = self.folder / run
        recipe = [str(self.folder / "recipe.toml"), "--data", str(self.manifest.path)]
        what = ["--resume", str(folder)] if "--resume" in options else [*recipe, "--out", folder]
        others = [option for option in options if option != "--resume"]
        return subprocess.Popen(
            [sys.executable, "-c", code or self.code, "train", *map(str, what), *others],
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_two(
        self, run: str, *each: Sequence[str], connected: bool = False
    ) -> list[subprocess.Popen[str]]:
        """Start two processes that train together, as Kubeflow's variables or JAX say."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"localhost:{free.getsockname()[1]}"
        if connected:
            return [
                self.start(run, code=f"{CONNECT}('{address}', 2, {rank})\n{self.code}")
                for rank in (0, 1)
            ]
        launcher = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        return [
            self.start(run, *options, **launcher, JAX_PROCESS_ID=str(rank))
            for rank, options in enumerate(each or ((), ()))
        ]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return the exit code and the standard error of each process."""
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(each.returncode, text) for each, text in zip(processes, said, strict=True)]


def wait_for_epoch(run: Run, process: subprocess.Popen[str], epochs: int) -> None:
    deadline = time.monotonic() + 240
    while not (run.history_path.exists() and len(pd.read_csv(run.history_path)) >= epochs):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def curve(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.history_path)[["epoch", "loss", "mae", "val_loss", "val_mae"]]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_network: str) -> Workplace:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    if sys.platform != "linux":
        pytest.skip("JAX connects processes on Linux")
    return Workplace(tmp_path_factory.mktemp("together"), tiny_network)


@pytest.fixture(scope="module")
def alone(workplace: Workplace) -> Run:
    ((code, said),) = ended([workplace.start("alone")])
    assert code == 0, said
    run = Run(workplace.folder / "alone")
    trained = run.read_info()["manifest"]["counts"]["train"]
    assert trained % 8 % 2 == 1, "the last batch must not divide by two"
    return run


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(workplace: Workplace, alone: Run) -> None:
    results = ended(workplace.start_two("two", connected=True))
    assert [code for code, _ in results] == [0, 0], results
    run = Run(workplace.folder / "two")
    pd.testing.assert_frame_equal(curve(run), curve(alone), rtol=1e-4)
    info = run.read_info()
    assert (info["stopped"], info["devices"]) == ("finished", 2)
    answers = [pd.read_csv(each.predictions_path("test")) for each in (run, alone)]
    np.testing.assert_allclose(*(each["predicted_age_months"] for each in answers), rtol=1e-3)
    assert run.report_path.exists()
    assert not list(run.folder.glob(".*")), "only one process writes, and nothing is left over"


@pytest.mark.slow
def test_they_stop_together_end_when_one_is_lost_and_continue_as_one(
    workplace: Workplace, alone: Run
) -> None:
    run, hold = Run(workplace.folder / "broken"), workplace.folder / "hold"
    hold.touch()
    processes = workplace.start_two("broken")
    wait_for_epoch(run, processes[0], 1)
    processes[1].send_signal(signal.SIGTERM)
    hold.unlink()
    results = ended(processes)
    assert [code for code, _ in results] == [143, 143], results
    assert "boneage train --resume" in results[0][1]
    assert run.read_info()["stopped"] == "terminated"

    hold.touch()
    processes = workplace.start_two("broken", ["--resume"], ["--resume"])
    wait_for_epoch(run, processes[0], len(curve(run)) + 1)
    processes[1].kill()
    processes[1].wait()
    hold.unlink()
    code, said = ended(processes)[0]
    assert code != 0, said
    assert run.checkpoint_path.exists()

    # One process with two devices continues what two processes began.
    flags = f"{QUICKLY} --xla_force_host_platform_device_count=2"
    ((code, said),) = ended([workplace.start("broken", "--resume", XLA_FLAGS=flags)])
    assert code == 0, said
    pd.testing.assert_frame_equal(curve(run), curve(alone), rtol=1e-4)


@pytest.mark.slow
def test_hosts_with_different_recipes_are_refused_on_both(workplace: Workplace) -> None:
    # bfloat16 makes the command check for a GPU, which must not come before they connect.
    half = ["--set", "training.precision=mixed_bfloat16"]
    both = workplace.start_two("differing", half, [*half, "--set", "training.epochs=9"])
    for code, said in ended(both):
        assert code == 2, said
        assert "error: process 1 of 2: its recipe is not that of process 0" in said
    assert not (workplace.folder / "differing").exists()
