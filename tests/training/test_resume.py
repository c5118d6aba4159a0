"""A training that was cut off continues to the same weights, history and best model."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import psutil
import pytest

from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError
from boneage.recipe import read_recipe
from boneage.run import Run
from boneage.training.checkpoint import read_checkpoint, write_checkpoint
from boneage.training.recorder import RunRecorder
from boneage.training.resume import last_checkpoint
from boneage.training.stop_signals import Stop, Terminated
from boneage.training.trainer import train

# Everything with a state: averaged weights and statistics, dropout, a plateau, early stopping.
OVERRIDES = (
    "model.backbone=tiny",
    "training.epochs=4",
    "training.ema=0.8",
    "training.ema_statistics=true",
    "training.balance_sources=0.5",
    "training.schedule=plateau",
    "training.plateau_patience=1",
    "training.early_stop_patience=3",
    "training.learning_rate=0.01",
    "model.age_scale_months=4000.0",
    "model.dropout=0.3",
)
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def a_checkpoint_each_epoch(monkeypatch):
    monkeypatch.setattr("boneage.training.recorder.WRITING_SHARE", 1e9)


@pytest.fixture(scope="module")
def recipe(tiny_recipe, tiny_network):
    return read_recipe(tiny_recipe, OVERRIDES)


@pytest.fixture(scope="module")
def manifest(cohort):
    return read_manifest(cohort)


@pytest.fixture(scope="module")
def whole(recipe, manifest, tmp_path_factory):
    """The run that nobody disturbs. Read only."""
    return train(recipe, manifest, tmp_path_factory.mktemp("whole") / "run", progress=False)


def assert_same(one, other):
    histories = [pd.read_csv(run.history_path).drop(columns="seconds") for run in (one, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    checkpoints = [read_checkpoint(run.checkpoint_path) for run in (one, other)]
    assert checkpoints[0].state.callbacks == checkpoints[1].state.callbacks
    for pair in (
        [checkpoint.variables for checkpoint in checkpoints],
        [keras.models.load_model(run.best_path).get_weights() for run in (one, other)],
    ):
        assert len(pair[0]) == len(pair[1]) > 10
        for ours, theirs in zip(*pair, strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)
    infos = [run.read_info() for run in (one, other)]
    for key in ("stopped", "epochs", "best_epoch", "best_val_mae_months"):
        assert infos[0][key] == infos[1][key]


def test_the_undisturbed_run_uses_everything_with_a_state(whole):
    state = read_checkpoint(whole.checkpoint_path).state
    assert set(state.callbacks) == {"ReduceLROnPlateau", "EarlyStopping"}
    assert state.ended or state.epoch == 4
    rates = pd.read_csv(whole.history_path)["learning_rate"]
    assert rates.iloc[-1] < rates.iloc[0]


def test_a_killed_run_continues_to_the_same_result(whole, recipe, manifest, tmp_path, train_until):
    out = tmp_path / "run"
    for moment, epoch, number in (
        ("on_train_batch_end", 0, 1),  # before there is any checkpoint
        ("on_test_batch_end", 1, 0),
        ("on_epoch_end", 1, 1),  # nothing of this epoch is written yet
        ("on_train_batch_end", 2, 0),
    ):
        train_until(moment, epoch, number, recipe, manifest, out, resume=epoch > 0)
    assert_same(whole, train(recipe, manifest, out, progress=False, resume=True))


def test_a_terminated_run_continues_in_the_middle_of_its_epoch(
    whole, recipe, manifest, tiny_recipe, tmp_path, train_until
):
    run = Run(tmp_path / "run")
    for moment, epoch, number, batches in (
        ("on_train_batch_end", 0, 0, 1),
        ("on_train_batch_end", 1, 2, 3),  # the last batch
        ("on_test_batch_end", 2, 0, 3),
    ):
        stop = Stop()
        train_until(
            *(moment, epoch, number, recipe, manifest, run.folder),
            then=functools.partial(setattr, stop, "asked", signal.SIGTERM),
            error=Terminated,
            resume=epoch > 0,
            stop=stop,
        )
        state = read_checkpoint(run.checkpoint_path).state
        assert run.read_info()["stopped"] == "terminated"
        assert (state.epoch, state.batch) == (epoch, batches)
    # It may continue on another machine, with copies of the images.
    for path in manifest.image_paths():
        os.utime(path)
    other = read_recipe(tiny_recipe, [*OVERRIDES, "training.workers=3"])
    assert other != recipe
    assert_same(whole, train(other, manifest, run.folder, progress=False, resume=True))
    assert [each["backend"] for each in run.read_info()["resumed"]] == ["tensorflow"] * 3


def test_dropped_branches_and_whole_radiographs_are_those_of_the_undisturbed_run(
    tiny_convnext, tiny_recipe, manifest, tmp_path, train_until
):
    overrides = (
        *("model.backbone=tiny_convnext", "model.drop_path=0.5", "model.gender_by=film"),
        *("model.head=distribution", "augmentation.whole_image=0.4", "augmentation.noise=0.3"),
        *("training.ema=0.9", "training.precision=mixed_bfloat16", "training.backbone_rate=0.5"),
    )
    recipe = read_recipe(tiny_recipe, overrides)
    whole = train(recipe, manifest, tmp_path / "whole", progress=False)
    out, stop = tmp_path / "run", Stop()
    train_until(
        *("on_train_batch_end", 1, 0, recipe, manifest, out),
        then=functools.partial(setattr, stop, "asked", signal.SIGTERM),
        error=Terminated,
        stop=stop,
    )
    assert read_checkpoint(Run(out).checkpoint_path).state.batch == 1
    assert_same(whole, train(recipe, manifest, out, progress=False, resume=True))
    crop = read_recipe(tiny_recipe, [*overrides, "augmentation.whole_image=0"])
    other = train(crop, manifest, tmp_path / "crop", progress=False)
    losses = [pd.read_csv(run.history_path)["loss"].iloc[0] for run in (whole, other)]
    assert losses[0] != losses[1]


def test_after_short_epochs_some_checkpoints_are_skipped(
    whole, recipe, manifest, tmp_path, monkeypatch, train_until
):
    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("boneage.training.recorder.WRITING_SHARE", 1e-9)
        train_until("on_epoch_end", 2, 2, recipe, manifest, run.folder)
    assert read_checkpoint(run.checkpoint_path).state.epoch == 1
    assert len(pd.read_csv(run.history_path)) == 2
    assert_same(whole, train(recipe, manifest, run.folder, progress=False, resume=True))


def test_a_finished_run_is_returned_unchanged(whole, recipe, manifest):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.iterdir()}
    train(recipe, manifest, whole.folder, progress=False, resume=True)
    assert {path: path.stat().st_mtime_ns for path in whole.folder.iterdir()} == before


def test_a_checkpoint_of_an_earlier_version_without_a_setting_is_read(whole, recipe, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(whole.folder, run.folder)
    values = recipe.model_dump(mode="json")
    del values["augmentation"]["erase"], values["framing"]["fit"]
    state, model = read_checkpoint(run.checkpoint_path).state, keras.Sequential()
    model.compile()
    write_checkpoint(run.checkpoint_path, model, state, values)
    assert last_checkpoint(run, recipe, batches=5) is not None


def test_other_images_than_it_began_with_are_refused(recipe, cohort_copy, tmp_path, train_until):
    manifest, folder = read_manifest(cohort_copy), tmp_path / "run"
    train_until("on_epoch_begin", 1, 1, recipe, manifest, folder)
    radiograph, another = manifest.image_paths()[:2]
    radiograph.write_bytes(another.read_bytes())
    with pytest.raises(InputError, match="the images have changed since the run began"):
        train(recipe, manifest, folder, progress=False, resume=True)


def test_a_changed_best_model_is_refused_and_kept_out_of_run_json(
    recipe, manifest, tmp_path, train_until
):
    run = Run(tmp_path / "run")
    train_until("on_train_batch_end", 1, 0, recipe, manifest, run.folder)
    recorded = run.read_info(("digests",))
    trained = run.best_path.read_bytes()
    run.best_path.write_bytes(trained + b"changed")
    with pytest.raises(InputError, match="best.keras: the file is missing or is not"):
        train(recipe, manifest, run.folder, progress=False, resume=True)
    assert run.read_info() == recorded
    run.best_path.write_bytes(trained)
    # While it trains, `best.keras` changes, so a kill must leave no digest of an old one.
    seen = []

    def look():
        seen.append(run.read_info())
        raise KeyboardInterrupt

    how = {"resume": True, "then": look, "error": KeyboardInterrupt}
    train_until("on_train_batch_end", 1, 1, recipe, manifest, run.folder, **how)
    assert "digests" not in seen[0]
    assert run.read_info(("digests",))


def test_a_folder_in_use_is_refused(whole, recipe, manifest):
    refused = pytest.raises(InputError, match="another process is training in this folder")
    with whole.locked(), refused, whole.locked():
        pass


def test_a_damaged_checkpoint_is_refused(whole, tmp_path):
    content = bytearray(whole.checkpoint_path.read_bytes())
    largest = max(read_checkpoint(whole.checkpoint_path).variables, key=np.size)
    content[content.index(largest.tobytes()) + largest.nbytes // 2] ^= 1
    (tmp_path / "checkpoint.npz").write_bytes(content)
    with pytest.raises(InputError, match="the checkpoint can't be read: Bad CRC-32"):
        read_checkpoint(tmp_path / "checkpoint.npz")
    (tmp_path / "checkpoint.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="the checkpoint can't be read"):
        read_checkpoint(tmp_path / "checkpoint.npz")


@pytest.mark.skipif(os.name != "posix", reason="limits and signals are POSIX's")
@pytest.mark.parametrize("room", [0.5, 0.0])  # of a checkpoint; with none, nothing can be written
def test_a_full_disk_keeps_the_last_checkpoint(
    whole, recipe, manifest, tmp_path, monkeypatch, room
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    length = int(room * whole.checkpoint_path.stat().st_size)
    own = RunRecorder.on_epoch_end

    def fill_up(self, epoch, logs=None):
        if epoch == 1:  # files may no longer be longer than that
            resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
        own(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_epoch_end", fill_up)
        try:
            with pytest.raises(
                InputError, match=r"epoch 2 could not be saved: .*Free some disk space"
            ):
                train(recipe, manifest, tmp_path / "run", progress=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = Run(tmp_path / "run")
    assert read_checkpoint(run.checkpoint_path).state.epoch == 1
    assert not list(run.folder.glob(".*"))
    assert_same(whole, train(recipe, manifest, run.folder, progress=False, resume=True))


# After its first checkpoint a process waits for the test, which has then done what it is about: the
# training of this tiny network would be over in a moment. The queue is short, so that the workers
# can't have made all batches of the training by then.
PAUSE = """
import os, pathlib, time
from boneage import DataGenerator
DataGenerator.__init__.__kwdefaults__["max_queue_size"] = 1
replace = os.replace
def pausing(source, target, **more):
    replace(source, target, **more)
    if str(target).endswith("checkpoint.npz"):
        os.replace = replace
        go, deadline = pathlib.Path(target).parent.with_name("go"), time.monotonic() + 300
        while not go.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
os.replace = pausing
"""


def begin(arguments, tiny_network):
    """Start `boneage train` in a process of its own."""
    code = PAUSE + tiny_network + "from boneage.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=-3, stderr=-1, text=True, process_group=0)


def wait_for_checkpoint(process, path, after):
    deadline = time.monotonic() + 300
    while not (path.exists() and path.stat().st_mtime_ns > after):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def worker_processes(process):
    children = psutil.Process(process.pid).children()
    return [each for each in children if "boneage.pipeline.workers.process" in str(each.cmdline())]


def kill_and_wait(worker):
    worker.kill()
    deadline = time.monotonic() + 60
    while worker.status() != psutil.STATUS_ZOMBIE:  # the training has not waited for it yet
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="limits and signals are POSIX's")
def test_the_command_resumes_after_a_lost_worker_ctrl_c_and_a_kill(
    whole, manifest, tmp_path, tiny_recipe, tiny_network, boneage
):
    run = Run(tmp_path / "run")
    (tmp_path / "recipe.toml").write_text(
        tiny_recipe.read_text().replace("use_multiprocessing = false", "workers = 2")
    )
    arguments = [tmp_path / "recipe.toml", "--data", manifest.path, "--out", run.folder]
    arguments += [part for override in OVERRIDES for part in ("--set", override)]
    go = tmp_path / "go"
    for end, status in (("lose", 2), ("interrupt", 130), ("kill", -signal.SIGKILL)):
        go.unlink(missing_ok=True)
        before = run.checkpoint_path.stat().st_mtime_ns if run.checkpoint_path.exists() else 0
        with begin(arguments, tiny_network) as process:
            wait_for_checkpoint(process, run.checkpoint_path, before)
            workers = worker_processes(process)
            assert len(workers) == 2
            if end == "lose":
                kill_and_wait(workers[0])
            elif end == "interrupt":
                os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
            else:
                process.kill()
            go.touch()
            _, said = process.communicate(timeout=300)
        assert process.returncode == status, said
        assert "Traceback" not in said
        assert not psutil.wait_procs(workers, timeout=30)[1]
        if end == "lose":
            assert f"worker process {workers[0].pid}: it was killed by signal 9 (Killed)" in said
            assert "use fewer workers" in said
        if end == "interrupt":
            assert f"interrupted; to continue: boneage train --resume {run.folder}" in said
        arguments = ["--resume", run.folder]
    code, _, said = boneage("train", *arguments)
    assert code == 0, said
    assert_same(whole, run)
    assert run.report_path.exists()
