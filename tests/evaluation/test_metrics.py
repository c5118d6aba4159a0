from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage.errors import InputError
from boneage.evaluation.metrics import (
    baseline_median_by_sex,
    format_interval,
    group_words,
    is_few,
    score,
)

AGE = np.array([30.0, 60.0, 119.9, 120.0, 180.0, 200.0])
PREDICTED = np.array([36.0, 48.0, 119.9, 108.0, 204.0, 201.0])
SEX = ["F", "M", "F", "M", "F", "M"]
KOSIK = Path(__file__).parents[3] / "shared/real/published/kosik-xception-rsna-val.csv"


def test_values_by_hand() -> None:
    metrics = score(AGE, PREDICTED, SEX, bootstrap=200)
    # errors: +6, -12, 0, -12, +24, +1
    assert metrics["n"] == 6
    assert metrics["mae_months"]["value"] == pytest.approx(55 / 6)
    assert metrics["rmse_months"]["value"] == pytest.approx(np.sqrt(901 / 6))
    assert metrics["median_absolute_error_months"]["value"] == pytest.approx(9.0)
    assert metrics["bias_months"]["value"] == pytest.approx(7 / 6)  # predicted - true
    assert metrics["within_6_months"]["value"] == pytest.approx(3 / 6)  # 6 itself is within 6
    assert metrics["within_12_months"]["value"] == pytest.approx(5 / 6)
    assert metrics["within_24_months"]["value"] == pytest.approx(1.0)
    limits, difference = metrics["limits_of_agreement_months"], PREDICTED - AGE
    assert limits["low"] == pytest.approx(difference.mean() - 1.96 * difference.std(ddof=1))
    assert limits["high"] == pytest.approx(difference.mean() + 1.96 * difference.std(ddof=1))
    counts = {name: group["n"] for name, group in metrics["groups"]["age_band"].items()}
    assert counts == {"0-60": 1, "60-120": 2, "120-180": 1, "180+": 2}  # 120.0 is in 120-180


def test_a_group_scores_as_its_own_cohort_would() -> None:
    whole = score(AGE, PREDICTED, SEX, bootstrap=100, seed=3)
    girls = [index for index, sex in enumerate(SEX) if sex == "F"]
    alone = score(AGE[girls], PREDICTED[girls], ["F"] * 3, bootstrap=100, seed=3)
    alone.pop("groups")
    assert whole["groups"]["sex"]["F"] == alone


def test_empty_and_single_groups_keep_their_keys_and_have_no_interval() -> None:
    metrics = score([100.0], [110.0], ["F"], bootstrap=10)
    assert metrics["mae_months"] == {"value": 10.0, "low": None, "high": None}
    assert set(metrics["limits_of_agreement_months"].values()) == {None}
    boys = metrics["groups"]["sex"]["M"]
    assert boys["n"] == 0
    assert boys["mae_months"]["value"] is None
    assert set(boys) == set(metrics) - {"groups"}
    json.dumps(metrics, allow_nan=False)


def test_intervals_are_seeded_and_hold_the_value() -> None:
    first = score(AGE, PREDICTED, SEX, bootstrap=500, seed=1)
    assert first == score(AGE, PREDICTED, SEX, bootstrap=500, seed=1)
    assert first != score(AGE, PREDICTED, SEX, bootstrap=500, seed=2)
    mae = first["mae_months"]
    assert mae["low"] <= mae["value"] <= mae["high"]


def test_intervals_agree_with_the_normal_theory_on_a_large_cohort() -> None:
    generator = np.random.default_rng(0)
    age = generator.uniform(0, 228, 4000)
    error = generator.normal(1.0, 8.0, 4000)
    bias = score(age, age + error, ["F"] * 4000, bootstrap=1000)["bias_months"]
    half = 1.96 * error.std(ddof=1) / np.sqrt(4000)
    assert bias["high"] - bias["value"] == pytest.approx(half, rel=0.12)
    assert bias["value"] - bias["low"] == pytest.approx(half, rel=0.12)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 240), st.floats(-50, 300), st.sampled_from("FM")),
        min_size=2,
        max_size=30,
    )
)
def test_relations_that_always_hold(rows: list[tuple[float, float, str]]) -> None:
    age, predicted, sex = (list(column) for column in zip(*rows, strict=True))
    metrics = score(age, predicted, sex, bootstrap=20)
    mae, rmse = metrics["mae_months"]["value"], metrics["rmse_months"]["value"]
    assert abs(metrics["bias_months"]["value"]) <= mae + 1e-9
    assert mae <= rmse + 1e-9
    shares = [metrics[f"within_{months}_months"]["value"] for months in (6, 12, 24)]
    assert shares == sorted(shares)
    assert sum(group["n"] for group in metrics["groups"]["age_band"].values()) == len(rows)


def test_wrong_values_are_refused_together_and_misuse_is_a_value_error() -> None:
    with pytest.raises(InputError) as caught:
        score([100.0, 120.0], [np.nan, 110.0], ["F", "x"])
    assert len(caught.value.faults) == 2
    assert "1 of 2 values are not finite" in str(caught.value)
    assert "'x'" in str(caught.value)
    for ages, predicted, bootstrap in (([1.0], [1.0, 2.0], 10), ([], [], 10), ([1.0], [1.0], 0)):
        with pytest.raises(ValueError, match="score:"):
            score(ages, predicted, ["F"] * len(ages), bootstrap=bootstrap)


def test_baseline_is_the_training_median_of_the_sex_or_of_all_if_it_never_saw_the_sex() -> None:
    answers = baseline_median_by_sex(
        [10.0, 20.0, 90.0, 100.0], ["F", "F", "F", "M"], [1.0, 2.0, 3.0], ["M", "F", "M"]
    )
    assert answers.tolist() == [100.0, 20.0, 100.0]
    assert baseline_median_by_sex([10.0, 30.0], ["F", "F"], [5.0], ["M"]).tolist() == [20.0]


def test_an_interval_as_text() -> None:
    assert format_interval({"low": 4.456, "high": 5.551}) == "[4.46, 5.55]"
    assert format_interval({"low": -0.1, "high": 0.25}, "+.0f", factor=100) == "[-10, +25]"
    assert format_interval({"low": None, "high": None}) == ""


@pytest.mark.slow
@pytest.mark.skipif(not KOSIK.exists(), reason="the published predictions are not at hand")
def test_published_predictions_give_the_published_number() -> None:
    table = pd.read_csv(KOSIK)
    metrics = score(table["age_months"], table["predicted_age_months"], table["sex"].to_numpy(str))
    mae = metrics["mae_months"]
    assert round(mae["value"], 2) == 6.09
    assert mae["low"] == pytest.approx(5.78, abs=0.02)
    assert mae["high"] == pytest.approx(6.41, abs=0.02)
    shares = [round(100 * metrics[f"within_{m}_months"]["value"], 1) for m in (6, 12, 24)]
    assert shares == [60.8, 85.8, 98.0]
    assert round(metrics["rmse_months"]["value"], 2) == 8.59


def cohort(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, answers that are calibrated to them, and sexes."""
    generator = np.random.default_rng(seed)
    answer = generator.uniform(20, 210, count)
    return answer + generator.normal(0, 8, count), answer, ["F", "M"] * (count // 2)


def intervals(metrics: dict, n: int) -> list[float]:
    names = ("mae_months", "rmse_months", "bias_months", "within_12_months", "concordance")
    parts = [*(metrics[name] for name in names), *metrics["calibration"].values()]
    assert metrics["n"] == n
    return [part[end] for part in parts for end in ("value", "low", "high")]


def test_whole_patients_are_drawn_so_copies_of_an_image_narrow_no_interval() -> None:
    age, answer, sex = cohort()
    names = [f"p{row}" for row in range(300)]
    once = score(age, answer, sex, bootstrap=300)
    assert "patients" not in once
    known = score(age, answer, sex, patients=names, bootstrap=300)
    assert intervals(known, 300) == intervals(once, 300)  # a patient for each image
    copied = (np.tile(age, 2), np.tile(answer, 2), sex * 2)
    twice = score(*copied, patients=names * 2, bootstrap=300)
    assert twice["patients"] == 300
    assert intervals(twice, 600) == pytest.approx(intervals(once, 300))
    assert twice["groups"]["sex"]["F"]["patients"] == 150
    limits, before = (each["limits_of_agreement_months"] for each in (twice, once))
    width = [
        each["low_interval"]["high"] - each["low_interval"]["low"] for each in (limits, before)
    ]
    assert width[0] == pytest.approx(width[1], rel=0.01)
    ignored = score(*copied, bootstrap=300)["mae_months"]
    ratio = (once["mae_months"]["high"] - once["mae_months"]["low"]) / (
        ignored["high"] - ignored["low"]
    )
    assert ratio == pytest.approx(np.sqrt(2), rel=0.15)


def test_an_image_without_a_patient_is_a_patient_of_its_own() -> None:
    age, answer, sex = cohort(6)
    metrics = score(age, answer, sex, patients=["a", "", "a", "", "b", ""], bootstrap=10)
    assert metrics["patients"] == 5


def test_the_median_of_a_resample_is_that_of_the_images_drawn() -> None:
    age, answer, sex = cohort(7 * 2)
    for patients in (None, list("aabbbcdefghiij")):
        unit = (
            np.arange(14) if patients is None else np.array([ord(name) - 97 for name in patients])
        )
        generator = np.random.default_rng(5)
        drawn = generator.integers(0, unit.max() + 1, size=(50, unit.max() + 1), dtype=np.int32)
        chosen = [np.concatenate([np.flatnonzero(unit == each) for each in row]) for row in drawn]
        medians = [np.median(np.abs(answer - age)[rows]) for rows in chosen]
        part = score(age, answer, sex, patients=patients, bootstrap=50, seed=5)
        expected = np.percentile(medians, (2.5, 97.5))
        found = part["median_absolute_error_months"]
        assert [found["low"], found["high"]] == pytest.approx(expected.tolist())


def test_calibration_is_the_line_of_the_label_on_the_answer_and_concordance_is_lins() -> None:
    age, answer, sex = cohort()
    metrics = score(age, 10 + 0.5 * answer, sex, bootstrap=200)  # answers half as far apart
    slope, intercept = np.polyfit(10 + 0.5 * answer, age, 1)
    line = metrics["calibration"]
    assert line["slope"]["value"] == pytest.approx(slope)
    assert line["slope"]["low"] < slope < line["slope"]["high"]
    assert line["slope"]["low"] > 1.9
    assert line["intercept_months"]["value"] == pytest.approx(intercept)
    calibrated = score(age, answer, sex, bootstrap=200)
    slope = calibrated["calibration"]["slope"]
    assert slope["low"] < 1 < slope["high"]
    covariance = np.mean((age - age.mean()) * (answer - answer.mean()))
    apart = age.var() + answer.var() + (age.mean() - answer.mean()) ** 2
    lin = calibrated["concordance"]
    assert lin["value"] == pytest.approx(2 * covariance / apart)
    assert lin["low"] < lin["value"] < lin["high"] < 1
    assert "calibration" in calibrated["groups"]["sex"]["F"]
    assert "calibration" not in calibrated["groups"]["age_band"]["0-60"]


def test_calibrated_answers_have_a_bias_by_band_of_the_label_that_dilution_alone_predicts() -> None:
    age, answer, sex = cohort(4000)
    groups = score(age, answer, sex, bootstrap=200)["groups"]
    for band in ("0-60", "180+"):
        part = groups["age_band"][band]
        assert part["bias_months"]["low"] > 0 or part["bias_months"]["high"] < 0
        assert part["bias_months"]["value"] == pytest.approx(part["dilution_bias_months"], abs=0.5)
        own = groups["answer_band"][band]["bias_months"]
        assert own["low"] < 0 < own["high"]
    assert sum(part["n"] for part in groups["answer_band"].values()) == 4000
    chosen = (age < 60) & (np.array(sex) == "F")
    assert groups["sex_age_band"]["F 0-60"]["n"] == int(chosen.sum())


def test_intervals_of_the_limits_are_those_of_bland_and_altman_but_wider_with_heavy_tails() -> None:
    generator = np.random.default_rng(0)
    age, sex = generator.uniform(10, 220, 2000), ["F", "M"] * 1000
    usual = 2 * 1.96 * np.sqrt(3 / 2000)  # of standard deviations of normal differences

    def width(error: np.ndarray, end: str) -> float:
        limits = score(age, age + error, sex, with_groups=False, bootstrap=2000)[
            "limits_of_agreement_months"
        ]
        assert limits[f"{end}_interval"]["low"] < limits[end] < limits[f"{end}_interval"]["high"]
        found = limits[f"{end}_interval"]
        return (found["high"] - found["low"]) / np.std(error, ddof=1)

    for end in ("low", "high"):
        assert width(generator.normal(0, 8, 2000), end) == pytest.approx(usual, rel=0.1)
        assert width(generator.laplace(0, 8, 2000), end) > 1.2 * usual


@pytest.mark.filterwarnings("error")
def test_what_is_not_defined_is_none_without_a_warning() -> None:
    age, _, sex = cohort(40)
    constant = score(age, np.full(40, 110.3), sex, bootstrap=50)
    nothing = {"value": None, "low": None, "high": None}
    assert constant["calibration"] == {"slope": nothing, "intercept_months": nothing}
    assert constant["concordance"]["value"] == pytest.approx(0.0)
    assert constant["groups"]["age_band"]["0-60"]["dilution_bias_months"] is None
    perfect = score([100.0] * 5, [100.0] * 5, ["F"] * 5, bootstrap=50)
    assert perfect["concordance"] == nothing
    for count in (1, 2, 3):
        few = score(age[:count], age[:count] + 1, sex[:count], bootstrap=50, patients=["a"] * count)
        json.dumps(few, allow_nan=False)
        assert few["mae_months"]["low"] is None  # one patient
        assert (few["calibration"]["slope"]["value"] is None) == (count < 3)
    ties = np.where(np.arange(40) == 0, 90.0, 110.0)  # the slope rests on one image
    line = score(age, ties, sex, bootstrap=200)["calibration"]["slope"]
    assert (line["value"] is None, line["low"]) == (False, None)


def test_further_groups_are_scored_by_their_members() -> None:
    age, answer, sex = cohort(10)
    members = np.arange(10) < 4
    by = {"machine": {"A": members, "B": ~members, "C": np.zeros(10, dtype=bool)}}
    metrics = score(age, answer, sex, by=by, bootstrap=20)
    assert {name: part["n"] for name, part in metrics["by"]["machine"].items()} == {
        "A": 4, "B": 6, "C": 0,
    }  # fmt: skip
    alone = score(age[:4], answer[:4], sex[:4], bootstrap=20, with_groups=False)
    assert metrics["by"]["machine"]["A"] == alone


def test_a_group_in_words() -> None:
    found = [group_words(*each) for each in (("sex", "F"), ("sex_age_band", "M 180+"))]
    assert found == ["girls", "boys, 15 years and over"]
    assert group_words("answer_band", "0-60") == "answer under 5 years"
    assert group_words("machine", "A 1") == "machine: A 1"


def test_many_images_of_few_patients_are_few() -> None:
    age, answer, sex = cohort()
    assert not is_few(score(age, answer, sex, bootstrap=10))
    patients = [str(row % 19) for row in range(300)]
    assert is_few(score(age, answer, sex, patients=patients, bootstrap=10))
