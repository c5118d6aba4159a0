from __future__ import annotations

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.evaluation import local_calibration
from boneage.evaluation.local_calibration import LocalFit, refuse_without_gain

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def fit_corrections(*arrays: object) -> LocalFit:
    return local_calibration.fit_corrections(*arrays, bootstrap=500)


def hospital(count: int, *, offset: float = 0.0, slope: float = 1.0, seed: int = 0) -> Arrays:
    """Answers, labels and sexes of a hospital where label = slope x answer + offset, and noise."""
    generator = np.random.default_rng(seed)
    answers = generator.uniform(24, 200, count)
    sexes = np.where(np.arange(count) % 2, "F", "M")
    return answers, slope * answers + offset + generator.normal(0, 9, count), sexes


def test_an_offset_is_found_and_the_gain_is_that_of_children_left_out() -> None:
    answers, labels, sexes = hospital(300, offset=6)
    fit = fit_corrections(answers, labels, sexes)
    for sex, correction in fit.corrections.items():
        rows = sexes == sex
        assert (correction.kind, correction.slope) == ("offset", 1.0)
        assert correction.intercept_months == pytest.approx((labels - answers)[rows].mean())
    others = np.arange(300) != 7  # the child left out is corrected by the others of its sex
    expected = answers[7] + (labels - answers)[others & (sexes == sexes[7])].mean()
    assert fit.left_out[7] == pytest.approx(expected)
    measured = fit.measured
    before, after = measured["mae_before_months"], measured["mae_after_months"]
    assert after == pytest.approx(np.abs(fit.left_out - labels).mean())
    assert measured["gain_months"]["value"] == pytest.approx(before - after)
    assert measured["gain_months"]["low"] > 0
    assert measured["sex"]["F"]["n"] == 150
    refuse_without_gain("here", measured)


def test_a_line_is_fitted_only_where_it_is_better_than_an_offset() -> None:
    answers, labels, sexes = hospital(300, offset=12, slope=0.9)
    boys = sexes == "M"
    labels[boys] = answers[boys] + 5 + np.random.default_rng(1).normal(0, 9, boys.sum())
    fit = fit_corrections(answers, labels, sexes)
    assert {sex: each.kind for sex, each in fit.corrections.items()} == {
        "F": "linear",
        "M": "offset",
    }
    slope, intercept = np.polyfit(answers[~boys], labels[~boys], 1)
    line = fit.corrections["F"]
    assert (line.slope, line.intercept_months) == pytest.approx((slope, intercept))
    child = int(np.flatnonzero(~boys)[3])
    others = ~boys & (np.arange(300) != child)
    left_out = np.polyval(np.polyfit(answers[others], labels[others], 1), answers[child])
    assert fit.left_out[child] == pytest.approx(left_out)


def test_what_would_not_help_is_refused_with_the_measurement() -> None:
    fit = fit_corrections(*hospital(200))
    with pytest.raises(InputError, match="would not help: MAE .* n = 200. Use the model as it is"):
        refuse_without_gain("here", fit.measured)
    gain = {"value": 0.2, "low": -0.1, "high": 0.5}
    with pytest.raises(InputError, match="about 450 children could show it"):
        refuse_without_gain("here", fit.measured | {"gain_months": gain})


def test_no_bias_is_rarely_taken_for_one() -> None:
    accepted = sum(
        fit_corrections(*hospital(120, seed=seed)).measured["gain_months"]["low"] > 0
        for seed in range(8)
    )
    assert accepted == 0


def test_radiographs_of_one_child_are_left_out_together() -> None:
    answers, labels, sexes = (np.repeat(each, 2) for each in hospital(120, offset=6))
    patients = np.repeat([str(number) for number in range(120)], 2)
    twice, once = (fit_corrections(answers, labels, sexes, each) for each in (patients, None))
    single = fit_corrections(answers[::2], labels[::2], sexes[::2])
    assert twice.measured["children"] == 120
    assert twice.left_out[::2] == pytest.approx(single.left_out)
    assert not np.allclose(once.left_out, twice.left_out)
    wide, narrow = (each.measured["gain_months"] for each in (twice, once))
    assert wide["high"] - wide["low"] > 1.2 * (narrow["high"] - narrow["low"])


@pytest.mark.parametrize(("boys", "girls"), [(99, 0), (60, 39)])
def test_too_few_children_are_refused(boys, girls) -> None:
    answers, labels, _ = hospital(99, offset=20)
    sexes = np.array(["M"] * boys + ["F"] * girls)
    with pytest.raises(InputError, match="there are 99 children.*at least 100, and 30 of a sex"):
        fit_corrections(answers, labels, sexes)


def test_a_sex_of_few_children_is_not_corrected() -> None:
    answers, labels, _ = hospital(120, offset=20)
    sexes = np.array(["M"] * 91 + ["F"] * 29)
    fit = fit_corrections(answers, labels, sexes)
    assert {sex: each.kind for sex, each in fit.corrections.items()} == {
        "F": "none",
        "M": "offset",
    }
    assert fit.left_out[sexes == "F"] == pytest.approx(answers[sexes == "F"])


def test_the_learning_curve_says_how_many_children_are_enough() -> None:
    fit = fit_corrections(*hospital(400, offset=10))
    curve = fit.measured["learning_curve"]
    assert [point["children"] for point in curve] == [10, 20, 30, 50, 75, 100, 150, 200, 300]
    maes = [point["mae_months"] for point in curve]
    assert maes[0] > maes[3] > maes[-1] - 0.1
    assert all(point["low"] < point["mae_months"] < point["high"] for point in curve)
    assert fit.measured["enough_children"] in (30, 50, 75, 100)
    # MAE of a mean over m of each sex: that of the noise, times the root of 1 + 1/m.
    assert maes[0] == pytest.approx(9 * np.sqrt(2 / np.pi) * np.sqrt(1 + 1 / 5), rel=0.05)


def test_answers_that_are_all_the_same_get_no_line() -> None:
    _, labels, sexes = hospital(200)
    fit = fit_corrections(np.full(200, 100.0), labels, sexes)
    assert {each.slope for each in fit.corrections.values()} == {1.0}
