from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage.errors import InputError
from boneage.evaluation.metrics import baseline_median_by_sex, format_interval, score

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
    assert metrics["limits_of_agreement_months"] == {"low": None, "high": None}
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
