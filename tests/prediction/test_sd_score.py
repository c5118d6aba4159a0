from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.prediction.sd_score import METHOD, Reference, compare_ages, load_reference

HEADER = "sex,chronological_age_months,mean_months,sd_months"


@pytest.fixture(scope="module")
def brush() -> Reference:
    return load_reference()


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_worked_example(brush: Reference) -> None:
    # A boy of 9 years and 6 months (114) whose bone age is 98 months, 90 % interval 84 to 112.
    # SD halfway between 9.00 at 108 and 9.79 at 120 is 9.395; the mean is (113.90 + 125.68) / 2.
    found = compare_ages(98, "M", 114, brush, (84, 112))
    assert found.difference_months == -16
    assert found.sd_score == pytest.approx(-16 / 9.395)
    assert found.sd_interval == pytest.approx((-30 / 9.395, -2 / 9.395))
    assert found.sd_score_from_mean == pytest.approx((98 - 119.79) / 9.395)
    assert found.assessment == "indeterminate"
    assert str(found) == (
        "16.0 months below the chronological age: -1.70 SD [-3.19, -0.21], indeterminate "
        "(the interval crosses 2 SD), by Brush Foundation (Greulich and Pyle 1959)"
    )
    assert "Asian boys" in found.note
    assert found.method == METHOD
    values = json.loads(json.dumps(found.as_dict()))
    assert values["sd_interval"] == {"low": found.sd_interval[0], "high": found.sd_interval[1]}
    assert (values["assessment"], values["reason"]) == ("indeterminate", None)


@pytest.mark.parametrize(
    ("score", "interval", "assessment"),
    [
        (0.0, None, "normal"),
        (-2.0, None, "normal"),
        (-2.01, None, "delayed"),
        (2.01, None, "advanced"),
        (0.0, (-2.0, 2.0), "normal"),
        (0.0, (-1.0, 2.1), "indeterminate"),
        (-4.0, (-5.9, -2.1), "delayed"),
        (-4.0, (-6.1, -1.9), "indeterminate"),
        (3.0, (2.1, 3.9), "advanced"),
        (0.0, (-3.0, 3.0), "indeterminate"),
    ],
)
def test_the_assessment_is_indeterminate_where_the_interval_reaches_over_a_limit(
    score, interval, assessment
) -> None:
    reference = Reference("made up", {"F": np.array([[60.0, 60, 10], [120, 120, 10]])})
    ends = None if interval is None else tuple(100 + 10 * each for each in interval)
    found = compare_ages(100 + 10 * score, "F", 100, reference, ends)
    assert found.assessment == assessment
    assert found.sd_score == pytest.approx(score)


def test_a_row_of_the_table_is_hit_exactly_and_no_age_outside_it_has_a_score(brush) -> None:
    assert brush.at("F", 60) == (66.21, 11.65)
    assert brush.at("M", 204) == (206.21, 13.05)
    assert {sex: table[[0, -1], 0].tolist() for sex, table in brush.rows.items()} == {
        "F": [3, 192],
        "M": [3, 204],
    }
    for sex, age in (("F", 193), ("M", 205), ("M", 2.9), ("F", -1), ("F", float("nan"))):
        months = 180 if age > 3 else 20
        found = compare_ages(months, sex, age, brush, (months - 20, months + 20))
        assert (found.sd_score, found.assessment, found.sd_interval) == (None, None, None)
        assert "there is no SD score at a chronological age of" in str(found)
        assert "expected 3 to" in found.reason
    assert found.difference_months != found.difference_months  # of NaN, and nothing fails


def test_an_age_in_years_gets_a_reason_and_a_girl_far_ahead_gets_a_score(brush) -> None:
    found = compare_ages(118, "F", 10, brush)
    assert "10 months seems to be in years. Multiply it by 12" in found.reason
    assert "seems to be in years" in compare_ages(185, "F", 9, brush).reason  # not +129 SD
    assert compare_ages(40, "F", 20, brush).assessment == "advanced"


def test_the_shipped_table_says_who_checked_it() -> None:
    from boneage.prediction import sd_score

    lines = sd_score._SHIPPED.read_text().splitlines()
    assert len(lines) == 1 + 23 + 24
    assert all(line.endswith("two transcriptions agree; print not seen") for line in lines[1:])


def test_a_table_of_one_s_own(tmp_path) -> None:
    rows = ["M,120,121,10", "M,60,62,8"]
    found = load_reference(write(tmp_path / "clinic.csv", *rows))
    assert found.name == "clinic.csv"
    assert found.at("M", 90) == (91.5, 9)
    with pytest.raises(InputError, match="no rows for girls"):
        found.at("F", 90)
    named = [f"{row},Clinic 2026" for row in rows]
    path = write(tmp_path / "named.csv", *named, header=f"{HEADER},source")
    assert load_reference(path).name == "Clinic 2026"


def test_every_fault_of_a_table_is_named_at_once(tmp_path) -> None:
    rows = ["X,12,12,2", "F,twelve,12,2", "F,24,-1,2", "F,36,36,0", "F,48", "F,60,60,9,1"]
    with pytest.raises(InputError) as error:
        load_reference(write(tmp_path / "t.csv", *rows))
    texts = [str(fault) for fault in error.value.faults]
    assert len(texts) == 7
    assert "line 2: sex is 'X'" in texts[0]
    assert "line 3: chronological_age_months is 'twelve'; expected a number of months" in texts[1]
    assert "line 6: sd_months is ''" in texts[-2]
    assert "line 7: the row has more cells" in texts[-1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the table has no rows"),
        (["F,60,60,9"], "girls: there is one row"),
        (["F,60,60,9", "F,60,61,9"], "60 months has several rows"),
        (["F,60,60,9", "F,72,59,9"], "the mean falls after 60 months"),
        (["F,5,5.1,1", "F,16,15.9,1"], "probably in years"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(tmp_path, rows, message) -> None:
    with pytest.raises(InputError, match=message):
        load_reference(write(tmp_path / "t.csv", *rows))


def test_a_file_that_is_no_table_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_reference(tmp_path / "absent.csv")
    path = write(tmp_path / "t.csv", "F;60;60;9", header=HEADER.replace(",", ";"))
    with pytest.raises(InputError, match="columns are missing: sex, chrono"):
        load_reference(path)
