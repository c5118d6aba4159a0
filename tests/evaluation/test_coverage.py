from functools import partial

import cv2
import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import write_manifest
from boneage.evaluation.coverage import bounds_by_percent, measure_random_splits
from boneage.evaluation.metrics import coverage_rows, score
from boneage.evaluation.records import read_metrics
from boneage.evaluation.report import write_report
from boneage.evaluation.result import write_result
from boneage.evaluation.scoring import evaluate_run, fit_intervals
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import IntervalModel, RunIntervals, read_intervals
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json

PLAIN = IntervalModel("", None)


class Unsure:
    """An engine that answers 100 months with a variance of 136."""

    def predict(self, images, gender):
        return Outputs(np.full(len(images), 100.0), np.full(len(images), 136.0))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A run with 80 validation images, whose answers are off by 1 to 80 months, and 40 others."""
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Unsure())
    monkeypatch.setattr("boneage.evaluation.scoring.score", partial(score, bootstrap=100))
    folder = tmp_path / "data"
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    for split in ("train", "val", "test"):
        cv2.imwrite(str(folder / f"{split}.png"), image)
    errors = np.concatenate([np.arange(1, 81), np.arange(2, 82, 2)])
    table = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(121)],
            "image": ["train.png"] + ["val.png"] * 80 + ["test.png"] * 40,
            "age_months": [100.0, *(100.0 + errors)],
            "sex": ["F", *["F", "M"] * 60],
            "split": ["train"] + ["val"] * 80 + ["test"] * 40,
        }
    )
    manifest = write_manifest(table, folder / "manifest.csv")
    opened = Run(tmp_path / "run")
    recipe = Recipe(name="small", framing=Framing(size=32), model={"head": "distribution"})
    write_json(opened.recipe_path, recipe.model_dump(mode="json"))
    counts = {"train": 1, "val": 80, "test": 40}
    recorded = {"path": str(manifest.path), "digest": manifest.digest, "counts": counts}
    write_json(opened.info_path, {"name": "small", "manifest": recorded, "provenance": {}})
    opened.best_path.write_text("model")
    return opened


def test_scores_have_the_share_of_labels_in_their_interval_and_its_width():
    ages, answers = np.arange(100.0, 110.0), np.arange(100.0, 110.0)
    ends = {80: (answers - 1, answers + np.arange(10.0)), 90: (answers + 1, answers + 2)}
    metrics = score(ages, answers, ["F"] * 4 + ["M"] * 6, intervals=ends, bootstrap=100)
    assert metrics["coverage_80"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert metrics["coverage_90"]["value"] == 0.0
    assert metrics["median_width_80_months"] == 5.5
    girls = metrics["groups"]["sex"]["F"]
    assert (girls["coverage_80"]["value"], girls["median_width_80_months"]) == (1.0, 2.5)
    empty = metrics["groups"]["answer_band"]["180+"]
    assert (empty["coverage_80"]["value"], empty["median_width_80_months"]) == (None, None)
    assert [words for words, _ in coverage_rows(metrics)] == [
        "All images", "Girls", "Boys", "Answer 5 to 10 years",
    ]  # fmt: skip
    assert "coverage_80" not in score(ages, answers, ["F"] * 10, bootstrap=100)


def test_random_splits_fit_one_half_and_measure_the_other():
    rng = np.random.default_rng(0)
    months = rng.uniform(60, 180, 1000)
    labels = months + rng.normal(0, 10, 1000)
    found = measure_random_splits(PLAIN, labels, Outputs(months), None)
    assert (found["splits"], found["n"]) == (50, 1000)
    assert found["coverage_90"]["value"] == pytest.approx(0.9, abs=0.01)
    assert found["coverage_90"]["low"] < 0.89
    assert found["coverage_90"]["high"] > 0.91
    assert found["median_width_90_months"]["value"] == pytest.approx(2 * 16.4, abs=1.5)
    assert measure_random_splits(PLAIN, labels, Outputs(months), None) == found
    assert measure_random_splits(PLAIN, labels[:39], Outputs(months[:39]), None) == {}
    few = measure_random_splits(PLAIN, labels[:40], Outputs(months[:40]), None)
    assert set(few) == {
        "splits", "n", "coverage_80", "median_width_80_months", "coverage_90",
        "median_width_90_months", "coverage_95", "median_width_95_months",
    }  # fmt: skip


def test_a_patient_is_in_one_half_of_a_random_split():
    # Each patient has an error of their own: if half of their images were fitted, the rest fits.
    patients = np.repeat(np.arange(50), 20).astype(str)
    errors = np.repeat(np.arange(50.0), 20)
    months = np.full(1000, 100.0)
    found = measure_random_splits(PLAIN, months + errors, Outputs(months), patients)
    assert found["coverage_80"]["high"] - found["coverage_80"]["low"] > 0.1


def test_a_run_s_own_validation_fits_its_intervals_and_its_test_measures_them(run):
    metrics = evaluate_run(run, split=["val", "test"], progress=False)
    model = read_intervals(run)
    (fit,) = model.fits
    assert (fit.views, fit.phases, fit.n) == (1, 1, 80)
    assert fit.quantile(0.8) == pytest.approx(6.5, abs=0.01)  # the 65th of 81, over 10 months
    val, test = (read_metrics(run.metrics_path(split)) for split in ("val", "test"))
    assert "coverage_90" not in val
    assert "coverage_90" not in metrics  # half of these images are fitted
    assert test["interval_images"] == [80]
    assert test["coverage_80"]["value"] == 32 / 40
    assert test["median_width_80_months"] == pytest.approx(130, abs=0.1)
    assert metrics["interval_splits"]["n"] == 120
    table = pd.read_csv(run.predictions_path("test"))
    np.testing.assert_allclose(table["predicted_sd_months"], 10.0)
    result = read_json(write_result(run))["metrics"]
    assert result["test"]["groups"]["sex"]["M"]["coverage_80"]["value"] == 0.8
    assert result["val-test"]["interval_splits"]["splits"] == 50
    page = write_report(run).read_text()
    assert "fitted to\n80 validation images" in page
    assert "<td>80.0 % [" in page


def test_a_split_that_is_scored_later_uses_the_fit_and_others_leave_it_alone(run, tmp_path):
    assert "coverage_90" not in evaluate_run(run, progress=False)
    evaluate_run(run, split="val", views=2, progress=False)
    assert "coverage_90" not in evaluate_run(run, progress=False)  # that is for one view
    evaluate_run(run, split="val", progress=False)
    assert "coverage_90" in evaluate_run(run, progress=False)
    before = run.intervals_path.read_bytes()
    path = tmp_path / "data" / "other.csv"
    table = pd.read_csv(tmp_path / "data" / "manifest.csv", dtype=str)
    write_manifest(table.assign(image_id="x" + table["image_id"]), path)
    metrics = evaluate_run(run, data=path, split="val", progress=False)
    assert metrics["coverage_80"]["value"] == 65 / 80
    elsewhere = tmp_path / "elsewhere"
    evaluate_run(run, split="val", out=elsewhere, progress=False)
    assert run.intervals_path.read_bytes() == before
    assert not (elsewhere / "intervals.json").exists()


def test_intervals_are_fitted_for_other_views_too(run):
    evaluate_run(run, split="val", progress=False)
    fit_intervals(run, (1, 2, 6), 1, progress=False)
    assert [(fit.views, fit.n) for fit in read_intervals(run).fits] == [(1, 80), (2, 80), (6, 80)]


def test_the_levels_that_the_validation_images_support_are_measured(run):
    members = [RunIntervals(run, 1, 1)]
    outputs = [Outputs(np.full(3, 100.0))]
    assert bounds_by_percent(members, outputs) == {}
    PLAIN.with_fit(np.arange(9.0), np.zeros(9), None, 1, 1).write(run)
    model = read_intervals(run)
    assert model is None  # of another model
    run.best_path.unlink()
    members = [RunIntervals(run, 1, 1)]
    assert members[0].n == 9
    assert list(bounds_by_percent(members, outputs)) == [80, 90]
