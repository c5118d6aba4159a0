from __future__ import annotations

import json
import re
import shutil

import pytest

from boneage.run import Run
from boneage.runtime.files import read_json, write_json


def test_evaluate_prints_json_and_nothing_else(boneage, finished_run):
    code, out, err = boneage("evaluate", finished_run.folder, "--split", "val", "--json")
    assert code == 0
    assert "note: the validation images chose the model's epoch, so their error is too low" in err
    metrics = json.loads(out)
    assert metrics["n"] == 6
    assert metrics["mae_months"]["low"] <= metrics["mae_months"]["value"]


def test_evaluate_scores_predictions_of_any_model(boneage, tmp_path):
    rows = [f"{row},{60 + row},{'FM'[row % 2]},{66 + row}" for row in range(8)]
    header = "image_id,age_months,sex,predicted_age_months"
    (tmp_path / "mine.csv").write_text("\n".join([header, *rows]))
    code, out, _ = boneage("evaluate", "--predictions", "mine.csv")
    assert code == 0
    assert "MAE, months" in out
    assert re.search(r"girls +4  6.00 \[6.00, 6.00\]  \+6.00", out)
    assert re.search(r"label 5 to 10 years +8 ", out)
    (tmp_path / "mine.csv").write_text("\n".join([header, *rows, "8,60,F,-500", "9,60,M,245"]))
    code, out, err = boneage("evaluate", "--predictions", "mine.csv")
    assert code == 2
    assert "MAE, months" in out
    assert "mine.csv: 1 of 10 answers are no bone age from 0 to 240 months" in err


def test_evaluate_groups_by_a_column_and_counts_patients(boneage, refused, tmp_path):
    rows = [f"{n},{60 + n},{'FM'[n % 2]},{66 + n},{'AB'[n // 6]},p{n % 4}" for n in range(8)]
    header = "image_id,age_months,sex,predicted_age_months,machine,patient_id"
    (tmp_path / "mine.csv").write_text("\n".join([header, *rows]))
    code, out, _ = boneage("evaluate", "--predictions", "mine.csv", "--by", "machine")
    assert code == 0
    assert "8 images of 4 patients; intervals are 95 % (bootstrap by patient)" in out
    assert re.search(r"machine: A +6  6.00 \[6.00, 6.00\] +\+6.00 .*few patients", out)
    assert "slope of label on answer" in out
    answer = boneage("evaluate", "--predictions", "mine.csv", "--by", "race")
    refused(answer, "there is no column 'race'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "Name one of them"),
        (["evaluate", "run", "--predictions", "x.csv"], "Name one of them"),
        (
            ["evaluate", "--predictions", "x.csv", "--split", "val"],
            "Only a run has --data, --split, --run",
        ),
        (["evaluate", "run"], "run"),
        (["report", "run"], "run"),
        (["predict", "run", "x.png", "--sex", "F"], "run"),
        (["release", "run", "--out", "x", "--storage", "int8"], "neither float16 nor float32"),
        (["release", "run", "--out", "x", "--most-megabytes", "9"], "Use --max-megabytes"),
        (["release", "run", "--out", "/dev/null/x"], "no file can be written to this folder"),
    ],
)
def test_wrong_arguments_and_a_folder_without_a_model_are_refused(
    boneage, refused, tmp_path, arguments, message
):
    (tmp_path / "run").mkdir()
    refused(boneage(*arguments), message)


def test_what_run_json_lacks_is_reported_before_a_prediction(
    boneage, refused, finished_run, tmp_path
):
    copy = shutil.copytree(finished_run.folder, tmp_path / "copy")
    info = read_json(copy / "run.json")
    del info["provenance"], info["manifest"]["counts"]
    write_json(copy / "run.json", info)
    answer = boneage("evaluate", "copy", "--split", "train")
    refused(answer, "the key 'provenance' is missing", "the key 'manifest.counts' is missing")
    assert not (copy / "metrics-train.json").exists()


def test_report_is_written_again_from_the_files_of_the_run(boneage, finished_run):
    code, out, _ = boneage("report", finished_run.folder)
    assert code == 0
    assert out.strip() == str(finished_run.report_path)
    assert finished_run.report_path.exists()


def test_a_run_is_released_and_every_verb_takes_its_name_and_writes_nothing_into_it(
    boneage, refused, finished_run, cohort, monkeypatch, tmp_path
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
    refused(boneage("report", "tiny-best"), "Run: boneage evaluate tiny-best --data MANIFEST")
    refused(boneage("evaluate", "tiny-best"), "with --data MANIFEST")
    code, output, errors = boneage("evaluate", "tiny-best", "--data", cohort, "--json")
    assert (code, json.loads(output)["n"], json.loads(output)["views"]) == (0, 6, 2)
    assert "results: runs/tiny-best" in errors
    assert boneage("report", "tiny-best")[:2] == (0, "runs/tiny-best/report.html\n")
    assert Run(tmp_path / "runs" / "tiny-best").result_path.exists()
    code, _, errors = boneage("evaluate", "tiny-best", "--data", cohort, "--out", "results")
    assert (code, "results: results" in errors) == (0, True)
    assert boneage("report", "results")[:2] == (0, "results/report.html\n")
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    misspelled = boneage("predict", "tiny-bets", radiograph, "--sex", "F")
    refused(misspelled, "Did you mean 'tiny-best'?")


def test_several_runs_are_scored_together_and_what_each_knew_is_reported(
    boneage, refused, finished_run, cohort, tmp_path
):
    copy = Run(shutil.copytree(finished_run.folder, tmp_path / "copy"))
    init = {"name": "gone", "digest": "0", "folder": str(tmp_path / "gone")}
    write_json(copy.info_path, copy.read_info() | {"init": init})
    text = cohort.read_text().replace("\r", "").splitlines()
    images = str(cohort.parent / "images")
    text = [line.replace(",images/", f",{images}/") for line in text]
    (tmp_path / "other.csv").write_text("\n".join([*text, ""]))
    runs = ("evaluate", finished_run.folder, "--run", "copy")
    refused(boneage(*runs), "the folder of the results of 2 runs is missing")
    code, out, err = boneage(
        *runs, "--data", "other.csv", "--split", "val", "--out", "mean", "--json"
    )
    assert (code, json.loads(out)["n"]) == (0, 6)
    for name in (finished_run.folder.name, "copy"):
        assert f"note: {name}: 6 of these 6 images chose the model's epoch, so the error" in err
    by_id = "by their ids, at most 6 of these 6 images trained or chose the model or a model that"
    assert f"note: copy: {by_id} it started from. If they are the same images" in err
    assert "note: copy: the images of a model that it started from are unknown." in err
    assert boneage("report", "mean")[:2] == (0, "mean/report.html\n")
    page = (tmp_path / "mean" / "report.html").read_text()
    assert "tiny (mean of 2 runs)" in page
