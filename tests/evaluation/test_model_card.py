import re

import pytest

from boneage.evaluation.known_ids import KnownIds
from boneage.evaluation.metrics import score
from boneage.evaluation.model_card import model_card, wrap_markdown
from boneage.runtime.provenance import file_digest

RELEASE = {
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
    """The card as one line, so that wrapping does not matter."""
    return " ".join(model_card(result, RELEASE, "e" * 64, 5_000_000).split())


def test_a_card_has_errors_by_sex_and_age_with_intervals_and_the_baseline(result):
    text = card(result)
    for words in ("all | 30", "girls | 15", "boys | 15", "under 5 years | 5"):
        assert f"| {words} | 3.00 [3.00, 3.00] | +3.00 [+3.00, +3.00] | 100 % |" in text
    assert "MAE 3.00 months [3.00, 3.00] on 30 test radiographs" in text
    assert "has an MAE of 32.00 months" in text
    assert text.count("| radiographs | n | MAE, months |") == 2


def test_validation_and_test_together_are_the_headline_and_each_has_a_row(result):
    ages = [30.0, 70.0, 100.0, 130.0, 150.0, 190.0] * 10
    answers = [age + 4 * (-1) ** row for row, age in enumerate(ages)]
    together = score(ages, answers, ["F", "M"] * 30, bootstrap=50)
    together["baseline"] = {"median_by_sex": {"mae_months": {"value": 32.0}}}
    result["metrics"]["val-test"] = together
    text = card(result)
    assert "on 60 validation and test radiographs together." in text
    assert text.count("| radiographs | n | MAE, months |") == 1
    for split in ("test", "validation"):
        assert f"| {split} alone | 30 | 3.00 [3.00, 3.00] |" in text
    assert "Lin's concordance is 0.99" in text
    assert "The limits of agreement are -7.9 [" in text


def test_a_card_has_the_bias_by_band_of_the_answer_and_what_dilution_predicts(result):
    text = card(result)
    assert "has a slope of 1.000 [1.000, 1.000]" in text
    assert "| under 5 years | 5 | +3.00 [+3.00, +3.00] | 5 | +3.00 [+3.00, +3.00] | +0.00 |" in text
    for metrics in (result["metrics"]["test"],):  # val has the same; of an earlier version
        for key in ("calibration", "concordance"):
            del metrics[key]
        del metrics["groups"]["answer_band"]
        for end in ("low_interval", "high_interval"):
            del metrics["limits_of_agreement_months"][end]
    assert "## Answers by age" not in card(result)


def test_a_card_has_the_items_of_claim_and_the_changes_that_were_tried(result):
    text = card(result)
    assert "| 30 | robustness | not measured; `boneage stress` does it |" in text
    assert "## Changed radiographs" not in text
    part = {"value": 0.25, "low": 0.1, "high": 0.4}
    change = {"name": "noise 5", "n": 90, "refused": 2, "shift_months": part, "gate": 0.5}
    change |= {"mae_difference_months": part, "passed": True}
    none = dict.fromkeys(part)
    changes = [
        change,
        change
        | {"name": "inverted", "refused": 90, "shift_months": none, "mae_difference_months": none}
        | {"gate": None, "passed": None},
    ]
    stress = {"n": 90, "split": "val-test", "median_size_pixels": [384, 512], "changes": changes}
    stress |= {"views": 6, "phases": 1, "manifest": {"file": "half.csv", "digest": "0"}}
    text = model_card(result, RELEASE, "e" * 64, 5_000_000, stress)
    for words in (
        "changed 90 radiographs of the validation and test splits before",
        "from the manifest `half.csv`. Their median size is 384 x 512 pixels. Each answer is the",
        "the mean over 6 views.",
    ):
        assert words in " ".join(text.split())
    row = "| noise 5 | 88 | +0.25 [+0.10, +0.40] | +0.25 [+0.10, +0.40] | 0.5 | yes |"
    assert row in text
    assert "| inverted | 0 | refused |  |  |  |" in text
    assert "| 30 | robustness | Changed radiographs |" in text


def test_groups_too_small_and_splits_without_scores_are_left_out(result):
    del result["metrics"]["val"]
    result["metrics"]["test"]["groups"]["age_band"]["0-60"] = {"n": 2}
    text = card(result)
    assert "under 5 years" not in text
    assert text.count("| radiographs | n | MAE, months |") == 1
    result["metrics"] = {"test": {"n": 3}}
    assert "too few test radiographs for a score" in card(result)


def test_a_card_says_what_the_model_is_for_where_it_comes_from_and_how_to_repeat_it(result):
    text = card(result)
    for words in (
        "Research use only",
        "not a medical device",
        "non-commercial research only",
        "1,000 hand radiographs of the RSNA Pediatric Bone Age Challenge 2017",
        "Radiology 2019;290:498-503",
        "They are thumbnails.",
        "seeded one, not the official one",
        "boneage predict small hand.png --sex F",
        "boneage train recipe.json --data manifest.csv --out",
        "with its seed 7",
        "10 minutes on a processor with 2 cores",
        "e" * 64,
        "d" * 64,
        "commit `abc`",
        "9.000 months as trained, 9.001 as released",
        "90 values as float16",
        "started from random weights",
        "and the child's sex",
    ):
        assert words in text
    assert not re.search(r"{[{%]|[%}]}", text)
    result["recipe"] |= {"prediction": {"views": 6}}
    result["recipe"]["model"]["gender"] = False
    assert "without the child's sex" in card(result)
    assert "the mean over 6 views" in card(result)


def test_another_dataset_and_the_run_that_was_fine_tuned_are_named(result):
    result["manifest"]["source"] = "our {own} <images>"
    result["init"] = {"name": "first", "digest": "abc", "known_ids": {"val": 0, "test": 0}}
    text = card(result)
    assert "1,000 hand radiographs of a manifest with the source `our {own} <images>`." in text
    assert "non-commercial" not in text
    assert "started from the model of another run, `first`" in text
    assert "boneage train recipe.json --data manifest.csv --init RUN --out" in text


@pytest.mark.parametrize(
    ("larger", "words"),
    [
        (
            {"thumbnails": 900, "radiographs": 100},
            ["900 thumbnails and 100 larger radiographs of the same children. All are of the RSNA"],
        ),
        (None, ["are 1,000 hand radiographs of the RSNA", "Larger copies of some radiographs are"]),
    ],
)
def test_larger_radiographs_of_a_source_do_not_hide_which_source_it_is(result, larger, words):
    result["manifest"]["source"] = "rsna-kaggle, rsna-kaggle-large"
    release = RELEASE if larger is None else {**RELEASE, "larger": larger}
    text = " ".join(model_card(result, release, "e" * 64, 5_000_000).split())
    for each in (*words, "They are Kaggle's copy", "non-commercial"):
        assert each in text
    result["manifest"]["source"] = "own-large"  # larger than nothing
    assert "with the source `own-large`. 30 other" in card(result)


def test_a_shipped_parent_is_named_by_its_digest(result, tmp_path, monkeypatch):
    shipped = {name: tmp_path / name for name in ("another", "first", "second", "small")}
    for folder in shipped.values():
        folder.mkdir()
        (folder / "best.keras").write_text("the same" if folder.name != "another" else "other")
    monkeypatch.setattr("boneage.evaluation.model_card.shipped_models", lambda: shipped)
    digest = file_digest(tmp_path / "first" / "best.keras")
    for recorded, name in (("second", "second"), ("small", "first"), ("recipe", "first")):
        result["init"] = {"name": recorded, "digest": digest, "known_ids": None}
        text = card(result)
        assert f"started from the shipped model `{name}`" in text
        assert f"boneage train recipe.json --data manifest.csv --init {name} --out" in text
        assert f"`{name}` ships with boneage. Its `best.keras` has the sha256 `{digest}`." in text
        assert "RUN" not in text


def test_a_card_names_the_split_digest_and_the_known_ids(result):
    assert "`known_ids.json`" not in card(result)
    assert "split digest" not in card(result)
    result["manifest"]["split_digest"] = "f" * 64
    result["init"] = {"name": "first", "digest": "abc", "known_ids": None}
    for known, is_said in ((KnownIds(), False), (KnownIds(complete=False), True)):
        text = " ".join(model_card(result, RELEASE, "e" * 64, 5_000_000, known_ids=known).split())
        assert "`known_ids.json` tells of an id whether train or val had it." in text
        assert "A manifest with the split digest below has the same split" in text
        assert f"`{'f' * 64}`" in text
        assert ("of a model that it started from are not in it" in text) is is_said


def test_paragraphs_and_items_are_wrapped_but_no_table_and_no_code():
    table, code = f"| {'a ' * 60}|\n|---|", f"```\n{'b ' * 60}\n\nc\n```"
    text = wrap_markdown(f"# T\n\n{'word ' * 30}\n\n- {'x ' * 60}\n- y\n\n{table}\n\n{code}\n")
    assert table in text
    assert code in text
    lines = [line for line in text.splitlines() if line[:2] not in ("| ", "b ")]
    assert max(map(len, lines)) <= 100
    assert [line[:3] for line in lines if "x" in line] == ["- x", "  x"]
