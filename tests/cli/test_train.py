from __future__ import annotations

import json
from pathlib import Path

import pytest

from boneage.datasets.phantom.cohort import DRAWING_VERSION


@pytest.mark.slow
def test_a_command_trains_evaluates_reports_and_compares_with_the_baseline(
    boneage, cohort, tiny_recipe, tmp_path
):
    code, out, _ = boneage(
        "train", tiny_recipe, "--data", cohort, "--out", "run", "--seed", 5,
        "--set", "training.epochs=1", "--set", "training.use_multiprocessing=true",
    )  # fmt: skip
    assert code == 0
    assert "test: MAE" in out
    assert "predicting the median by sex:" in out
    run = tmp_path / "run"
    assert f"report: {Path('run') / 'report.html'}" in out
    made = {path.name for path in run.iterdir()}
    assert {"metrics-val.json", "metrics-test.json", "predictions-test.csv", "report.html"} <= made
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["seed"], recipe["training"]["epochs"]) == (5, 1)
    assert "--set training.epochs=1 --set" in json.loads((run / "run.json").read_text())["command"]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_without_test_the_test_split_is_scored_later(boneage, cohort, tiny_recipe, tmp_path):
    smaller = ("--set", "training.epochs=1", "--set", "model.backbone=tiny", "--out", "run")
    code, out, _ = boneage("train", tiny_recipe, "--data", cohort, "--no-test", *smaller)
    assert code == 0
    assert "val: MAE" in out
    run = tmp_path / "run"
    assert (run / "report.html").exists()
    assert not (run / "metrics-test.json").exists()
    result = json.loads((run / "result.json").read_text())
    assert set(result["metrics"]) == {"val"}
    assert "test_scorings" not in result
    for count in (1, 2):
        assert boneage("evaluate", "run")[0] == 0
        assert json.loads((run / "result.json").read_text())["test_scorings"] == count


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_a_recipe_with_a_phantom_needs_no_manifest(boneage, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "runs"))
    recipe = tmp_path / "phantom.toml"
    recipe.write_text(tiny_recipe.read_text() + "[phantom]\ncount = 40\nsize = 64\n")
    smaller = ("--set", "training.epochs=1", "--set", "model.backbone=tiny")
    code, out, _ = boneage("train", recipe, *smaller)
    assert code == 0, out
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("tiny-seed3-")
    assert (run / "report.html").exists()
    assert (tmp_path / "cache" / f"phantom{DRAWING_VERSION}-40-0-64px" / "manifest.csv").exists()


def test_a_faulty_manifest_is_refused_with_all_faults_and_nothing_is_made(
    boneage, edit, refused, cohort_copy, tiny_recipe, tmp_path
):
    edit(cohort_copy, 7, sex="unknown", age_months="-3", image_id="000001")
    manifest = edit(cohort_copy, 8, image="images/absent.png")
    result = boneage("train", tiny_recipe, "--data", manifest, "--out", "run")
    refused(result, "unknown", "-3", "000001", "absent.png")
    assert not (tmp_path / "run").exists()


def test_a_typo_in_a_recipe_is_refused_with_what_was_meant(boneage, refused, cohort, tmp_path):
    recipe = tmp_path / "typo.toml"
    recipe.write_text('name = "typo"\n[training]\nepoch = 3\n')
    refused(boneage("train", recipe, "--data", cohort), "'training.epoch'", "'epochs'")


def test_an_out_that_is_a_file_or_can_not_be_made_is_refused_before_anything_is_prepared(
    boneage, refused, cohort_copy, tiny_recipe, tmp_path
):
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        result = boneage("train", tiny_recipe, "--data", cohort_copy, "--out", out)
        refused(result, out, "--out")
    assert not (cohort_copy.parent / "manifest.store").exists()


def test_an_interrupt_exits_with_130_and_says_how_to_go_on(
    boneage, cohort, tiny_recipe, monkeypatch
):
    def interrupt(recipe, manifest, out, **_):
        out.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("boneage.training.trainer.train", interrupt)
    code, _, err = boneage("train", tiny_recipe, "--data", cohort, "--out", "run")
    assert code == 130
    assert "interrupted; to continue: boneage train --resume run" in err
    assert "volume" not in err


def test_in_a_container_results_on_no_volume_are_announced_as_lost(
    boneage, cohort, tiny_recipe, monkeypatch
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setenv("BONEAGE_IMAGE", "cpu")
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == "/")
    monkeypatch.setattr("boneage.training.trainer.train", interrupt)
    _, _, err = boneage("train", tiny_recipe, "--data", cohort, "--out", "run")
    assert "warning: run is on no volume. The results are lost" in err


def test_a_gpu_that_is_required_and_absent_is_refused_before_anything_is_made(
    boneage, refused, cohort, tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr("boneage.training.trainer.accelerator", lambda: None)
    result = boneage("train", tiny_recipe, "--data", cohort, "--out", "run", "--require-gpu")
    assert result[0] == 2
    assert "--require-gpu: Keras finds no GPU" in result[2]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the recipe is missing. Name a RECIPE"),
        (("recipe.toml",), "--data MANIFEST"),
        (("--resume", "absent"), "--resume absent: it holds no run.json"),
        (("--resume", ".", "--out", "x"), "can't be combined with --out or --init"),
    ],
)
def test_a_training_of_nothing_is_refused(boneage, refused, tmp_path, arguments, message):
    (tmp_path / "recipe.toml").write_text('name = "without-data"')
    refused(boneage("train", *arguments), message)


def test_resuming_with_another_recipe_manifest_or_setting_is_refused(
    boneage, refused, finished_run, tiny_recipe, cohort_copy
):
    before = {path: path.stat().st_mtime_ns for path in finished_run.folder.iterdir()}
    cohort_copy.write_bytes(cohort_copy.read_bytes() + b"\n")
    for arguments, message in (
        (["--set", "training.epochs=9"], "training.epochs is 9, was 2"),
        ([tiny_recipe, "--seed", "7"], "seed is 7, was 3"),
        (["--data", cohort_copy], "the manifest is not the one"),
    ):
        refused(boneage("train", "--resume", finished_run.folder, *arguments), message)
    assert {path: path.stat().st_mtime_ns for path in finished_run.folder.iterdir()} == before
