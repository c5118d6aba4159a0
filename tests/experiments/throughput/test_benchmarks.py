"""The command, the results, and the benchmarks besides `pipeline`, on next to nothing."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.pipeline.store import open_store
from boneage.recipe import Augmentation
from experiments.throughput.benchmark import inference, memory
from experiments.throughput.benchmark.__main__ import main
from experiments.throughput.benchmark.inference import bench_inference
from experiments.throughput.benchmark.policy import stock_policy
from experiments.throughput.benchmark.radiographs import (
    draw_radiographs,
    frame_radiographs,
    write_store,
)
from experiments.throughput.benchmark.result import add_ratios, rates_row, table
from experiments.throughput.benchmark.training import CONSTANT, bench_training


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a benchmark here: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_json_is_all_that_is_printed_and_out_holds_the_same(run, radiographs, tmp_path):
    code, output, progress = run(
        *("prepare", "--json", "--size", 32, "--count", 3, "--rounds", 2),
        *("--images", radiographs[0].parent, "--out", tmp_path / "result.json"),
    )
    assert code == 0
    assert "round 1 of 2" in progress
    result = json.loads(output)
    assert result == json.loads((tmp_path / "result.json").read_text())
    hand, _, bare = result["rows"]
    assert hand["ratio"] == 1.0
    assert bare["name"] == "decode and area resize alone"
    assert result["whole_ratio"] > 0
    for row in result["rows"]:
        assert len(row["rounds"]) == 2
        assert row["low"] <= row["images_per_second"] <= row["high"]
    assert {"device", "versions"} <= set(result["machine"])


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("pipeline", "--contender", "nobody"), "--contender nobody"),
        (("prepare", "--images", "nowhere.txt"), "--images nowhere.txt"),
        (("inference", "some-run", "--recipe", "recipe.toml"), "benchmark inference"),
        (("inference", "no-such-run"), "no-such-run"),
    ],
)
def test_invalid_options_are_refused(run, arguments, wrong):
    code, output, error = run(*arguments)
    assert code == 2
    assert output == ""
    assert error.splitlines()[-1].startswith(f"error: {wrong}")


def test_a_ratio_compares_rates_of_the_same_round():
    # Both are half as fast in the second round, and a tenth as fast in the third.
    ours, theirs = rates_row("ours", [100.0, 50.0, 10.0]), rates_row("theirs", [50.0, 25.0, 5.0])
    skipped = {"name": "skipped", "skipped": "it is not installed"}
    assert (theirs["images_per_second"], theirs["low"], theirs["high"]) == (25.0, 5.0, 50.0)
    add_ratios([theirs, skipped], "ours")
    assert "ratio" not in theirs
    add_ratios([ours, theirs, skipped], "ours")
    assert (ours["ratio"], theirs["ratio"]) == (1.0, 2.0)
    assert "ratio" not in skipped


def test_the_table_is_aligned_and_gives_reasons():
    rows = [
        {"name": "fast", "images_per_second": 12345.6, "ratio": 1.0},
        {"name": "missing one", "skipped": "torch is not installed"},
        {"name": "broken", "error": "ValueError: no"},
        {"name": "slow", "images_per_second": 1.2345},
    ]
    lines = table(rows, {"images_per_second": "images/s", "ratio": "ours / it"}).splitlines()
    assert lines[0].split("  ")[-1].strip() == "images/s ours / it"
    assert lines[1] == "fast          12,346         1"
    assert lines[2] == "missing one skipped: torch is not installed"
    assert lines[3] == "broken      failed: ValueError: no"
    assert lines[4] == "slow            1.23         -"
    assert "images/s" in table([], {"images_per_second": "images/s"})


def test_radiographs_are_noisy_grey_and_repeatable(radiographs, tmp_path):
    image = cv2.imread(str(radiographs[0]), cv2.IMREAD_UNCHANGED)
    assert (image.shape, image.dtype) == ((160, 120), np.dtype(np.uint8))
    assert np.mean(image != cv2.medianBlur(image, 5)) > 0.3  # every pixel has its own noise
    again = draw_radiographs(tmp_path, 2, (160, 120))
    assert [each.read_bytes() for each in again] == [each.read_bytes() for each in radiographs[:2]]


def test_a_written_store_repeats_its_rows_and_black_images_take_no_space(radiographs, tmp_path):
    rows = frame_radiographs(radiographs, 40)
    write_store(tmp_path / "store", 10, 40, rows)
    store = open_store(tmp_path / "store", verify=True)
    assert np.array_equal(store.images, rows[np.arange(10) % 4])
    assert list(store.frames()["image_id"]) == store.image_ids
    write_store(tmp_path / "black", 500, 128)
    assert open_store(tmp_path / "black", verify=True).shape == (500, 128, 128)
    assert (tmp_path / "black" / "images.npy").stat().st_blocks * 512 < 100_000


def test_the_stock_policy_is_the_recipe_s_in_albumentations_own_transforms():
    policy, again = stock_policy(Augmentation(), seed=1), stock_policy(Augmentation(), seed=1)
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    made = [policy(image=image)["image"] for _ in range(20)]
    assert len({each.tobytes() for each in made}) > 15
    assert np.array_equal(made[0], again(image=image)["image"])
    steps = policy.transforms
    assert [(type(step).__name__, step.p) for step in steps] == [
        ("Affine", 1.0),
        ("HorizontalFlip", 0.5),
        ("OpticalDistortion", 0.5),
        ("RandomGamma", 0.5),
        ("RandomBrightnessContrast", 0.2),
        ("Sharpen", 0.5),
    ]


@pytest.mark.slow
def test_training_is_compared_with_a_constant_batch(tiny_network):
    result = bench_training("tiny", 32, 4, 2, 2, 2, mode=["generator, threads"])
    assert json.loads(json.dumps(result)) == result
    constant, threads = result["rows"]
    assert constant["name"] == CONSTANT
    assert constant["step_ratio"] == 1.0
    assert constant["waiting_percent"] == 0.0
    for row in (constant, threads):
        low, high = row["waiting_percent_low"], row["waiting_percent_high"]
        assert low <= row["waiting_percent"] <= high < 100
    assert result["settings"]["backend"] in ("tensorflow", "jax")


@pytest.mark.slow
def test_the_memory_of_a_training_is_measured(tmp_path):
    write_store(tmp_path / "store", 20, 32)
    most = memory.train(tmp_path / "store", "processes", 1, 1, 4)
    assert most["anonymous_mb"] > 50
    assert most["peak_memory_mb"] <= most["anonymous_mb"] + most["shared_mb"] + 0.2
    assert 0 < most["proportional_mb"] <= most["peak_memory_mb"] + 1


def test_growth_is_between_the_first_and_the_last_count(monkeypatch, tmp_path):
    held = {"threads": [100.0, 101.0, 103.5], "processes": [200.0, 190.0, 204.0]}

    class InThisProcess(memory.ProcessPoolExecutor):
        def submit(self, _, store, mode, epochs, *others):
            assert epochs == max(1, 60 // int(store.name))
            return SimpleNamespace(result=lambda: {"peak_memory_mb": held[mode].pop(0)})

    monkeypatch.setattr(memory, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(memory, "check_folder", lambda _: None)
    result = memory.bench_memory([10, 20, 40], 32, 60, 1, tmp_path)
    assert [row["growth_mb"] for row in result["rows"]] == [0, 1.0, 3.5, 0, -10.0, 4.0]
    assert result["growth_mb"] == 4.0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_training_that_fails_is_a_row_with_its_error(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "no-such-backend")
    monkeypatch.setattr(memory, "check_folder", lambda _: None)
    result = memory.bench_memory([10], 32, 10, 1, tmp_path)
    assert all("no-such-backend" in row["error"] for row in result["rows"])
    assert result["growth_mb"] is None


def test_stores_are_not_written_into_memory(monkeypatch, tmp_path):
    disk = SimpleNamespace(mountpoint=str(tmp_path), fstype="tmpfs")
    monkeypatch.setattr(memory.psutil, "disk_partitions", lambda **_: [disk])
    with pytest.raises(InputError, match=r"tmpfs.*--folder"):
        memory.check_folder(tmp_path / "inside")


@pytest.mark.slow
@pytest.mark.parametrize("with_recipe", [False, True])
def test_inference_has_rates_and_waits(with_recipe, tiny_recipe, tiny_network, monkeypatch):
    monkeypatch.setattr(inference, "DEFAULTS", (("tiny", 64),))
    result = bench_inference(None, tiny_recipe if with_recipe else None, 2, 1, 0.01)
    assert json.loads(json.dumps(result)) == result
    name = "tiny, " if with_recipe else "tiny 64 px, "
    rows = {row["name"].removeprefix(name): row for row in result["rows"]}
    assert list(rows) == [
        "2 images: boneage",
        "2 images: keras predict",
        "one image: boneage",
        "one image: keras predict",
        "one image: call of the model",
    ]
    assert rows["2 images: boneage"]["ratio"] == rows["one image: boneage"]["ratio"] == 1.0
    for name in list(rows)[2:]:
        assert 0 < rows[name]["latency_ms"] <= rows[name]["latency_95_ms"]
        assert np.isfinite(rows[name]["ratio"])
