from pathlib import Path

import pandas as pd
import pytest

from boneage.datasets.manifest import Manifest
from boneage.evaluation.published import as_text, compare
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
    """Four test and two validation images of these sources, by split."""
    splits = ["test"] * 4 + ["val"] * 2
    table = pd.DataFrame(
        {"split": splits, "source": [sources.get(split, "rsna-official") for split in splits]}
    )
    return Manifest(Path("manifest.csv"), table, "0" * 64)


def mae(value: float, low: float, high: float) -> dict:
    return {"mae_months": {"value": value, "low": low, "high": high}}


def rows(metrics: dict, **sources: str) -> dict[str, dict]:
    return {row["split"]: row for row in compare(RECIPE, manifest(**sources), metrics)}


@pytest.mark.parametrize(
    ("ours", "overlap"), [((5.6, 5.1, 6.1), True), ((6.4, 5.6, 7.2), False), ((4.0, 3, 4.4), False)]
)
def test_intervals_overlap_or_do_not(ours, overlap):
    row = rows({"test": mae(*ours)})["test"]
    assert row["intervals_overlap"] is overlap
    assert row["difference_months"] == pytest.approx(ours[0] - 5.0)
    assert row["not_comparable"] is None
    assert (row["ours"]["n"], row["ours"]["labels"]) == (4, "mean of six readings")


def test_where_no_interval_was_published_ours_says_whether_the_number_is_in_it():
    row = rows({"val": mae(6.5, 6.0, 7.0)})["val"]
    assert row["intervals_overlap"] is None
    assert row["published_in_our_interval"] is True
    assert "none published; it is in ours" in as_text([row])
    apart = rows({"val": mae(7.5, 7.0, 8.0)})["val"]
    assert "none published; it is outside ours" in as_text([apart])


@pytest.mark.parametrize("source", ["rsna-kaggle", "rsna-seeded", "rsna-seeded-test"])
def test_images_cut_from_the_training_set_are_not_the_published_ones(source):
    found = rows({"test": mae(5.0, 4.5, 5.5)}, test=source)
    row = found["test"]
    assert row["difference_months"] is None
    assert row["intervals_overlap"] is None
    assert row["ours"]["labels"] == "one reading"
    text = as_text(list(found.values()))
    assert "not comparable" in text
    assert "were cut from the challenge's training images, whose labels are single" in text
    assert "mean of six readings / one reading" in text


def test_another_number_of_images_is_not_comparable():
    recipe = RECIPE.model_copy(
        update={"published": PUBLISHED.model_copy(update={"test_images": 200})}
    )
    (_, row) = compare(recipe, manifest(), {"test": mae(5.0, 4.5, 5.5)})
    assert row["not_comparable"] == "4 test images here, 200 there"
    assert "200 / 4" in as_text([row])


def test_before_a_training_only_the_published_side_stands_there():
    row = rows({})["test"]
    assert row["ours"] == {
        "value": None, "low": None, "high": None, "n": 4, "labels": "mean of six readings"
    }  # fmt: skip
    assert "5.00 [4.46, 5.55]  -" in as_text([row])


def test_a_split_of_ours_that_nothing_was_published_on_is_shown():
    published = Published(source="A paper", test_mae_months=4.265)
    recipe = RECIPE.model_copy(update={"published": published})
    val, test = compare(recipe, manifest(), {"val": mae(6.0, 5.5, 6.5)})
    assert val["published"] is None
    assert "nothing published" in as_text([val])
    assert "4.265" in as_text([test])
