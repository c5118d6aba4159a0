from __future__ import annotations

import pandas as pd
import pytest

from boneage.errors import InputError
from boneage.evaluation.groups import EMPTY, group_by_columns


def counts(column: list[object]) -> dict[str, int]:
    groups = group_by_columns(pd.DataFrame({"c": column}), ["c"], "m.csv")["c"]
    assert sum(members.sum() for members in groups.values()) == len(column)
    return {name: int(members.sum()) for name, members in groups.items()}


def test_text_and_few_numbers_are_groups_as_they_are_and_empty_cells_one_of_their_own() -> None:
    assert counts(["b", "a", " a", "", None]) == {"a": 2, "b": 1, EMPTY: 2}
    assert counts(["3", "1", "1.0", ""]) == {"1": 2, "3": 1, EMPTY: 1}
    assert counts(["", ""]) == {EMPTY: 2}


def test_numbers_of_many_digits_are_groups_of_their_own() -> None:
    stations = [str(1_000_000 + row % 3) for row in range(60)]
    assert counts(stations) == {"1000000": 20, "1000001": 20, "1000002": 20}
    days = [str(20170101 + row) for row in range(35)]
    assert list(counts(days))[-1] == "20170126.5 to 20170135"
    assert counts(["0.1", "0.10000001"]) == {"0.1": 1, "0.10000001": 1}


def test_many_numbers_are_divided_at_their_quartiles() -> None:
    assert counts([str(number) for number in range(1, 10)]) == {
        "1 to under 3": 2, "3 to under 5": 2, "5 to under 7": 2, "7 to 9": 3,
    }  # fmt: skip
    assert counts([float(number) for number in range(8)] + [None])[EMPTY] == 1
    tied = counts(["0"] * 20 + ["1", "2", "3", "4", "5", "6", "7"])  # quartiles that are equal
    assert sum(tied.values()) == 27


def test_missing_columns_and_too_many_groups_are_reported_together() -> None:
    table = pd.DataFrame({"image_id": list("abcdefghijklmn"), "name": list("abcdefghijklmn")})
    with pytest.raises(InputError) as caught:
        group_by_columns(table, ["race", "name", "image_id"], "m.csv")
    messages = [str(fault) for fault in caught.value.faults]
    assert "--by race: there is no such column" in messages[0]
    assert "--by name: the column has 14 different values" in messages[1]
    assert "--by image_id" in messages[2]


def test_a_name_is_short_and_has_no_control_characters() -> None:
    assert list(counts(["a\x1bb", "x" * 200])) == ["a b", "x" * 59 + "…"]
