from __future__ import annotations

import pytest

from experiments.throughput.benchmark.result import add_ratios, document, rates_row, table


def test_a_row_has_the_median_and_the_spread():
    row = rates_row("ours", [30.0, 10.0, 20.0], peak_memory_mb=7)
    assert row == {
        "name": "ours",
        "images_per_second": 20.0,
        "low": 10.0,
        "high": 30.0,
        "rounds": [30.0, 10.0, 20.0],
        "peak_memory_mb": 7,
    }


def test_a_ratio_compares_what_ran_in_the_same_round():
    # Both are half as fast in the second round and both a tenth in the third.
    ours, theirs = rates_row("ours", [100.0, 50.0, 10.0]), rates_row("theirs", [50.0, 25.0, 5.0])
    gone = {"name": "gone", "skipped": "it is not installed"}
    add_ratios([ours, theirs, gone], "ours")
    assert ours["ratio"] == 1.0
    assert theirs["ratio"] == 2.0
    assert "ratio" not in gone


def test_without_ours_there_are_no_ratios():
    rows = [rates_row("theirs", [1.0])]
    add_ratios(rows, "ours")
    assert "ratio" not in rows[0]


def test_the_document_says_where_it_was_measured():
    found = document({"size": 299}, [], device="a GPU", growth_mb=3)
    assert found["settings"] == {"size": 299}
    assert found["rows"] == []
    assert found["growth_mb"] == 3
    assert found["machine"]["device"] == "a GPU"
    assert found["machine"]["processor"]
    assert found["machine"]["versions"]["numpy"]
    assert document({}, [])["machine"]["cores"] >= 1


def test_the_table_lines_up_and_gives_reasons():
    rows = [
        {"name": "fast", "images_per_second": 12345.6, "ratio": 1.0},
        {"name": "missing one", "skipped": "torch is not installed"},
        {"name": "broken", "error": "ValueError: no"},
        {"name": "slow", "images_per_second": 1.2345},
    ]
    lines = table(rows, {"images_per_second": "images/s", "ratio": "ours / it"}).splitlines()
    assert lines[0].split("  ")[-1].strip() == "images/s ours / it"
    assert lines[1] == "fast          12,346         1"
    assert lines[2] == "missing one skipped: torch is not installed"
    assert lines[3] == "broken      failed: ValueError: no"
    assert lines[4] == "slow            1.23         -"


@pytest.mark.parametrize("rows", [[], [{"name": "x", "skipped": "y"}]])
def test_a_table_of_nothing_is_still_a_table(rows):
    assert "images/s" in table(rows, {"images_per_second": "images/s"})
