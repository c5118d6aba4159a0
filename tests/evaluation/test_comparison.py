from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from boneage.errors import InputError
from boneage.evaluation.comparison import (
    MIN_IMAGES,
    Predictions,
    compare_predictions,
    open_predictions,
    write_comparison,
)
from boneage.evaluation.paired import paired_difference
from boneage.runtime.files import write_json

NOISE = np.random.default_rng(1)
N = 120
AGES = np.round(NOISE.uniform(10, 220, N))


def predictions(folder: Path, name: str, bias: float, seed: int = 0) -> pd.DataFrame:
    """Write a table of answers that are this much too high, give or take three months."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 3, N)
    table = pd.DataFrame(
        {
            "image_id": [str(1377 + row) for row in range(N)],
            "age_months": AGES,
            "sex": ["FM"[row % 2] for row in range(N)],
            "predicted_age_months": AGES + bias + noise,
        }
    )
    table.to_csv(folder / name, index=False)
    return table


def test_common_images_are_found_by_id(tmp_path: Path) -> None:
    a = predictions(tmp_path, "a.csv", 8)
    b = predictions(tmp_path, "b.csv", 5, seed=1)
    a.iloc[10:].sample(frac=1, random_state=0).to_csv(tmp_path / "a.csv", index=False)
    b.iloc[:-3].to_csv(tmp_path / "b.csv", index=False)
    found = compare_predictions(
        open_predictions(tmp_path / "a.csv"), open_predictions(tmp_path / "b.csv")
    )
    both = slice(10, N - 3)
    errors = [
        (each["predicted_age_months"] - each["age_months"]).abs().to_numpy()[both]
        for each in (a, b)
    ]
    expected = paired_difference(*errors)
    assert found["n"] == N - 13
    assert (found["a"]["only"], found["b"]["only"]) == (3, 10)
    assert (found["a"]["name"], found["clusters"]) == ("a.csv", "image_id")
    difference = found["difference_months"]
    assert difference["value"] == pytest.approx(expected["value"])
    assert difference["value"] == pytest.approx(
        found["mae_months"]["a"]["value"] - found["mae_months"]["b"]["value"]
    )
    assert difference["low"] == pytest.approx(expected["low"], abs=0.1)
    assert difference["p"] < 0.001
    groups = found["groups"]
    for members in groups.values():
        assert sum(group["n"] for group in members.values()) == N - 13
    age_band = groups["age_band"]["60-120"]
    assert age_band["n"] == np.sum((AGES[both] >= 60) & (AGES[both] < 120))
    assert age_band["difference_months"]["n"] == age_band["n"]


@pytest.mark.parametrize(("bias", "margin", "shown"), [(5.1, 0.9, True), (6.2, 0.9, False)])
def test_non_inferiority_is_one_sided(tmp_path, bias, margin, shown):
    predictions(tmp_path, "a.csv", bias)
    predictions(tmp_path, "b.csv", 5)
    both = [open_predictions(tmp_path / name) for name in ("a.csv", "b.csv")]
    judged = compare_predictions(*both, margin_months=margin)
    found = judged["non_inferiority"]
    assert found["is_shown"] is shown
    assert found["high_months"] == judged["difference_months"]["one_sided_high"]
    better = compare_predictions(*reversed(both), margin_months=margin)
    assert better["non_inferiority"]["is_shown"]  # the reference is not worse than the worse one


def test_patients_are_drawn_as_a_whole(tmp_path: Path) -> None:
    a = predictions(tmp_path, "a.csv", 8)
    b = predictions(tmp_path, "b.csv", 5, seed=1)
    patients = [f"p{row // 4}" for row in range(N)]
    a, b = a.assign(patient_id=patients), b.assign(patient_id="")
    known = compare_predictions(Predictions(tmp_path / "a.csv", "a", a), table(tmp_path, b))
    assert (known["clusters"], known["difference_months"]["groups"]) == ("patient_id", N // 4)
    # Whoever knows the patients, A or B:
    a, b = a.assign(patient_id=""), b.assign(patient_id=patients)
    again = compare_predictions(Predictions(tmp_path / "a.csv", "a", a), table(tmp_path, b))
    assert again["difference_months"] == known["difference_months"]


def table(folder: Path, values: pd.DataFrame) -> Predictions:
    return Predictions(folder / "b.csv", "b", values)


def test_labels_that_disagree_are_listed(tmp_path: Path) -> None:
    a = predictions(tmp_path, "a.csv", 8)
    b = a.copy()
    b.loc[3, "age_months"] += 0.04  # rounded in another way
    b.loc[5, "age_months"] += 12
    b.loc[6, "sex"] = "F" if b.loc[6, "sex"] == "M" else "M"
    one = Predictions(tmp_path / "a.csv", "a", a.assign(patient_id="p"))
    with pytest.raises(InputError) as caught:
        compare_predictions(one, table(tmp_path, b.assign(patient_id=["p"] * (N - 1) + ["q"])))
    ages, sexes, patients = map(str, caught.value.faults)
    assert f"age_months differs for 1 of {N} common images: 1382 (" in ages
    assert "sex differs for 1" in sexes
    assert "1383 (M and F)" in sexes or "1383 (F and M)" in sexes
    assert f"patient_id differs for 1 of {N} common images: {1376 + N} (p and q)" in patients


def test_other_images_can_not_be_compared(tmp_path: Path) -> None:
    a = predictions(tmp_path, "a.csv", 8)
    predictions(tmp_path, "b.csv", 8)
    a.assign(image_id=[f"x{row}" for row in range(N)]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match="0 images are in both tables; expected at least 5"):
        compare_predictions(
            open_predictions(tmp_path / "a.csv"), open_predictions(tmp_path / "b.csv")
        )


def test_a_folder_stands_for_its_table_of_the_split(tmp_path: Path) -> None:
    run = tmp_path / "run"
    predictions(run, "predictions-val.csv", 8)
    write_json(run / "run.json", {})
    found = open_predictions(run, "val")
    assert (found.name, found.path.name, len(found.table)) == ("run", "predictions-val.csv", N)
    with pytest.raises(InputError, match="no such table.*boneage evaluate .*run --split test"):
        open_predictions(run)
    predictions(run, "predictions-test-half-0123abcd.csv", 8)
    assert open_predictions(run).path.name == "predictions-test-half-0123abcd.csv"
    predictions(run, "predictions-test-half-0123abcd-2-views.csv", 8)
    with pytest.raises(InputError, match=r"several external tests: .*Name one of them"):
        open_predictions(run)


def test_validation_and_test_together_are_not_the_validation(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "run.json", {})
    for split in ("val", "val-test"):
        predictions(run, f"predictions-{split}-half-0123abcd.csv", 8)
        write_json(run / f"metrics-{split}-half-0123abcd.json", {"split": split})
        assert open_predictions(run, split).path.name == f"predictions-{split}-half-0123abcd.csv"
    assert open_predictions(run, "val").path.name == "predictions-val-half-0123abcd.csv"


def test_the_result_names_no_image_and_no_folder_and_no_small_group(tmp_path: Path) -> None:
    predictions(tmp_path / "one", "predictions.csv", 8)
    predictions(tmp_path / "two", "predictions.csv", 5)
    sides = [open_predictions(tmp_path / name / "predictions.csv") for name in ("one", "two")]
    few = np.flatnonzero(AGES < 60)[: MIN_IMAGES - 1]
    kept = np.concatenate([few, np.flatnonzero(AGES >= 60)])
    sides[0] = Predictions(sides[0].path, sides[0].name, sides[0].table.iloc[kept])
    comparison = compare_predictions(*sides)
    files = write_comparison(comparison, tmp_path / "out")
    text = files["result"].read_text()
    assert json.loads(text) == comparison
    assert str(tmp_path) not in text
    assert comparison["groups"]["age_band"]["0-60"] == {"n": MIN_IMAGES - 1}
    assert comparison["a"]["name"] == "one/predictions.csv"
    assert comparison["b"]["name"] == "two/predictions.csv"
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


def test_a_patient_whose_number_was_saved_with_a_gap_is_the_same_in_both(tmp_path: Path) -> None:
    for name, form in (("a.csv", "{}"), ("b.csv", "{}.0")):
        patients = [form.format(row // 2) for row in range(N)]
        predictions(tmp_path, name, 5).assign(patient_id=patients).to_csv(
            tmp_path / name, index=False
        )
    found = compare_predictions(*(open_predictions(tmp_path / name) for name in ("a.csv", "b.csv")))
    assert (found["clusters"], found["difference_months"]["groups"]) == ("patient_id", N // 2)
