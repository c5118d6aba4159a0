from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boneage.datasets.label_rules import SPLITS
from boneage.datasets.splits import assign_folds, assign_splits
from boneage.errors import InputError


def cohort(count: int, patients: int | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        {
            "image_id": [str(1377 + i) for i in range(count)],
            "age_months": rng.integers(6, 216, count).astype(float),
            "sex": rng.choice(["F", "M"], count),
        }
    )
    return table if patients is None else table.assign(patient_id=np.arange(count) % patients)


def test_no_patient_is_in_two_folds() -> None:
    table = cohort(900, patients=217)
    table["fold"] = assign_folds(table, folds=5, seed=0)
    assert len(table[["patient_id", "fold"]].drop_duplicates()) == 217
    np.testing.assert_allclose(table["fold"].value_counts(normalize=True), 0.2, atol=0.01)


def test_the_same_seed_gives_the_same_folds_in_any_order_of_rows_and_another_others() -> None:
    table = cohort(400, patients=150)
    folds = pd.Series(assign_folds(table, folds=4, seed=3), table.index)
    shuffled = table.sample(frac=1, random_state=1)
    again = pd.Series(assign_folds(shuffled, folds=4, seed=3), shuffled.index)
    pd.testing.assert_series_equal(again.sort_index(), folds)
    assert (assign_folds(table, folds=4, seed=4) != folds).mean() > 0.3


@settings(max_examples=25)
@given(count=st.integers(2, 40), patients=st.integers(2, 40), folds=st.integers(2, 40))
def test_every_fold_has_a_patient_or_it_is_refused(count: int, patients: int, folds: int) -> None:
    table = cohort(count, patients)
    if min(count, patients) < folds:
        with pytest.raises(InputError, match=f"there are {min(count, patients)} patients"):
            assign_folds(table, folds=folds, seed=0)
    else:
        assert set(assign_folds(table, folds=folds, seed=0)) == set(range(1, folds + 1))


def test_fewer_than_two_folds_are_refused() -> None:
    with pytest.raises(InputError, match=r"--folds 1: cross-validation needs at least 2 folds"):
        assign_folds(cohort(9), folds=1, seed=0)


def test_shares_are_exact_and_alike_in_age_and_sex() -> None:
    table = assign_splits(cohort(2000), seed=0)
    assert table["split"].value_counts().to_dict() == {"train": 1600, "val": 200, "test": 200}
    by_split = table.groupby("split")
    assert np.ptp(by_split["age_months"].mean()) < 2
    assert np.ptp(by_split["sex"].agg(lambda sex: (sex == "M").mean())) < 0.02


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = cohort(500)
    table["patient_id"] = [str(i // 3) if i % 5 else "" for i in range(500)]
    shuffled = table.sample(frac=1, random_state=3)
    ours, theirs = assign_splits(table, seed=4), assign_splits(shuffled, seed=4)
    pd.testing.assert_frame_equal(ours, theirs.sort_index())
    assert theirs.index.tolist() == shuffled.index.tolist()


def test_a_patient_is_in_one_split_only() -> None:
    table = cohort(900).assign(patient_id=[f"p{i % 217}" for i in range(900)])
    table = assign_splits(table, seed=0)
    assert len(table[["patient_id", "split"]].drop_duplicates()) == 217
    np.testing.assert_allclose(
        table["split"].value_counts(normalize=True)[list(SPLITS)], [0.8, 0.1, 0.1], atol=0.02
    )


def test_a_patient_whose_number_lost_its_zeros_is_one_patient() -> None:
    same = cohort(900).assign(patient_id=[f"{i % 217 + 1:03d}" for i in range(900)])
    mixed = same.assign(patient_id=[f"{i % 217 + 1:0{3 * (i % 2)}d}" for i in range(900)])
    expected = assign_splits(same, seed=0)
    assert assign_splits(mixed, seed=0)["split"].tolist() == expected["split"].tolist()
    assert expected.groupby("patient_id")["split"].nunique().max() == 1


def test_fractions_are_followed_and_checked() -> None:
    table = assign_splits(cohort(100), seed=0, fractions=(0.5, 0.5, 0.0))
    assert table["split"].value_counts().to_dict() == {"train": 50, "val": 50}
    with pytest.raises(ValueError, match="sum to 1"):
        assign_splits(cohort(10), seed=0, fractions=(0.8, 0.1, 0.2))
