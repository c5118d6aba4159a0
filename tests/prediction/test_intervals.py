import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError
from boneage.prediction.answers import Interval
from boneage.prediction.engines import Outputs
from boneage.prediction.intervals import (
    MAX_SCORES,
    IntervalModel,
    RunIntervals,
    Spread,
    mean_bounds,
    new_intervals,
    read_intervals,
)
from boneage.prediction.predict import Estimator
from boneage.prediction.shipped import open_run
from boneage.recipe import Framing, Recipe
from boneage.run import Run
from boneage.runtime.files import read_json, write_json

SPREAD = Spread(months=6.0, at_birth_months=2.0, by_age=0.04)


@pytest.fixture
def make_run(tmp_path):
    """Makes run folders of a head, without a network."""

    def make(name: str = "run", head: str = "distribution") -> Run:
        run = Run(tmp_path / name)
        recipe = Recipe(name=name, framing=Framing(size=32), model={"head": head})
        write_json(run.recipe_path, recipe.model_dump(mode="json"))
        write_json(run.info_path, {"name": name})
        run.best_path.write_text(name)
        return run

    return make


def ends(model: IntervalModel, months: float, level: float, views: int = 1):
    found = model.bounds(np.array([months]), None, level, views, 1)
    return None if found is None else (found[0][0], found[1][0])


def cohort(n: int, seed: int):
    """Labels, answers, and variances that say how far each answer may be off."""
    rng = np.random.default_rng(seed)
    months = rng.uniform(30, 200, n)
    deviation = rng.uniform(4, 14, n)
    labels = months + deviation * rng.standard_t(5, n)
    return labels, months, deviation**2 + SPREAD.at(months) ** 2


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [99, 100, 1132])
def test_half_widths_are_those_of_crepes(n, level):
    crepes = pytest.importorskip("crepes", reason="crepes is not installed")
    labels, months, variance = cohort(n, n)
    model = IntervalModel("", SPREAD).with_fit(labels, months, variance, 1, 1)
    deviations = model.standard_deviations(months, variance)
    theirs = crepes.ConformalRegressor().fit(residuals=labels - months, sigmas=deviations)
    # Their rank is int(0.1 * 1000): rounding in binary may make it 99.
    expected = theirs.predict_int(months, sigmas=deviations, confidence=level - 1e-12)
    found = np.stack(model.bounds(months, variance, level, 1, 1), axis=1)
    np.testing.assert_allclose(found, expected.clip(0, 240), atol=1e-3)


def test_intervals_hold_the_share_that_their_level_says_and_widen_with_the_uncertainty():
    model = IntervalModel("", SPREAD).with_fit(*cohort(1000, 0), 6, 1)
    labels, months, variance = cohort(20_000, 1)
    for level in (0.5, 0.8, 0.9, 0.95):
        low, high = model.bounds(months, variance, level, 6, 1)
        assert np.mean((low <= labels) & (labels <= high)) == pytest.approx(level, abs=0.03)
        sure = variance < 80
        held = ((low <= labels) & (labels <= high))[sure]
        assert held.mean() == pytest.approx(level, abs=0.03)
        assert np.median((high - low)[sure]) < np.median((high - low)[~sure])


def test_a_head_of_one_number_has_equally_wide_intervals(make_run):
    labels, months, _ = cohort(9, 0)
    run = make_run(head="number")
    model = new_intervals(run).with_fit(labels, months, None, 1, 1)
    assert model.spread is None
    low, high = model.bounds(np.array([50.0, 100.0]), None, 0.8, 1, 1)
    expected = 2 * np.sort(np.abs(labels - months))[7]  # the eighth of nine: 0.8 * 10
    np.testing.assert_allclose(high - low, expected, atol=1e-3)


def test_the_spread_of_the_training_is_no_uncertainty_of_the_answer():
    model = IntervalModel("", SPREAD)
    months, variance = np.array([0.0, 50.0, 100.0, 200.0]), np.full(4, 100.0)
    widths = np.array([2.0, 4.0, 6.0, 6.0])
    np.testing.assert_allclose(model.standard_deviations(months, variance) ** 2, 100 - widths**2)
    np.testing.assert_allclose(model.standard_deviations(months, variance / 100), 3.0)
    constant = Spread(months=5.0, at_birth_months=2.0, by_age=0.0)
    np.testing.assert_allclose(constant.at(months), 5.0)


def test_intervals_end_at_possible_ages():
    model = IntervalModel("", None).with_fit(np.full(30, 20.0), np.zeros(30), None, 1, 1)
    assert ends(model, 5.0, 0.9) == (0.0, 25.0)
    assert ends(model, 238.0, 0.9) == (218.0, 240.0)
    assert ends(model, 5.0, 0.9, 2) is None


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90.0, math.nan])
def test_a_level_is_a_share(level):
    model = IntervalModel("", None).with_fit(np.zeros(30), np.zeros(30), None, 1, 1)
    with pytest.raises(InputError, match="no level of an interval"):
        ends(model, 5.0, level)


def test_a_level_for_which_there_are_too_few_validation_images_is_refused():
    model = IntervalModel("", None).with_fit(np.zeros(9), np.arange(9.0), None, 1, 1)
    assert ends(model, 100.0, 0.9) == (92.0, 108.0)
    with pytest.raises(InputError, match=r"0\.95 can't be made from 9 .* at most 0\.9\."):
        ends(model, 100.0, 0.95)


def test_the_file_is_bounded_and_its_intervals_are_never_narrower_than_those_of_all_scores():
    n = 2 * MAX_SCORES + 501
    scores = np.arange(1.0, n + 1)
    model = IntervalModel("", None).with_fit(np.zeros(n), scores, None, 1, 1)
    (fit,) = model.fits
    assert (fit.n, len(fit.scores)) == (n, MAX_SCORES)
    for level in (0.001, 0.3333, 0.8, 0.9, 0.95, 0.9997):
        exact = math.ceil((n + 1) * level)
        assert 0 <= fit.quantile(level) - exact < 3
    with pytest.raises(InputError, match="can't be made"):
        fit.quantile(1 - 1e-5)


def test_the_file_is_read_as_written_and_names_no_image(make_run):
    run = make_run()
    model = new_intervals(run).with_fit(*cohort(40, 0), 6, 1).with_fit(*cohort(50, 1), 1, 4)
    model = model.with_fit(*cohort(60, 2), 6, 1)  # in place of the first
    model.write(run)
    assert read_intervals(run) == model
    assert [(fit.views, fit.phases, fit.n) for fit in model.fits] == [(1, 4, 50), (6, 1, 60)]
    content = read_json(run.intervals_path)
    assert set(content) == {"model", "spread", "fits"}
    assert set(content["fits"][0]) == {"views", "phases", "n", "scores"}
    assert len(run.intervals_path.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n", 41, "40 scores of 41 images"),
        ("n", 0, "fits.0.n is 0"),
        ("scores", [0.1] * 39 + [0.05], "not sorted"),
        ("scores", [0.1] * 39 + [float("nan")], "expected a finite number"),
        ("scores", [-0.1] + [0.1] * 39, "fits.0.scores.0"),
        ("scores", [0.1] * (MAX_SCORES + 1), "scores"),
        ("views", True, "views"),
    ],
)
def test_a_damaged_file_is_refused(make_run, key, value, message):
    run = make_run()
    new_intervals(run).with_fit(*cohort(40, 0), 6, 1).write(run)
    content = read_json(run.intervals_path)
    content["fits"][0][key] = value

    run.intervals_path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_intervals(run)


def test_intervals_of_another_model_are_not_used(make_run):
    run = make_run()
    assert read_intervals(run) is None
    new_intervals(run).with_fit(*cohort(40, 0), 6, 1).write(run)
    assert read_intervals(run) is not None
    run.best_path.write_text("resumed")
    assert read_intervals(run) is None
    run.best_path.unlink()  # an installation may have the ONNX file only
    assert read_intervals(run) is not None


def test_intervals_of_several_runs_are_the_mean_of_their_ends():
    ends = [(np.array([80.0]), np.array([100.0])), (np.array([90.0]), np.array([120.0]))]
    low, high = mean_bounds(ends)
    assert (low.item(), high.item()) == (85.0, 110.0)
    assert mean_bounds([*ends, None]) is None
    assert mean_bounds([]) is None


class Unsure:
    """An engine that answers 100 months with a variance of 136."""

    def predict(self, images, gender):
        return Outputs(np.full(len(images), 100.0), np.full(len(images), 136.0))


def test_answers_have_the_mean_interval_of_their_runs(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("boneage.prediction.predictor.load_engine", lambda run: Unsure())
    hand = tmp_path / "hand.png"
    cv2.imwrite(str(hand), phantom(5, 0, 128).image)
    runs = [make_run("first"), make_run("second")]
    months = np.full(39, 100.0)
    for run, error in zip(runs, (10.0, 20.0), strict=True):
        model = new_intervals(run).with_fit(months + error, months, np.full(39, 136.0), 1, 1)
        model.write(run)
    answer = Estimator(runs[0]).predict(hand, "F")
    assert (answer.interval.level, answer.interval.low, answer.interval.high) == (0.9, 90, 110)
    assert str(answer.interval) == "90 % interval 90 to 110"
    estimator = Estimator(runs, level=0.8)
    assert estimator.notes == ()
    assert estimator.predict(hand, "F").interval == Interval(0.8, 85.0, 115.0)
    both = estimator.predict(hand, None)
    assert [each.interval for each in both.estimates] == [Interval(0.8, 85.0, 115.0)] * 2
    with pytest.raises(InputError, match="39 validation images"):
        Estimator(runs, level=0.99)
    few = make_run("few")
    new_intervals(few).with_fit(months[:6], months[:6] + 1, np.full(6, 136.0), 1, 1).write(few)
    estimator = Estimator(few)  # nobody asked for 90 %, so its answer stands
    assert estimator.predict(hand, "F").interval is None
    assert "can't be made from 6 validation images" in estimator.notes[0]
    without = Estimator(runs, views=2)
    assert without.predict(hand, "F").interval is None
    assert len(without.notes) == 2
    assert without.notes[0].endswith(f"boneage evaluate {runs[0].folder} --split val --views 2")


def test_a_released_model_names_the_views_that_have_intervals(make_run):
    run = make_run()
    new_intervals(run).with_fit(*cohort(40, 0), 6, 1).write(run)
    write_json(run.folder / "release.json", {"name": "run"})
    assert RunIntervals(run, 6, 1).note == ""
    assert RunIntervals(run, 1, 1).note.endswith("has none for 1 view. Choose --views 6.")


@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_shipped_model_has_intervals_for_every_number_of_views(views):
    run = open_run(Path("rsna-best"))
    intervals = RunIntervals(run, views, 1)
    assert (intervals.n, intervals.note) == (1242, "")
    low, high = intervals.bounds(np.array([118.8]), np.array([136.0]), 0.9)
    assert 25 < high.item() - low.item() < 40
    tested = read_json(run.result_path)["metrics"]["test"]
    assert 0.88 < tested["coverage_90"]["value"] < 0.92
