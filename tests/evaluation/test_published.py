from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest
from boneage.evaluation.published import compare, explain_rows, table_cells
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
    (sentence,) = explain_rows([rows({"val": mae(6.0, 5.5, 6.5)})["val"]])
    assert "chose our epoch" in sentence


def test_before_a_training_only_the_published_value_is_shown():
    assert table_cells([rows({})["test"]])[0][3:] == ["5.00 [4.46, 5.55]", "-", "-", "-"]


def test_a_split_without_a_published_value_is_shown():
    published = Published(source="A paper", test_mae_months=4.265)
    recipe = RECIPE.model_copy(update={"published": published})
    val, test = table_cells(compare(recipe, manifest(), {"val": mae(6.0, 5.5, 6.5)}))
    assert val[-1] == "nothing published"
    assert test[3] == "4.265"
