"""Every contender really delivers batches: float32, of the right shape, in [0, 1]."""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.throughput.benchmark import contender as process
from experiments.throughput.benchmark.contenders import BY_NAME, CONTENDERS, Contender
from experiments.throughput.benchmark.setting import Setting

SHORT = [
    name
    for name in BY_NAME
    # Keras' own pool forks this process: its contender runs in a process of its own only.
    if name not in ("tutorial-processes", "limit-stock", "boneage-next", "torch-store-fused")
]


@pytest.mark.parametrize("name", SHORT)
def test_a_contender_delivers_what_it_is_compared_by(name, setting, monkeypatch):
    if BY_NAME[name].lacks():
        pytest.skip(BY_NAME[name].lacks())
    if name == "tf-data":
        monkeypatch.setattr("experiments.throughput.benchmark.tensorflow_data.DISTINCT", 8)
    batches = BY_NAME[name].batches(setting)
    try:
        if name == "limit":
            assert all(len(next(batches)) > 0 for _ in range(2))
            return
        seen = [np.asarray(next(batches)) for _ in range(4)]  # over the end of an epoch of 3
    finally:
        batches.close()
    for batch in seen:
        assert batch.dtype == np.float32
        assert batch.shape[0] in (2, 4)
        assert batch.shape[1:] == (48, 48, 1)
        assert batch.min() >= 0
        assert 0.1 < batch.max() <= 1
    assert any(len(batch) == 4 for batch in seen)
    assert not np.array_equal(seen[0][:2], seen[3][:2])  # augmented anew


def test_names_titles_and_order():
    assert len(BY_NAME) == len(CONTENDERS) == len({one.title for one in CONTENDERS})
    assert [one.name for one in CONTENDERS][-1] == "limit"
    assert next(iter(BY_NAME)) == "tutorial"


def test_a_peer_that_is_not_installed_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "torch is not installed" in BY_NAME["torch-png"].lacks()
    assert "pip install torch grain" in BY_NAME["grain-store"].lacks()
    assert BY_NAME["boneage-threads"].lacks() == ""


def test_what_is_delivered_is_looked_at():
    good = np.full((2, 4, 4, 1), 0.5, np.float32)
    found = process.describe(good)
    assert found == {"shape": [2, 4, 4, 1], "dtype": "float32", "low": 0.5, "high": 0.5}
    assert process.describe(range(3)) is None
    for bad in (good.astype(np.float64), good * 255, good - 1, good * 0):
        with pytest.raises(ValueError, match="expected float32"):
            process.describe(bad)


def test_counting_goes_from_batch_to_batch():
    found = process.measure(iter([[0] * 5] * 10), 0.0, 3)
    assert found["images"] == 15  # the first one only starts the clock
    assert found["seconds"] > 0
    assert found["cpu_seconds"] >= 0


def test_a_contender_s_process_says_when_it_is_ready_and_answers_orders(setting, monkeypatch):
    batch = np.full((4, 48, 48, 1), 0.5, np.float32)

    class Fake(Contender):
        def batches(self, setting: Setting):
            while True:
                yield batch

    channel = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO('{"seconds": 0.0, "least": 2}\n'))
    process.run(Fake("fake", "fake", ""), replace(setting), channel)
    ready, answer = map(json.loads, channel.getvalue().splitlines())
    assert ready["ready"] is True
    assert ready["batch"]["shape"] == [4, 48, 48, 1]
    assert answer["images"] == 8


def test_a_setting_survives_its_file(setting, tmp_path):
    setting.write(tmp_path / "setting.json")
    assert Setting.read(tmp_path / "setting.json") == setting
