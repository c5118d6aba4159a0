"""The filter of the ids that a release knew: complete, rarely wrong, readable by others."""

import base64
import hashlib

import pandas as pd
import pytest

from boneage.errors import InputError
from boneage.evaluation.known_ids import (
    KNOWN_IDS_NAME,
    filter_ids,
    read_known_ids,
    write_known_ids,
)
from boneage.runtime.files import read_json, write_json


def test_no_id_is_missed_and_one_in_a_hundred_others_is_found():
    ids = [str(number) for number in range(10_188)]
    known = filter_ids(ids)
    assert all(text in known for text in ids)
    others = sum(f"other-{number}" in known for number in range(20_000))
    assert 100 < others < 300
    assert len(known.content) < 12_300


@pytest.fixture
def table():
    splits = ["train", "val", "test", "test"]
    patients = ["p1", "p2", "p3", ""]
    ids = ["1", "2", "3", "ä4"]
    return pd.DataFrame({"image_id": ids, "split": splits, "patient_id": patients})


def test_image_ids_and_patient_ids_of_train_and_val_are_known(table, tmp_path):
    write_known_ids(tmp_path, table)
    known = read_known_ids(tmp_path)
    assert known.ids == 4
    assert [text in known for text in ("1", "2", "p1", "p2")] == [True] * 4
    assert known.count(table) == 2
    assert known.count(table[["image_id", "split"]]) == 2
    assert known.count(pd.DataFrame({"image_id": ["new", "p2"]})) == 1  # whichever column it was
    assert known.by_chance(table[["image_id", "split"]]) == pytest.approx(0.01)
    assert known.by_chance(table) == pytest.approx(0.0199)  # each image has two ids
    assert known.count(pd.DataFrame({"image_id": ["new", "7"], "patient_id": ["p1", ""]})) == 1


def test_the_file_is_read_by_its_own_rule(table, tmp_path):
    write_known_ids(tmp_path, table.assign(image_id=["1", "ä", "3", "4"]))
    values = read_json(tmp_path / KNOWN_IDS_NAME)
    data = base64.b64decode(values["data"])
    digest = hashlib.sha256("ä".encode()).digest()
    a, b = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    places = [(a + i * b) % values["bits"] for i in range(values["hashes"])]
    assert all(data[place // 8] >> (place % 8) & 1 for place in places)
    assert "sha256" in values["rule"]


@pytest.mark.parametrize("change", [{"data": "!"}, {"data": "QUJD"}, {"bits": 0}, {"hashes": "x"}])
def test_a_damaged_file_is_refused(table, tmp_path, change):
    assert read_known_ids(tmp_path) is None
    write_known_ids(tmp_path, table)
    path = tmp_path / KNOWN_IDS_NAME
    write_json(path, read_json(path) | change)
    with pytest.raises(InputError, match=KNOWN_IDS_NAME):
        read_known_ids(tmp_path)


def test_a_filter_without_ids_knows_nothing(table, tmp_path):
    write_known_ids(tmp_path, table[2:])
    assert read_known_ids(tmp_path).count(table) == 0
