import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from boneage.cli import main as cli
from boneage.datasets.phantom.cohort import DRAWING_VERSION
from boneage.runtime.files import write_json


@pytest.fixture
def boneage(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["boneage", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
        else:
            code = 0
        captured = capsys.readouterr()
        return code or 0, captured.out, captured.err

    return run


@pytest.fixture
def cohort_copy(cohort, tmp_path) -> Path:
    """A cohort of one's own to spoil."""
    folder = tmp_path / "mine"
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("*.store"))
    return folder / cohort.name


def edited(manifest: Path, row: int, **values) -> Path:
    table = pd.read_csv(manifest, dtype=str)
    for column, value in values.items():
        table.loc[row, column] = value
    table.to_csv(manifest, index=False)
    return manifest


def test_help_lists_every_verb_of_the_design():
    process = subprocess.run(
        [sys.executable, "-c", "from boneage.cli.main import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for verb in ("data", "train", "evaluate", "report", "predict"):
        assert f"\n  {verb} " in process.stdout


def test_one_command_trains_evaluates_reports_and_compares_with_the_baseline(
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


def test_a_recipe_with_a_phantom_needs_no_manifest(
    boneage, tiny_recipe, tiny_network, tmp_path, monkeypatch
):
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


def test_predict_answers_in_months_and_years_and_in_json(boneage, finished_run, cohort):
    radiographs = sorted((cohort.parent / "images").iterdir())[:2]
    code, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F")
    assert code == 0
    assert out.count(" months (") == 2
    code, out, _ = boneage("predict", finished_run.folder, *radiographs, "--sex", "F", "--json")
    answers = json.loads(out)["predictions"]
    assert [answer["image"] for answer in answers] == [
        str(radiograph) for radiograph in radiographs
    ]


def test_report_is_written_again_from_the_files_of_the_run(boneage, finished_run):
    code, out, _ = boneage("report", finished_run.folder)
    assert code == 0
    assert out.strip() == str(finished_run.report_path)
    assert finished_run.report_path.exists()


def test_prepare_says_where_the_store_is(boneage, cohort_copy):
    code, out, _ = boneage("data", "prepare", cohort_copy, "--size", 32)
    assert code == 0
    assert "60 images of 32 x 32 pixels" in out


def test_check_exits_with_2_and_names_every_fault(boneage, cohort_copy):
    assert boneage("data", "check", cohort_copy)[0] == 0
    images = sorted((cohort_copy.parent / "images").iterdir())
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:300])
    images[2].unlink()
    edited(cohort_copy, 4, sex="X")
    code, out, _ = boneage("data", "check", cohort_copy, "--json")
    assert code == 2
    faults = json.dumps(json.loads(out)["faults"])
    for broken in (images[0].stem, images[1].stem, images[2].stem, "'X'"):
        assert broken in faults


def check_refusal(result: tuple[int, str, str], *messages: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for message in messages:
        assert message in err
    for line in err.strip().splitlines():
        if line.startswith("error: "):
            assert "; expected " in line


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sex": "unknown"}, "unknown"),
        ({"age_months": "-3"}, "-3"),
        ({"image_id": "000001"}, "000001"),
        ({"image": "images/absent.png"}, "absent.png"),
    ],
)
def test_a_faulty_manifest_is_refused_and_nothing_is_made(
    boneage, cohort_copy, tiny_recipe, tmp_path, values, message
):
    row = 7
    manifest = edited(cohort_copy, row, **values)
    result = boneage("train", tiny_recipe, "--data", manifest, "--out", "run")
    check_refusal(result, message)
    assert not (tmp_path / "run").exists()


def test_a_table_of_years_imported_as_months_is_refused(boneage, cohort_copy, tmp_path):
    table = pd.read_csv(cohort_copy)
    table["age"] = table["age_months"] / 12
    table.to_csv("ages.csv", index=False)
    result = boneage(
        "data", "import", "table", "ages.csv", "--image", "image", "--age", "age",
        "--age-unit", "months", "--sex", "sex", "--female", "F", "--male", "M",
        "--image-root", cohort_copy.parent, "--out", "new/manifest.csv",
    )  # fmt: skip
    check_refusal(result, "--age-unit years")
    assert not (tmp_path / "new").exists()


def test_a_typo_in_a_recipe_is_refused_with_what_was_meant(boneage, cohort, tmp_path):
    recipe = tmp_path / "typo.toml"
    recipe.write_text('name = "typo"\n[training]\nepoch = 3\n')
    check_refusal(boneage("train", recipe, "--data", cohort), "'training.epoch'", "'epochs'")


def test_a_recipe_without_data_says_how_to_give_some(boneage, tiny_recipe):
    check_refusal(boneage("train", tiny_recipe), "--data MANIFEST")


def test_a_run_folder_without_a_model_is_refused(boneage, tmp_path):
    (tmp_path / "run").mkdir()
    for verb in (["evaluate", "run"], ["report", "run"], ["predict", "run", "x.png", "--sex", "F"]):
        check_refusal(boneage(*verb), "best.keras")


def test_a_manifest_that_changed_since_the_run_is_refused(
    boneage, cohort_copy, finished_run, tmp_path
):
    shutil.copytree(finished_run.folder, "run")
    info = finished_run.read_info()
    info["manifest"]["path"] = str(cohort_copy)
    write_json(tmp_path / "run" / "run.json", info)
    assert boneage("evaluate", "run")[0] == 0
    before = (tmp_path / "run" / "metrics-test.json").read_text()
    edited(cohort_copy, 2, age_months="99")
    check_refusal(boneage("evaluate", "run"), "changed since the run")
    assert (tmp_path / "run" / "metrics-test.json").read_text() == before


def test_an_unknown_sex_to_predict_for_is_refused(boneage, finished_run):
    result = boneage("predict", finished_run.folder, "x.png", "--sex", "female")
    check_refusal(result, "--sex female", "F or M")


def test_evaluate_takes_a_run_or_predictions_not_both_nor_neither(boneage, finished_run):
    check_refusal(boneage("evaluate"), "one of the two")
    both = boneage("evaluate", finished_run.folder, "--predictions", "x.csv")
    check_refusal(both, "one of the two")
    check_refusal(
        boneage("evaluate", "--predictions", "x.csv", "--split", "val"), "no --data, --split or"
    )


def test_prepare_takes_a_size_or_a_recipe(boneage, cohort, tiny_recipe):
    result = boneage("data", "prepare", cohort, "--size", 64, "--recipe", tiny_recipe)
    check_refusal(result, "either a size or --recipe")


def test_an_out_that_is_a_file_or_can_not_be_made_is_refused_before_anything_is_prepared(
    boneage, cohort_copy, tiny_recipe, tmp_path
):
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        result = boneage("train", tiny_recipe, "--data", cohort_copy, "--out", out)
        check_refusal(result, out, "--out")
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
    assert "interrupted; to go on: boneage train --resume run" in err


def test_a_gpu_that_is_required_and_absent_is_refused_before_anything_is_made(
    boneage, cohort, tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr("boneage.training.trainer.accelerator", lambda: None)
    code, _, said = boneage(
        "train", tiny_recipe, "--data", cohort, "--out", tmp_path / "run", "--require-gpu"
    )
    assert code == 2
    assert "--require-gpu: Keras sees no GPU; expected a GPU that it can compute on." in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "expected a RECIPE, or --resume RUN"),
        (("--resume", "absent"), "--resume absent: that can't be done; expected a run folder"),
        (("--resume", ".", "--out", "x"), "no --out and no --init beside it"),
    ],
)
def test_a_resume_of_nothing_is_refused(boneage, arguments, told):
    code, _, said = boneage("train", *arguments)
    assert code == 2
    assert told in said


def test_resuming_with_another_recipe_manifest_or_setting_is_refused(
    boneage, finished_run, tiny_recipe, cohort, tmp_path
):
    def refused(*arguments) -> str:
        code, _, said = boneage("train", "--resume", finished_run.folder, *arguments)
        assert code == 2
        return said

    before = {path: path.stat().st_mtime_ns for path in finished_run.folder.iterdir()}
    assert "training.epochs is 9, was 2" in refused("--set", "training.epochs=9")
    assert "seed is 7, was 3" in refused(tiny_recipe, "--seed", "7")
    table = pd.read_csv(cohort, dtype=str)
    table["image"] = [str(cohort.parent / image) for image in table["image"]]
    table.to_csv(tmp_path / "other.csv", index=False)
    assert "not what the run began with" in refused("--data", tmp_path / "other.csv")
    assert {path: path.stat().st_mtime_ns for path in finished_run.folder.iterdir()} == before
