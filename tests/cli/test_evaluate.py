from __future__ import annotations

import json
import shutil

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
        refused(boneage(*verb), "best.keras")
