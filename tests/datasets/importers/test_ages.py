"""Ages as people write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from boneage.datasets.cells import Cells
from boneage.datasets.importers.ages import Ages, read_ages


def ages(texts: Sequence[str], unit: str, **options: bool) -> Ages:
    table = pd.DataFrame({"age": list(texts)}, dtype=str)
    cells = Cells("a.csv", table, tuple(range(2, len(table) + 2)))
    return read_ages(cells, "age", unit, "--age-unit", **options)


def said(found: Ages) -> list[str]:
    return [str(finding.fault) for finding in found.findings]


@pytest.mark.parametrize("odd", ["n.b.", "9.5", "10,5 J"])
def test_the_odd_cell_of_a_column_is_the_only_fault_and_names_the_form(odd: str) -> None:
    texts = [f"{5 + i / 10:.1f}".replace(".", ",") for i in range(59)]
    found = ages([*texts, odd], "years")
    np.testing.assert_allclose(found.months[:59], [60 + 1.2 * i for i in range(59)])
    (fault,) = said(found)
    assert fault.startswith(
        f"a.csv: row 61: age is {odd!r}; expected a number of years with a decimal comma, like 59 "
        "other cells. Write years with a decimal comma, such as 10,5 for 10 years and 6 months."
    )


AGES = {  # an en dash, an n and a tilde and Arabic digits are among them
    126: "10y6m|10 y 6 m|10-06|10\u201306|10;6|10 6/12|10-6/12|10 1/2|10 years, 6 months|126M"
    "|10 years and 6 months|10 Jahre und 6 Monate|10 J. 6 M.|P10Y6M|10+6/12|10 + 6/12|10 6/12 J."
    "|10y-6m|10Y/6M|10 y + 6 m",
    73: "6岁1个月|６岁１个月|6年1月|6歳1か月|6세 1개월|6 an\u0303os y 1 mes|6 AÑOS 1 MES"
    "|6 anos 1 mês|6 Jahre 1 Monat|6 ans et 1 mois|6 лет 1 месяц"
    "|6 year(s) 1 month(s)|\u0666y\u0661m|6 jaar en 1 maand|6 år och 1 månad|6 lat i 1 miesiąc"
    "|6 y\u0131l 1 ay|6 \u0433. 1 мес.|6周岁1个月|6岁零1个月"
    "|6YIL 1AY|6歳1ヵ月|6 år 1 måned|6 let 1 měsíc|6 ani 1 luni|6 tuổi 1 tháng",
    120: "10 0/12|10yrs.",
    144: "012Y",
    72: "6岁|6 años",
    18: "18m",
}


@pytest.mark.parametrize("months", AGES)
def test_years_and_months_in_one_cell(months: int) -> None:
    texts = AGES[months].split("|")
    found = ages([*texts, "12y0m"], "years-months")
    assert said(found) == []
    assert found.months.tolist() == [months] * len(texts) + [144]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "10",
            "10.6",
            "10.06",
            "10-12",
            "10y12m",
            "6m10y",
            "10 13/12",
            "10 6/7",
            "10 6/12 M",
            "10²",
        ),
        *("10 6 m", "10½", "2024-06-10", "10y6", "y", "10 light years", "6/12", "1000y"),
        *("10:06:00", "10y6m3d"),
    ],
)
def test_what_may_mean_something_else_is_no_age_in_years_and_months(text: str) -> None:
    found = ages([text, "12y0m", "9y1m"], "years-months")
    assert len(said(found)) == 1
    assert np.isnan(found.months).tolist() == [True, False, False]


def test_months_after_the_point_need_two_digits() -> None:
    found = ages(["10.11", "8.00", "9.03", "6.10", "10.1", "7", "9.12"], "years-months")
    np.testing.assert_array_equal(found.months, [131, 96, 111, 82, np.nan, np.nan, np.nan])
    faults = said(found)
    assert (
        "row 6: age is '10.1'; expected years and months such as 10.06, like 4 other" in faults[0]
    )
    assert len(faults) == 3
    assert ages(["10,11", "8,00"], "years-months").months.tolist() == [131, 96]


@pytest.mark.parametrize("mark", [".", ","])
def test_months_after_the_point_without_a_zero_need_a_10_or_11(mark: str) -> None:
    def read(text: str) -> Ages:
        return ages(text.replace(".", mark).split(), "years-months")

    assert read("10.6 8.11 9.3 7.0 6.9").months.tolist() == [126, 107, 111, 84, 81]
    assert read("10.6 8.10 9.1").months.tolist() == [126, 106, 109]
    found = read("10.6 8.11 9.1 6.12 7.2")  # 9.1 may be 9.10
    np.testing.assert_array_equal(found.months, [126, 107, np.nan, np.nan, 86])
    assert "expected years and months such as 10.6 and 10.11, like 3 other cells" in said(found)[0]
    assert len(said(read("10.6 8.3 9.2 7.5"))) == 4  # may be tenths of years


@pytest.mark.parametrize("mark", [".", ","])
def test_years_that_never_pass_11_hundredths_are_a_question(mark: str) -> None:
    texts = [
        text.replace(".", mark) for text in ("3.05", "4.11", "6.10", "8.00", "9", "7.5", "7.07")
    ]
    (fault,) = said(ages(texts, "years"))
    assert f"4 of 4 hundredths of age are at most .11, as in 4{mark}11" in fault
    assert "pass --age-unit years-months" in fault
    found = ages(texts, "decimal-years")
    assert said(found) == []
    assert found.months[1] == pytest.approx(12 * 4.11)
    # Hundredths that are as often above .11 are the answer; so are too few, or whole years alone.
    for odd in ("10.1", "10.50", "8.12", "9.125"):
        assert len(said(ages([*texts, odd.replace(".", mark)], "years"))) == 1
    above = [f"8{mark}{digits}" for digits in (12, 25, 58, 75)]
    assert said(ages([*texts, *above], "years")) == []
    assert said(ages(texts[:2], "years")) == []
    assert len(said(ages([*texts[:3], f"9{mark}50"], "years"))) == 1
    assert len(said(ages([f"8{mark}6", f"9{mark}10", f"9{mark}11", f"7{mark}0"], "years"))) == 1
    tenths = [f"{year}{mark}{year}" for year in range(3, 7)]
    assert len(said(ages([*tenths, f"8{mark}11"], "years"))) == 1
    assert len(said(ages([*tenths, f"8{mark}10"], "years"))) == 1
    assert said(ages([*tenths, f"8{mark}05"], "years")) == []
    assert said(ages([*tenths[:2], f"8{mark}11"], "years")) == []
    assert said(ages([*tenths, f"8{mark}11", f"8{mark}25"], "years")) == []
    assert said(ages([f"{year}{mark}00" for year in range(3, 15)], "years")) == []
    assert said(ages([f"{year}{mark}5" for year in range(3, 15)], "years")) == []


def test_small_and_large_tables_of_decimal_years_are_seldom_questioned() -> None:
    rng = np.random.default_rng(0)
    for years in (rng.uniform(1, 18, (400, 6)), rng.integers(12, 216, (400, 6)) / 12):
        tables = [[f"{age:.2f}" for age in row] for row in years]
        assert sum(len(said(ages(table, "years"))) for table in tables) <= 2
        assert said(ages([text for table in tables for text in table], "years")) == []
    months = [f"{m // 12}.{m % 12:02d}" for m in rng.integers(12, 216, 12_000)]
    (fault,) = said(ages([*months, "9.50"], "years"))
    assert "of age are at most .11" in fault


def test_zeros_and_years_among_months_are_notes() -> None:
    assert ages(["120", "10", "132", "9.5", "96"], "months").notes == [
        "In age, 2 of 5 ages are at most 10 months, and no other is below 96 months, so that they "
        "may be years."
    ]
    assert ages(["0", "0,0", "8,5"], "years").notes == [
        "age was read with decimal commas: 10,5 is 10.5.",
        "In age, 2 of 3 ages are 0 and may be missing values, if no child is a newborn.",
    ]
    assert ages(["120", "10.5", "132", "8", "25"], "months").notes == [
        "In age, 1 of 5 ages are at most 10.5 months, and no other has decimals, so that they may "
        "be years."
    ]
    assert ages(["120.5", "10.5", "25"], "months").notes == []
    for unit, texts in (("months", ["120", "10", "25"]), ("years", ["10", "1", "9"])):
        assert ages(texts, unit).notes == []
    assert ages(["0", "10", "132"], "months", is_chronological=True).notes == []


@pytest.mark.parametrize("unit", ["months", "years", "days"])
def test_cells_with_their_own_unit_are_one_fault_that_names_the_option(unit: str) -> None:
    texts = ["126 months", "10 y", "9 Jahre", "10y6m", "n.b."]
    (fault,) = said(ages(texts, unit))
    assert fault == (
        "a.csv: 4 of 5 cells of age are years and months or have their own unit, such as '126 "
        "months'. Pass --age-unit years-months: it reads such ages, in months too."
    )
    found = ages(texts, "years-months")
    np.testing.assert_array_equal(found.months, [126, 120, 108, 126, np.nan])
    assert len(said(found)) == 1
    assert len(said(ages(["126", "120", "140", "10y6m"], "months"))) == 1
    for sign in (";", ":", "-0"):
        (fault,) = said(ages([f"{year}{sign}6" for year in range(8, 12)], unit))
        assert "Pass --age-unit years-months" in fault
    ranges = said(ages(["10-11", "9-10", "8-9", "12-13"], "years"))  # not ages in years and months
    assert len(ranges) == 4
    assert not any("years-months" in fault for fault in ranges)


@pytest.mark.parametrize(
    ("unit", "texts", "fix"),
    [
        ("months", "3105 2950 4018", "Are the ages in days? Pass --age-unit days."),
        ("years", "3105 2950 4018", "Are the ages in days? Pass --age-unit days."),
        ("years", "105 95 118", "Are the ages in months? Pass --age-unit months."),
        ("months", "-105 -95 118", "Correct the label."),
    ],
)
def test_most_ages_outside_the_unit_ask_for_one_that_fits(unit: str, texts: str, fix: str) -> None:
    assert all(fix in fault for fault in said(ages(texts.split(), unit)))


@pytest.mark.parametrize(
    "text", ["2024-10-11", "Okt 11", "11-Oct", "Oct-11", "11.10.2024", "11.10.", "10:06:00"]
)
def test_an_age_that_became_a_date_is_named_as_one(text: str) -> None:
    (fault,) = said(ages(["10.5", "9", text], "years"))
    assert f"age is {text!r}" in fault
    assert "did a spreadsheet make it of 10-06 or 10.11?" in fault


def test_days_with_thousands_marks() -> None:
    assert ages(["3,652.5", "4,018"], "days").months[0] == pytest.approx(120)
    faults = said(ages(["3,652", "4,018"], "days"))
    assert "expected a number of days without thousands marks" in faults[0]


def test_only_where_a_cell_may_be_empty_it_is() -> None:
    assert len(said(ages(["10.5", ""], "years"))) == 1
    assert said(ages(["10.5", ""], "years", may_be_empty=True)) == []
    assert said(ages(["39.5", ""], "years", is_chronological=True)) == []
    assert len(said(ages(["39.5", ""], "years", may_be_empty=True))) == 1


def test_a_cell_of_a_million_letters_costs_no_time_and_is_cut_in_the_message() -> None:
    (fault,) = said(ages(["10 y" + " " * 1_000_000 + "6", "10y6m"], "years-months"))
    assert len(fault) < 1000
