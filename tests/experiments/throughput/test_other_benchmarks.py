"""Preparation, training, memory and inference: what they report, on next to nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boneage.errors import InputError
from experiments.throughput.benchmark import memory
from experiments.throughput.benchmark.radiographs import write_store

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")


def test_preparation_is_compared_with_decoding_and_resizing_alone(radiographs):
    from experiments.throughput.benchmark.preparing import bench_prepare

    result = bench_prepare(size=48, count=6, workers=2, rounds=2, radiographs=radiographs)
    assert json.loads(json.dumps(result)) == result
    hand, radiograph, bare = result["rows"]
    assert hand["ratio"] == 1.0
    for row in (hand, radiograph, bare):
        assert len(row["rounds"]) == 2
        assert row["low"] <= row["images_per_second"] <= row["high"]
    assert result["film_ratio"] > 0
    assert bare["name"] == "decode and area resize alone"


@pytest.fixture
def tiny(monkeypatch):
    """A backbone that takes no time to compile."""
    import keras

    from boneage.models.backbones import BACKBONES, Backbone

    def build(size: int) -> keras.Model:
        image = keras.Input((size, size, 1))
        return keras.Model(image, keras.layers.Conv2D(2, 3, 4)(image))

    monkeypatch.setitem(BACKBONES, "tiny", Backbone(build))


def test_training_is_compared_with_a_constant_batch(tiny):
    from experiments.throughput.benchmark.training import CONSTANT, bench_training

    result = bench_training(
        backbone="tiny",
        size=32,
        batch=4,
        steps=2,
        rounds=2,
        workers=2,
        precision="float32",
        modes=("generator, threads",),
    )
    assert json.loads(json.dumps(result)) == result
    constant, threads = result["rows"]
    assert constant["name"] == CONSTANT
    assert constant["step_ratio"] == 1.0
    assert constant["waiting_percent"] == 0.0
    for row in (constant, threads):
        assert row["milliseconds_per_step"] > 0
        assert row["images_per_second"] == pytest.approx(
            4 * 1000 / row["milliseconds_per_step"], rel=0.5
        )
        low, high = row["waiting_percent_low"], row["waiting_percent_high"]
        assert low <= row["waiting_percent"] <= high < 100
    assert result["settings"]["backend"] in ("tensorflow", "jax")


@pytest.mark.parametrize("mode", memory.MODES)
def test_the_memory_of_a_training_is_measured(mode, tmp_path):
    from experiments.throughput.benchmark.memory_training import train

    write_store(tmp_path / "store", 20, 32)
    most = train(tmp_path / "store", mode, 1, 1, 4)
    assert most["anonymous_mb"] > 50
    assert most["peak_memory_mb"] <= most["anonymous_mb"] + most["shared_mb"] + 0.2
    assert 0 < most["proportional_mb"] <= most["peak_memory_mb"] + 1


def test_growth_is_between_the_first_and_the_last_count(monkeypatch, tmp_path):
    held = {"threads": [100.0, 101.0, 103.5], "processes": [200.0, 190.0, 204.0]}

    def measured(store, mode, epochs, workers, batch):
        assert epochs == max(1, 60 // int(store.name))
        return {"peak_memory_mb": held[mode].pop(0)}

    monkeypatch.setattr(memory, "_measured", measured)
    result = memory.bench_memory(
        counts=(10, 20, 40), size=32, images=60, workers=1, folder=tmp_path
    )
    assert [row["growth_mb"] for row in result["rows"]] == [0, 1.0, 3.5, 0, -10.0, 4.0]
    assert result["growth_mb"] == 4.0
    assert not list(tmp_path.iterdir())


def test_a_training_that_fails_is_a_row_with_its_error(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")
    row = memory._measured(tmp_path / "nowhere", "threads", 1, 1, 4)
    assert "no-such-backend" in row["error"]


def test_stores_are_not_written_into_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_file_system", lambda folder: "tmpfs")
    with pytest.raises(InputError, match=r"tmpfs.*--folder"):
        memory.bench_memory(counts=(10,), size=32, images=10, workers=1, folder=tmp_path)


def test_the_file_system_of_a_folder():
    assert memory._file_system(Path("/proc/self")) == "proc"


def test_inference_has_rates_and_waits(tiny):
    from experiments.throughput.benchmark.inference import bench_inference, networks

    chosen = networks(defaults=(("tiny", 64),))
    result = bench_inference(chosen, batch=2, rounds=1, seconds=0.01)
    assert json.loads(json.dumps(result)) == result
    rows = {row["name"].removeprefix("tiny 64 px, "): row for row in result["rows"]}
    assert list(rows) == [
        "2 images: boneage",
        "2 images: keras predict",
        "one image: boneage",
        "one image: keras predict",
        "one image: call of the model",
    ]
    assert rows["2 images: boneage"]["ratio"] == rows["one image: boneage"]["ratio"] == 1.0
    assert "latency_ms" not in rows["2 images: boneage"]
    for name in list(rows)[2:]:
        assert 0 < rows[name]["latency_ms"] <= rows[name]["latency_95_ms"]
        assert np.isfinite(rows[name]["ratio"])


def test_inference_takes_a_recipe(tiny_recipe):
    from experiments.throughput.benchmark.inference import networks

    (network,) = networks(recipe=tiny_recipe)
    assert (network.name, network.size) == ("tiny", 64)
