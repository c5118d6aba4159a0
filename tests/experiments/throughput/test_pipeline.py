from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.throughput.benchmark import contenders
from experiments.throughput.benchmark.contenders import BY_NAME
from experiments.throughput.benchmark.pipeline import COLUMNS, bench_pipeline
from experiments.throughput.benchmark.result import table

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("experiments.throughput.benchmark.pipeline.STORE_ROWS", 16)


def test_contenders_run_in_turns_in_processes_of_their_own(radiographs, monkeypatch):
    monkeypatch.setattr(contenders.Contender, "lacks", lambda one: _lacks(one.name))
    monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")  # so what needs Keras fails
    result = bench_pipeline(
        size=48,
        batch=8,
        workers=1,
        rounds=2,
        seconds=0.05,
        radiographs=radiographs,
        contenders=("torch-png", "boneage-threads", "limit"),
        warm_seconds=0.05,
    )
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"machine", "settings", "rows"}
    assert result["settings"]["films"] == "4 radiographs given"
    skipped, failed, limit = result["rows"]
    assert skipped["name"] == "PyTorch DataLoader, resized PNG"
    assert skipped["skipped"] == "torch is not installed"
    assert failed["name"] == "boneage, threads"
    assert "no-such-backend" in failed["error"]
    assert limit["low"] <= limit["images_per_second"] <= limit["high"]
    assert len(limit["rounds"]) == 2
    assert limit["cpu_seconds_per_1000"] > 0
    assert "ratio" not in limit  # ours has fallen out
    text = table(result["rows"], COLUMNS)
    assert "skipped: torch is not installed" in text
    assert "failed: " in text


def _lacks(name: str) -> str:
    return "torch is not installed" if name.startswith("torch") else ""


def test_ours_is_what_the_others_are_divided_by(radiographs):
    result = bench_pipeline(
        size=48,
        batch=8,
        workers=1,
        rounds=1,
        seconds=0.05,
        radiographs=radiographs,
        contenders=("boneage-threads",),
        warm_seconds=0.05,
    )
    (ours,) = result["rows"]
    assert ours["ratio"] == 1.0
    assert ours["batch"] == {
        "shape": [8, 48, 48, 1],
        "dtype": "float32",
        "low": 0.0,
        "high": ours["batch"]["high"],
    }
    assert result["settings"]["ours"] == BY_NAME["boneage-threads"].title
