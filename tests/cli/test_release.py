from __future__ import annotations

import json

import pytest

from boneage.run import Run


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
