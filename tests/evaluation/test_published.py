from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest
from boneage.errors import InputError
from boneage.evaluation.published import (
    compare,
    explain_rows,
    judge,
    read_answers,
    select_answers,
    table_cells,
)
from boneage.recipe import Published, Recipe

PUBLISHED = Published(
    source="A paper",
    test_mae_months=5.0,
    test_interval_months=(4.46, 5.55),
    test_images=4,
    test_labels="mean of six readings",
    val_mae_months=6.09,
)
RECIPE = Recipe(name="x", published=PUBLISHED)


def manifest(**sources: str) -> Manifest:
    """Four test and two validation images with these sources, by split."""
    splits = ["test"] * 4 + ["val"] * 2
    table = pd.DataFrame(
        {"split": splits, "source": [sources.get(split, "rsna-official") for split in splits]}
    )
    return Manifest(Path("manifest.csv"), table, "0" * 64)


def mae(value: float, low: float, high: float) -> dict[str, Any]:
    return {"mae_months": {"value": value, "low": low, "high": high}}


def rows(metrics: dict[str, Any], **sources: str) -> dict[str, dict[str, Any]]:
    return {row["split"]: row for row in compare(RECIPE, manifest(**sources), metrics)}


@pytest.mark.parametrize(
    ("ours", "overlap"), [((5.6, 5.1, 6.1), True), ((6.4, 5.6, 7.2), False), ((4.0, 3, 4.4), False)]
)
def test_intervals_overlap_or_do_not(ours, overlap):
    row = rows({"test": mae(*ours)})["test"]
    assert row["intervals_overlap"] is overlap
    assert row["difference_months"] == pytest.approx(ours[0] - 5.0)
    assert row["not_comparable"] is None
    assert row["ours"]["n"] == 4


def test_without_a_published_interval_only_the_difference_is_given():
    row = rows({"val": mae(6.5, 6.0, 7.0)})["val"]
    assert row["intervals_overlap"] is None
    assert table_cells([row])[0][-2:] == ["+0.41", "-"]


@pytest.mark.parametrize("source", ["rsna-kaggle", "rsna-seeded", "rsna-seeded-test"])
def test_images_held_out_from_the_training_set_are_not_comparable(source):
    row = rows({"test": mae(5.0, 4.5, 5.5)}, test=source)["test"]
    assert row["difference_months"] is None
    assert row["intervals_overlap"] is None
    (cells,), (reason,) = table_cells([row]), explain_rows([row])
    assert cells[-1] == "not comparable"
    assert "held out from the challenge's training images, whose labels are single" in reason


def test_another_number_of_images_is_not_comparable():
    published = PUBLISHED.model_copy(update={"test_images": 200})
    recipe = RECIPE.model_copy(update={"published": published})
    (_, row) = compare(recipe, manifest(), {"test": mae(5.0, 4.5, 5.5)})
    assert row["not_comparable"] == "4 test images here, 200 in the published result"
    assert table_cells([row])[0][1] == "200 / 4"


def test_our_validation_error_is_marked_as_the_one_that_chose_the_epoch():
    (_, sentence) = explain_rows([rows({"val": mae(6.0, 5.5, 6.5)})["val"]])
    assert "chose our epoch" in sentence


def test_two_intervals_are_called_the_weaker_way():
    row = rows({"test": mae(5.6, 5.1, 6.1)})["test"]
    assert table_cells([row])[0][-2:] == ["+0.60", "intervals overlap"]
    (sentence,) = explain_rows([row])
    assert "judged by two intervals, which is the weaker way" in sentence
    assert "not known to be public" in sentence
    published = PUBLISHED.model_copy(update={"test_answers": "https://example.org/a.csv"})
    recipe = RECIPE.model_copy(update={"published": published})
    (_, row) = compare(recipe, manifest(), {"test": mae(5.6, 5.1, 6.1)})
    assert "https://example.org/a.csv. Then repeat the command" in explain_rows([row])[0]


COUNT = 60
AGES = np.random.default_rng(0).uniform(10, 200, COUNT).round()
THEIRS = np.random.default_rng(1).normal(0, 6, COUNT)
ANSWERED = Published(
    source="A paper",
    val_mae_months=float(np.abs(THEIRS).mean()),
    val_interval_months=(0.0, 20.0),
    val_images=COUNT,
    answers_column="Xception_b9.h5",
)


def labelled(source: str = "rsna-official") -> Manifest:
    table = pd.DataFrame(
        {
            "image_id": [str(1386 + row) for row in range(COUNT)],
            "age_months": AGES,
            "sex": "F",
            "split": "val",
            "source": source,
        }
    )
    return Manifest(Path("manifest.csv"), table, "0" * 64)


def answers_file(folder: Path, **columns: Any) -> Path:
    """Write answers as their authors published them."""
    path = folder / "valid_with_predictions.csv"
    values = {
        "id": [1386 + row for row in range(COUNT)],
        "male": False,
        "boneage": AGES,
        "DenseNet_b7.h5": AGES + 1,
        "Xception_b9.h5": AGES + THEIRS,
        **columns,
    }
    pd.DataFrame(values).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("worse", "shown"), [(0.1, True), (-1.0, True), (0.45, False), (2, False)])
def test_published_answers_judge_by_paired_differences(tmp_path, worse, shown):
    selected = select_answers(
        read_answers([answers_file(tmp_path)], ANSWERED), ANSWERED, labelled()
    )
    errors = THEIRS + np.sign(THEIRS) * (worse + np.random.default_rng(2).normal(0, 0.5, COUNT))
    ours = labelled().table.assign(predicted_age_months=AGES + errors)
    paired = judge(ours, selected["val"])
    assert paired["is_shown"] is shown
    assert paired["n"] == COUNT
    value = np.abs(errors).mean()
    recipe = RECIPE.model_copy(update={"published": ANSWERED})
    (row,) = compare(recipe, labelled(), {"val": mae(value, 0, 20)}, {"val": paired})
    assert row["difference_months"] == pytest.approx(value - np.abs(THEIRS).mean())
    cells, (sentence, _) = table_cells([row])[0], explain_rows([row])
    assert cells[-1] == ("shown to be non-inferior" if shown else "not shown to be non-inferior")
    assert f"[{paired['low']:+.2f}, {paired['high']:+.2f}]" in cells[-2]
    assert f"at a margin of 0.5 months is {'' if shown else 'not '}shown" in sentence
    assert "paired differences on 60 images" in sentence
    assert f"is below {paired['one_sided_high']:+.2f} months" in sentence
    # The two intervals overlap whatever the difference is: the weaker way would pass them all.
    assert row["intervals_overlap"] is True


def test_answers_for_some_of_the_images_are_compared_on_these(tmp_path):
    path = answers_file(tmp_path)
    pd.read_csv(path).iloc[:20].to_csv(path, index=False)
    answers = read_answers([path], ANSWERED)
    ours = labelled().table.assign(predicted_age_months=AGES)
    selected = select_answers(answers, ANSWERED, labelled())["val"]
    paired = judge(ours, selected)
    assert paired["n"] == 20
    assert paired["value"] == pytest.approx(
        -(answers["answer"] - answers["age_months"]).abs().mean()
    )


def test_answers_for_images_held_out_from_the_training_set_are_not_used(tmp_path):
    answers = read_answers([answers_file(tmp_path)], ANSWERED)
    assert select_answers(answers, ANSWERED, labelled("rsna-kaggle")) == {}


def test_wrong_answers_are_refused(tmp_path):
    other = {"Xception_b9.h5": AGES + THEIRS + 20 * np.sign(THEIRS)}
    with pytest.raises(InputError, match=r"MAE on these 60 images is .* as published"):
        select_answers(
            read_answers([answers_file(tmp_path, **other)], ANSWERED), ANSWERED, labelled()
        )
    with pytest.raises(InputError, match="age_months differs for 60 of 60 common images"):
        select_answers(
            read_answers([answers_file(tmp_path, boneage=AGES + 12)], ANSWERED),
            ANSWERED,
            labelled(),
        )
    path = answers_file(tmp_path)
    with pytest.raises(InputError, match="60 images have two answers: "):
        read_answers([path, path], ANSWERED)
    with pytest.raises(InputError, match="ResNet"):
        read_answers([path], ANSWERED.model_copy(update={"answers_column": "ResNet"}))
    with pytest.raises(InputError, match="it has no answer"):
        read_answers([answers_file(tmp_path, **{"Xception_b9.h5": "?"})], ANSWERED)


def test_before_a_training_only_the_published_value_is_shown():
    assert table_cells([rows({})["test"]])[0][3:] == ["5.00 [4.46, 5.55]", "-", "-", "-"]


def test_a_split_without_a_published_value_is_shown():
    published = Published(source="A paper", test_mae_months=4.265)
    recipe = RECIPE.model_copy(update={"published": published})
    val, test = table_cells(compare(recipe, manifest(), {"val": mae(6.0, 5.5, 6.5)}))
    assert val[-1] == "nothing published"
    assert test[3] == "4.265"
