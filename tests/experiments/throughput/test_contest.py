"""Turns, failures and hangs, with contenders of a few lines; and that the real ones deliver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from experiments.throughput.benchmark import contenders
from experiments.throughput.benchmark.contenders import BY_NAME, Contender
from experiments.throughput.benchmark.contest import Contest, describe
from experiments.throughput.benchmark.pipeline import COLUMNS, bench_pipeline
from experiments.throughput.benchmark.processes import cpu_seconds, kill, memory_mb, tree
from experiments.throughput.benchmark.result import table

FAKE = """
import multiprocessing, os, time
import numpy as np

def batches(setting, *, kind):
    if kind == "broken":
        raise ValueError("the file is empty")
    if kind == "mute":
        time.sleep(600)
    if kind == "parent":
        multiprocessing.get_context("fork").Process(
            target=time.sleep, args=(600,), daemon=True
        ).start()
    number = 0
    while True:
        number += 1
        if kind == "dying" and number > 4:
            os._exit(3)
        if kind == "hanging" and number > 4:
            time.sleep(600)
        yield np.full((2, 4, 4, 1), 0.5, np.float32)
"""


@pytest.fixture
def contest(tmp_path, monkeypatch):
    (tmp_path / "fake_contender.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    started = Contest(lambda _: None)
    yield started
    started.close()


def fake(kind: str) -> Contender:
    return Contender(kind, kind, "fake_contender", {"kind": kind}, waiting=1)


@pytest.mark.slow
def test_everyone_gets_every_turn_and_ends_with_its_children(contest, setting):
    contest.enter([fake("one"), fake("parent")], setting)
    contest.play(2, 0.01, 3)
    assert {name: len(turns) for name, turns in contest.turns.items()} == {"one": 2, "parent": 2}
    assert all(turn["images"] >= 6 for turn in contest.turns["one"])
    assert contest.processes["one"].batch["shape"] == [2, 4, 4, 1]
    assert contest.processes["one"].peak_memory_mb > 10
    assert contest.errors == {}
    started = [
        process
        for process in tree(os.getpid())[1:]
        if "resource_tracker" not in " ".join(process.cmdline())
    ]
    assert len(started) == 3
    contest.close()
    assert not psutil.wait_procs(started, timeout=60)[1]


@pytest.mark.slow
def test_contenders_that_fail_or_hang_drop_out_with_the_reason(contest, setting):
    contest.enter([fake("mute")], setting, patience=0.3)
    contest.enter([fake(kind) for kind in ("broken", "dying", "hanging", "one")], setting)
    contest.play(2, 0.0, 1, patience=1)
    assert set(contest.errors) == {"mute", "broken", "dying", "hanging"}
    assert contest.errors["broken"] == "ValueError: the file is empty"
    assert contest.errors["dying"] == "it ended with status 3"
    assert "no answer" in contest.errors["hanging"]
    assert len(contest.turns["one"]) == 2


def test_what_is_delivered_is_checked():
    good = np.full((2, 4, 4, 1), 0.5, np.float32)
    found = describe(good)
    assert found == {"shape": [2, 4, 4, 1], "dtype": "float32", "low": 0.5, "high": 0.5}
    assert describe(range(3)) is None
    for bad in (good.astype(np.float64), good * 255, good - 1, good * 0):
        with pytest.raises(ValueError, match="expected float32"):
            describe(bad)


WORK = """
import time
held = bytearray(40_000_000)
while time.process_time() < 0.4:
    held[0] = 1
time.sleep(60)
"""


def test_a_tree_is_measured_and_killed_as_one():
    child = subprocess.Popen([sys.executable, "-c", WORK])
    deadline = time.monotonic() + 60
    while cpu_seconds(child.pid) < 0.3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert cpu_seconds(child.pid) >= 0.3
    held = memory_mb(child.pid)
    assert held["anonymous_mb"] > 38
    assert 38 < held["proportional_mb"] <= held["anonymous_mb"] + held["shared_mb"] + 1
    assert {each.pid for each in tree(child.pid)} <= {each.pid for each in tree(os.getpid())}
    kill(tree(child.pid))
    child.wait(10)
    assert memory_mb(child.pid) == {"anonymous_mb": 0, "shared_mb": 0, "proportional_mb": 0}
    assert cpu_seconds(child.pid) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    # Keras' own pool would fork this process, so that contender runs in its own process only.
    [name for name in BY_NAME if name not in ("tutorial-processes", "limit-stock", "boneage-next")],
)
def test_a_contender_delivers_augmented_batches(name, setting, monkeypatch):
    if BY_NAME[name].missing():
        pytest.skip(BY_NAME[name].missing())
    if name == "tf-data":
        monkeypatch.setattr("experiments.throughput.benchmark.tensorflow_data.DISTINCT", 8)
    batches = BY_NAME[name].batches(setting)
    try:
        if name == "limit":
            assert all(len(next(batches)) > 0 for _ in range(2))
            return
        seen = [np.asarray(next(batches)) for _ in range(4)]  # more than an epoch of 3
    finally:
        batches.close()
    for batch in seen:
        assert batch.dtype == np.float32
        assert batch.shape[0] in (2, 4)
        assert batch.shape[1:] == (48, 48, 1)
        assert batch.min() >= 0
        assert 0.1 < batch.max() <= 1
    assert any(len(batch) == 4 for batch in seen)
    assert not np.array_equal(seen[0][:2], seen[3][:2])


@pytest.mark.slow
def test_the_pipeline_compares_contenders_and_explains_missing_rows(
    radiographs, monkeypatch, capsys
):
    monkeypatch.setattr("experiments.throughput.benchmark.pipeline.STORE_ROWS", 16)
    monkeypatch.setattr("experiments.throughput.benchmark.pipeline.WARM_SECONDS", 0.05)
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    names = ["torch-png", "boneage-processes", "limit"]
    result = bench_pipeline(48, 8, 1, 2, 0.05, radiographs, names)
    assert json.loads(json.dumps(result)) == result
    skipped, ours, limit = result["rows"]
    assert "torch is not installed" in skipped["skipped"]
    assert ours["ratio"] == 1.0
    assert ours["batch"]["shape"] == [8, 48, 48, 1]
    assert limit["low"] <= limit["images_per_second"] <= limit["high"]
    assert len(limit["rounds"]) == 2
    assert limit["cpu_seconds_per_1000"] > 0
    assert limit["ratio"] > 0
    assert table(result["rows"], COLUMNS) in capsys.readouterr().out
