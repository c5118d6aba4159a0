"""A column is read in the form that most of its cells have; only the odd cells are no numbers."""

from __future__ import annotations

import numpy as np
import pytest

from boneage.datasets.number_columns import read_numbers

YEARS = [round(1.5 + 0.3 * i, 1) for i in range(59)]
COMMAS = [f"{year:.1f}".replace(".", ",") for year in YEARS]
POINTS = [f"{year:.1f}" for year in YEARS]


@pytest.mark.parametrize(
    "odd", ["n.b.", "9.5", "10,5 J", "1.250,5", "", "-", "1e400", "²", "10.5."]
)
def test_one_odd_cell_does_not_hide_a_column_of_decimal_commas(odd: str) -> None:
    column = read_numbers([*COMMAS, odd])
    np.testing.assert_array_equal(column.numbers, [*YEARS, np.nan])
    assert column.has_commas
    assert column.form.startswith("with a decimal comma, like 5")


@pytest.mark.parametrize("odd", ["9,5", "n/a", "1,250", "10.5 y", "", "nan"])
def test_one_odd_cell_does_not_hide_a_column_of_decimal_points(odd: str) -> None:
    column = read_numbers([odd, *POINTS])
    np.testing.assert_array_equal(column.numbers, [np.nan, *YEARS])
    assert not column.has_commas
    assert bool(column.form) == (odd == "9,5")


def test_whole_numbers_belong_to_every_form() -> None:
    assert read_numbers(["10,5", "9", "0"]).numbers.tolist() == [10.5, 9, 0]
    assert read_numbers(["9", "10"]).form == ""
    assert np.isnan(read_numbers(["9", "1,250"]).numbers[1])  # 1.25 or 1250
    assert read_numbers(["9,5", "1,250"]).numbers.tolist() == [9.5, 1.25]
    assert read_numbers(["9,125", "1,250", "8,375"]).numbers.tolist() == [9.125, 1.25, 8.375]


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["3,652.5", "1,250"], [3652.5, 1250]),
        (["3.652,5", "1.250"], [3652.5, 1250]),
        (["3 652", "3'652", "3\u00a0652", "3652"], [3652] * 4),
        (["3652.5", "1,250", "98,5"], [3652.5, 1250, np.nan]),
        (["3,652", "1.250", "900"], [np.nan, np.nan, 900]),
    ],
)
def test_thousands_marks_are_read_where_other_cells_say_what_they_are(
    texts: list[str], numbers: list[float]
) -> None:
    column = read_numbers(texts, has_thousands=True)
    np.testing.assert_array_equal(column.numbers, numbers)
    if texts[-1] == "900":
        assert column.form == "without thousands marks"


def test_digits_of_other_scripts_are_digits() -> None:
    texts = ["\uff11\uff12\uff10", "\u06f1\u06f2\u06f0", "\u0661\u0662\u0660.5", "\u00b2", "x"]
    found = read_numbers(texts)
    np.testing.assert_array_equal(found.numbers, [120, 120, 120.5, np.nan, np.nan])
    assert np.isnan(read_numbers(["\uff11" * 1_000_000]).numbers[0])


def test_a_cell_of_a_million_digits_costs_no_time() -> None:
    texts = ["9" * 1_000_000 + "x", "1" + " " * 1_000_000 + "2", "9,5", "9" * 1_000_000]
    assert np.isnan(read_numbers(texts, has_thousands=True).numbers).tolist() == [1, 1, 0, 1]
