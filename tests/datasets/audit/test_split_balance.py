from __future__ import annotations

from pathlib import Path

import numpy as np

from boneage.datasets.audit.split_balance import balance_findings, digit_findings
from boneage.datasets.cells import Finding
from boneage.datasets.validation import ManifestValidation, validate_manifest


def validated(rows: list[tuple[float, str, str]]) -> ManifestValidation:
    lines = [f"{i},{i}.png,{age:g},{sex},{split}" for i, (age, sex, split) in enumerate(rows)]
    text = "\n".join(["image_id,image,age_months,sex,split", *lines])
    return validate_manifest(text.encode(), Path("manifest.csv"))


def rows(
    split: str, count: int, *, mean: float = 120, boys: float = 0.5, seed: int = 0
) -> list[tuple[float, str, str]]:
    rng = np.random.default_rng([seed, count])
    ages = np.clip(rng.normal(mean, 40, count), 1, 228).round(1)
    return [(float(a), "M" if rng.random() < boys else "F", split) for a in ages]


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_splits_drawn_alike_are_balanced_however_small() -> None:
    for seed in range(5):
        drawn = rows("train", 400, seed=seed) + rows("val", 50, seed=seed)
        assert balance_findings(validated(drawn + rows("test", 30, seed=100 + seed))) == []


def test_the_official_splits_harmless_difference_is_none() -> None:
    # RSNA's test set: half boys where train has 54 %, and 5 months older on average.
    drawn = rows("train", 12_611, mean=127, boys=0.542) + rows("test", 200, mean=132)
    assert balance_findings(validated(drawn)) == []


def test_other_ages_and_other_sexes_are_named_with_numbers() -> None:
    drawn = rows("train", 400) + rows("val", 100, mean=170) + rows("test", 100, boys=0.95)
    age, sex = balance_findings(validated(drawn))
    assert (age.code, sex.code) == ("age-imbalance", "sex-imbalance")
    assert "ages in val (median 1" in age.fault.what
    assert "of test are boys" in sex.fault.what


def test_readers_who_round_to_years_are_noted() -> None:
    ages = [12.0 * (1 + i % 16) if i % 2 else 7.0 + i for i in range(200)]
    (finding,) = digit_findings(validated([(age, "F", "train") for age in ages]))
    assert finding.code == "digit-preference"
    assert "whole years" in finding.fault.what


def test_months_by_chance_and_a_table_in_years_are_no_habit() -> None:
    assert codes(digit_findings(validated([(7.0 + i, "F", "train") for i in range(200)]))) == []
    years = [(12.0 * (1 + i % 16), "F", "train") for i in range(200)]
    assert codes(digit_findings(validated(years))) == []
