from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from boneage.evaluation import paired
from boneage.evaluation.paired import bootstrap_mean, number_groups, paired_difference

NOISE = np.random.default_rng(7)
A = NOISE.gamma(2.0, 3.0, 200)
B = A + NOISE.normal(0.4, 3.0, 200)
SMALL = np.array([1.0, 2.0, -0.5, 3.0, 0.25, 1.5])  # differences of six images


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(values, axis=axis)


def test_rows_without_a_name_are_groups_of_their_own() -> None:
    names = ["p", "", "q", "p", None, float("nan"), ""]
    assert number_groups(names, 7).tolist() == [0, 1, 2, 0, 3, 4, 5]
    assert number_groups(None, 3).tolist() == [0, 1, 2]
    assert number_groups(np.array([5, 5, 6]), 3).tolist() == [0, 0, 1]


def test_the_interval_is_that_of_scipy() -> None:
    ours = bootstrap_mean(A - B)
    theirs = stats.bootstrap(
        (A - B,), mean, n_resamples=10_000, method="percentile", random_state=1
    ).confidence_interval
    assert ours["value"] == pytest.approx(np.mean(A - B))
    assert ours["low"] == pytest.approx(theirs.low, abs=0.02)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.02)


def test_a_few_groups_are_permuted_exactly() -> None:
    ours = paired_difference(SMALL, np.zeros(6))["p"]
    theirs = stats.permutation_test(
        (SMALL, np.zeros(6)), lambda x, y, axis: mean(x - y, axis), permutation_type="samples"
    ).pvalue
    # of the 64 ways to sign, these reach 7.25: as it is, -0.5 turned, 0.25 and -0.5 turned; and
    # their opposites
    assert ours == theirs == 6 / 64


def test_many_groups_are_permuted_at_random() -> None:
    ours = paired_difference(A, B)["p"]
    theirs = stats.permutation_test(
        (A, B),
        lambda x, y, axis: mean(x - y, axis),
        permutation_type="samples",
        n_resamples=10_000,
        random_state=1,
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.015)
    assert paired_difference(A, A)["p"] == 1.0


def test_the_test_holds_its_level() -> None:
    generator = np.random.default_rng(3)
    rejected = [
        paired_difference(generator.normal(size=25), np.zeros(25), draws=400, seed=i)["p"] <= 0.05
        for i in range(400)
    ]
    assert 0.02 < np.mean(rejected) < 0.09


def test_a_copy_of_every_image_changes_nothing_when_the_child_is_known() -> None:
    children = [f"child {i}" for i in range(len(A))]
    once = paired_difference(A, B, children)
    twice = paired_difference(np.tile(A, 2), np.tile(B, 2), children * 2)
    assert (once["groups"], twice["groups"], twice["n"]) == (200, 200, 400)
    for key in ("value", "low", "high", "one_sided_high", "p", "detectable"):
        assert twice[key] == pytest.approx(once[key])
    unknown = paired_difference(np.tile(A, 2), np.tile(B, 2))
    ratio = (unknown["high"] - unknown["low"]) / (once["high"] - once["low"])
    assert ratio == pytest.approx(1 / np.sqrt(2), abs=0.03)  # too narrow
    assert paired_difference(A, B) == once


def test_groups_weigh_by_their_images() -> None:
    found = bootstrap_mean([0.0, 0.0, 0.0, 8.0], ["p", "p", "p", "q"])
    assert found == {"value": 2.0, "low": 0.0, "high": 8.0}


def test_signs_are_flipped_by_child() -> None:
    # three children: the sums 2, 3 and -1 have 8 ways to sign, and 4 of them reach 4
    found = paired_difference([1.0, 1.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0], ["p", "p", "q", "r"])
    assert found["groups"] == 3
    assert found["p"] == 4 / 8


def test_the_detectable_difference_has_80_percent_power() -> None:
    deviation = np.std(A - B, ddof=1)
    found = paired_difference(A, B)["detectable"]
    assert found == pytest.approx(2.8016 * deviation / np.sqrt(200), rel=1e-4)
    power = stats.norm.sf(1.959964 - found / (deviation / np.sqrt(200)))
    assert power == pytest.approx(0.80, abs=1e-4)


def test_it_is_deterministic_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = paired_difference(A, B, seed=2)
    assert paired_difference(A, B, seed=2) == whole
    assert paired_difference(A, B, seed=3) != whole
    monkeypatch.setattr(paired, "_DRAWS_AT_ONCE", 1000)
    assert paired_difference(A, B, seed=2) == pytest.approx(whole, abs=0.02)


def test_the_one_sided_limit_lies_below_the_two_sided() -> None:
    found = paired_difference(A, B)
    assert found["low"] < found["value"] < found["one_sided_high"] < found["high"]


def test_too_few_rows() -> None:
    assert bootstrap_mean([]) == {"value": None, "low": None, "high": None}
    assert bootstrap_mean([3.0]) == {"value": 3.0, "low": None, "high": None}
    one = paired_difference([1.0, 2.0], [0.0, 0.0], ["p", "p"])
    assert (one["value"], one["low"], one["p"], one["detectable"]) == (1.5, None, None, None)
    with pytest.raises(ValueError, match="not 0"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        bootstrap_mean([1.0, np.nan])
    with pytest.raises(ValueError, match="3 values but 2 groups"):
        bootstrap_mean([1.0, 2.0, 3.0], ["p", "q"])
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_mean([1.0, 2.0], draws=0)
