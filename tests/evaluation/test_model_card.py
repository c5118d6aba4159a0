import copy

import pytest

from boneage.evaluation.metrics import score
from boneage.evaluation.model_card import model_card

TOLD = {
    "name": "small",
    "released": "2026-01-02",
    "storage": {"float16_values": 90, "other_values": 10, "compute": "float32"},
    "val_mae_months": {"as_trained": 9.0, "as_released": 9.001},
    "note": "They are thumbnails.",
}


@pytest.fixture
def result():
    ages = [30.0, 70.0, 100.0, 130.0, 150.0, 190.0] * 5
    metrics = score(ages, [age + 3 for age in ages], ["F", "M"] * 15, bootstrap=50)
    metrics["baseline"] = {"median_by_sex": {"mae_months": {"value": 32.0}}}
    return {
        "name": "recipe",
        "seed": 7,
        "started": "2026-01-01T10:00:00+00:00",
        "seconds": {"fit": 600.0},
        "best_epoch": 3,
        "epochs": 4,
        "model": {"parameters": 100},
        "provenance": {
            "boneage": "1.0",
            "commit": "abc",
            "uncommitted_changes": False,
            "python": "3.12",
            "device": "a processor",
            "cores": 2,
            "versions": {"keras": "3.15"},
        },
        "manifest": {
            "digest": "d" * 64,
            "counts": {"train": 1000, "val": 30, "test": 30},
            "source": "rsna-kaggle",
        },
        "recipe": {
            "framing": {"size": 96, "crop": "hand"},
            "model": {"backbone": "mini_resnet", "gender": True, "weights": "none"},
        },
        "metrics": {"test": metrics, "val": metrics},
    }


def card(result) -> str:
    return model_card(result, TOLD, "e" * 64, 5_000_000)


def test_it_says_what_it_may_be_used_for_and_what_it_was_taught_by(result):
    text = card(result)
    assert "Research use only" in text
    assert "no medical device" in text
    assert "non-commercial research only" in text
    assert "RSNA Pediatric Bone Age Challenge 2017" in text
    assert "Radiology 2019;290:498-503" in text
    assert "1,000 hand radiographs" in text
    assert "They are thumbnails." in text
    assert "seeded one, not the official one" in text


def test_it_tells_errors_by_sex_and_age_with_intervals_and_the_guess_beside_them(result):
    text = card(result)
    for words in ("all | 30", "girls | 15", "boys | 15", "under 5 years | 5"):
        assert f"| {words} | 3.00 [3.00, 3.00] | +3.00 [+3.00, +3.00] | 100 % |" in text
    assert "makes 32.00." in text
    assert text.count("| radiographs | n | MAE |") == 2


def test_groups_too_small_and_splits_not_tested_are_left_out(result):
    del result["metrics"]["val"]
    bands = result["metrics"]["test"]["groups"]["age_band"]
    bands["0-60"] = {"n": 2}
    bands["180+"] = {"n": 0, "mae_months": {"value": None, "low": None, "high": None}}
    text = card(result)
    assert "under 5 years" not in text
    assert "15 years and over" not in text
    assert text.count("| radiographs | n | MAE |") == 1


def test_other_radiographs_are_named_by_their_source_and_bring_no_foreign_terms(result):
    result["manifest"]["source"] = "our {own} films"
    text = card(result)
    assert "1,000 hand radiographs of a table whose source is called `our {own} films`." in text
    assert "non-commercial" not in text


def test_it_says_how_to_use_it_and_to_make_it_again_and_what_stands_behind_it(result):
    other = copy.deepcopy(result)
    other["recipe"] |= {"prediction": {"views": 6}}
    other["recipe"]["model"]["gender"] = False
    assert "without the child's sex" in card(other)
    assert "the mean of those for 6 views" in card(other)
    text = card(result)
    for words in (
        "boneage predict small hand.png --sex F",
        "boneage train recipe.json --data manifest.csv",
        "seed 7",
        "10 minutes on a processor, 2 cores",
        "e" * 64,
        "d" * 64,
        "commit `abc`",
        "keras 3.15",
        "9.000 as trained, 9.001 as released",
        "90 numbers as float16",
    ):
        assert words in text
    assert "$" not in text


def test_a_fine_tuned_one_says_what_it_began_with(result):
    assert "trained from random weights" in card(result)
    assert "--init RUN" not in card(result)
    text = card(
        {**result, "init": {"name": "first", "digest": "abc", "known_ids": {"val": 0, "test": 0}}}
    )
    assert "trained from what another run, `first`, had learned" in text
    assert "boneage train recipe.json --data manifest.csv --init RUN --out" in text
    assert "RUN is one whose best model is `first`, sha256 `abc`" in text
