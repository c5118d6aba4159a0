from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def tables(tmp_path):
    """Two tables of the same hundred images; the first is a month worse."""
    generator = np.random.default_rng(0)
    ages = generator.uniform(10, 220, 100).round()
    errors = generator.normal(0, 8, 100)
    for name, more in (("a", 1.0), ("b", 0.0)):
        answers = ages + np.sign(errors) * (np.abs(errors) + more)
        values = {
            "image_id": range(100),
            "age_months": ages,
            "sex": ["F", "M"] * 50,
            "predicted_age_months": answers,
        }
        pd.DataFrame(values).to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def test_compare_prints_the_paired_difference(boneage, tables):
    code, out, err = boneage("compare", "a.csv", "b.csv", "--out", "made")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("A: a.csv  MAE ")
    assert lines[2].startswith("100 images in both (0 only in A, 0 only in B)")
    assert lines[3] == "A - B: 1.00 [1.00, 1.00] months, p < 0.001 (permutation by image)"
    assert lines[-10] == (
        "The difference is below +1.00 months with 95 % confidence (one-sided). "
        "Non-inferiority at a margin of 0.5 months is not shown."
    )
    assert [line.split()[:2] for line in lines[-8:-6]] == [["girls", "50"], ["boys", "50"]]
    assert sorted(path.name for path in (tables / "made").iterdir()) == [
        "comparison.json", "comparison.png",
    ]  # fmt: skip
    code, out, _ = boneage("compare", "a.csv", "b.csv", "--margin", "1.1", "--json")
    assert code == 0
    assert json.loads(out)["non_inferiority"]["is_shown"] is True
    out = boneage("compare", "b.csv", "a.csv")[1]
    assert "The difference is below -1.00 months" in out
    assert "Non-inferiority at a margin of 0.5 months is shown" in out


def test_compare_takes_run_folders(boneage, finished_run, tables):
    code, out, err = boneage("compare", finished_run.folder, finished_run.folder, "--split", "val")
    assert code == 0, err
    assert "note: the validation images chose the model's epoch" in err
    assert "A - B: 0.00 [0.00, 0.00] months, p 1.000" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv", "b.csv", "--split", "val"], "there is no split to choose"),
        (["a.csv", "made", "--split", "validation"], "it is none of train, val, test"),
        (["a.csv", "nowhere"], "no model of that name ships with boneage"),
        (["a.csv", "c.csv"], "c.csv: there is no such file or folder"),
        (["a.csv", "rsna-best"], "boneage evaluate rsna-best --data MANIFEST"),
    ],
)
def test_what_can_not_be_compared_is_refused(boneage, refused, tables, arguments, message):
    refused(boneage("compare", *arguments), message)


def test_few_images_and_a_file_in_place_of_the_folder(boneage, refused, tables):
    few = pd.read_csv(tables / "a.csv").head(12)
    few.to_csv(tables / "few.csv", index=False)
    assert (
        "note: intervals of fewer than 20 images are too narrow"
        in boneage("compare", "few.csv", "b.csv")[1]
    )
    refused(boneage("compare", "a.csv", "b.csv", "--out", "b.csv"), "Choose another folder")
    refused(
        boneage("compare", "a.csv", tables, "--split", "val", "--split", "test"),
        "--split val --split test",
    )
