from __future__ import annotations

import json
import shutil

import pytest

from boneage.run import Run
from boneage.runtime.files import write_json


def test_evaluate_prints_json_and_nothing_else(boneage, finished_run):
    code, out, _ = boneage("evaluate", finished_run.folder, "--split", "val", "--json")
    assert code == 0
    metrics = json.loads(out)
    assert metrics["n"] == 6
    assert metrics["mae_months"]["low"] <= metrics["mae_months"]["value"]


def test_evaluate_scores_anybody_s_predictions(boneage, finished_run):
    code, out, _ = boneage("evaluate", "--predictions", finished_run.predictions_path("test"))
    assert code == 0
    assert "MAE, months" in out
    assert "sex F, n " in out


def test_evaluate_takes_a_run_or_predictions_not_both_nor_neither(boneage, refused, finished_run):
    refused(boneage("evaluate"), "Name one of them")
    both = boneage("evaluate", finished_run.folder, "--predictions", "x.csv")
    refused(both, "Name one of them")
    refused(
        boneage("evaluate", "--predictions", "x.csv", "--split", "val"),
        "can't be combined with --data, --split",
    )


def test_a_manifest_that_changed_since_the_run_is_refused(
    boneage, edit, refused, cohort_copy, finished_run, tmp_path
):
    shutil.copytree(finished_run.folder, "run")
    info = finished_run.read_info()
    info["manifest"]["path"] = str(cohort_copy)
    write_json(tmp_path / "run" / "run.json", info)
    assert boneage("evaluate", "run")[0] == 0
    before = (tmp_path / "run" / "metrics-test.json").read_text()
    edit(cohort_copy, 2, age_months="99")
    refused(boneage("evaluate", "run"), "changed since the run")
    assert (tmp_path / "run" / "metrics-test.json").read_text() == before


def test_report_is_written_again_from_the_files_of_the_run(boneage, finished_run):
    code, out, _ = boneage("report", finished_run.folder)
    assert code == 0
    assert out.strip() == str(finished_run.report_path)
    assert finished_run.report_path.exists()


def test_a_run_folder_without_a_model_is_refused(boneage, refused, tmp_path):
    (tmp_path / "run").mkdir()
    for verb in (["evaluate", "run"], ["report", "run"], ["predict", "run", "x.png", "--sex", "F"]):
        refused(boneage(*verb), "run")


@pytest.mark.slow
def test_a_run_is_released_and_every_verb_takes_its_name_and_writes_nothing_into_it(
    boneage, finished_run, cohort, monkeypatch, tmp_path
):
    out = tmp_path / "shipped_models" / "tiny-best"
    code, output, _ = boneage("release", finished_run.folder, "--out", out, "--views", 2)
    assert code == 0
    assert "MB; validation MAE" in output
    assert json.loads((out / "recipe.json").read_text())["prediction"]["views"] == 2
    monkeypatch.setattr("boneage.prediction.shipped.shipped_models", lambda: {"tiny-best": out})
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    radiograph = next((cohort.parent / "images").iterdir())
    code, output, _ = boneage("predict", "tiny-best", radiograph, "--sex", "F")
    assert (code, output.count(" months (")) == (0, 1)
    code, _, errors = boneage("report", "tiny-best")
    assert code == 2
    assert "Run: boneage evaluate tiny-best --data MANIFEST" in errors
    code, _, errors = boneage("evaluate", "tiny-best")
    assert code == 2
    assert "with --data MANIFEST" in errors
    code, output, errors = boneage("evaluate", "tiny-best", "--data", cohort, "--json")
    assert (code, json.loads(output)["n"], json.loads(output)["views"]) == (0, 6, 2)
    assert "results: runs/tiny-best" in errors
    assert boneage("report", "tiny-best")[:2] == (0, "runs/tiny-best/report.html\n")
    assert (Run(tmp_path / "runs" / "tiny-best")).result_path.exists()
    code, _, errors = boneage("evaluate", "tiny-best", "--data", cohort, "--out", "results")
    assert (code, "results: results" in errors) == (0, True)
    assert boneage("report", "results")[:2] == (0, "results/report.html\n")
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before

    code, _, errors = boneage("predict", "tiny-bets", radiograph, "--sex", "F")
    assert code == 2
    assert "Did you mean 'tiny-best'?" in errors


def test_an_unknown_storage_is_refused(boneage):
    code, _, errors = boneage("release", "run", "--out", "x", "--storage", "int8")
    assert code == 2
    assert "--storage int8: it is neither float16 nor float32" in errors


def test_a_renamed_option_is_refused_with_its_new_name(boneage):
    code, _, errors = boneage("release", "run", "--out", "x", "--most-megabytes", "9")
    assert code == 2
    assert "Use --max-megabytes" in errors
