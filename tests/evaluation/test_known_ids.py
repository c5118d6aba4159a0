"""The ids that a model and those before it knew: complete, rarely wrong, readable by others."""

import base64
import hashlib

import pandas as pd
import pytest

from boneage.errors import InputError
from boneage.evaluation.known_ids import (
    KNOWN_IDS_NAME,
    KnownIds,
    filter_ids,
    find_known_ids,
    ids_of_table,
    read_known_ids,
    write_known_ids,
)
from boneage.run import Run
from boneage.runtime.files import read_json, write_json
from boneage.runtime.provenance import file_digest


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
    write_known_ids(tmp_path, ids_of_table(table))
    known = read_known_ids(tmp_path)
    assert known.filters[0].ids == 4
    assert [text in known for text in ("1", "2", "p1", "p2")] == [True] * 4
    assert known.count(table) == 2
    assert known.count(table[["image_id", "split"]]) == 2
    assert known.count(pd.DataFrame({"image_id": ["new", "p2"]})) == 1  # whichever column it was
    assert known.by_chance(table[["image_id", "split"]]) == pytest.approx(0.01)
    assert known.by_chance(table) == pytest.approx(0.0199)  # each image has two ids
    assert known.count(pd.DataFrame({"image_id": ["new", "7"], "patient_id": ["p1", ""]})) == 1


def test_the_file_is_read_by_its_own_rule(table, tmp_path):
    write_known_ids(tmp_path, ids_of_table(table.assign(image_id=["1", "ä", "3", "4"])))
    values = read_json(tmp_path / KNOWN_IDS_NAME)
    data = base64.b64decode(values["data"])
    digest = hashlib.sha256("ä".encode()).digest()
    a, b = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
    places = [(a + i * b) % values["bits"] for i in range(values["hashes"])]
    assert all(data[place // 8] >> (place % 8) & 1 for place in places)
    assert "sha256" in values["rule"]


def make_run(folder, ids, parent=None):
    """A run folder that was trained with a manifest of these ids; its model is a stand-in."""
    folder.mkdir()
    run = Run(folder)
    run.best_path.write_text(folder.name)
    path = folder / "manifest.csv"
    path.write_text("image_id,split\n" + "".join(f"{each},train\n" for each in ids) + "t,test\n")
    info = {"name": "tiny", "manifest": {"path": str(path), "digest": file_digest(path)}}
    if parent:
        init = {"name": "tiny", "digest": file_digest(parent.best_path)}
        info["init"] = init | {"folder": str(parent.folder)}
    write_json(run.info_path, info)
    return run


@pytest.fixture
def lineage(tmp_path):
    """Three runs; each but the first started from the one before."""
    first = make_run(tmp_path / "first", ["1", "2"])
    second = make_run(tmp_path / "second", ["3"], first)
    return first, second, make_run(tmp_path / "third", ["4"], second)


def test_what_the_models_before_a_run_knew_is_known(lineage):
    known = find_known_ids(lineage[2])
    assert known == KnownIds(frozenset("1234"))
    images = pd.DataFrame({"image_id": [*"12345", "t"]})
    assert (known.count(images), known.by_chance(images)) == (4, 0)


def test_a_release_has_the_filters_of_the_releases_before_it(lineage, tmp_path):
    first, second, third = lineage
    images = pd.DataFrame({"image_id": [*"123456789", "t"]})
    for number, run in enumerate((first, second), 1):
        write_known_ids(run.folder, find_known_ids(run))
        (run.folder / "manifest.csv").unlink()
        known = find_known_ids(run)
        assert [each in known for each in "1234"] == [True] * (number + 1) + [False] * (3 - number)
    known = find_known_ids(third)
    write_known_ids(tmp_path, known)
    for each in (known, read_known_ids(tmp_path)):
        assert each.complete
        assert 4 <= each.count(images) <= 5
    assert known.by_chance(images) == pytest.approx(1 - 0.99 ** len(known.filters))
    assert read_known_ids(tmp_path).by_chance(images) > known.by_chance(images)


@pytest.mark.parametrize("change", ["gone", "retrained", "no manifest", "damaged", "its own"])
def test_a_parent_whose_ids_are_unknown_is_reported(lineage, tmp_path, change):
    first, second, _ = lineage
    if change == "gone":
        first.best_path.unlink()
    elif change == "retrained":
        first.best_path.write_text("another")
    elif change == "no manifest":
        (first.folder / "manifest.csv").write_text("image_id,split\n")
    elif change == "damaged":
        first.info_path.write_text("{")
    else:
        own = {"folder": str(second.folder), "digest": file_digest(second.best_path)}
        write_json(second.info_path, second.read_info() | {"init": {"name": "tiny", **own}})
    known = find_known_ids(second)
    assert ("3" in known, "1" in known, known.complete) == (True, False, False)
    write_known_ids(tmp_path, known)
    assert not read_known_ids(tmp_path).complete
    (second.folder / "manifest.csv").unlink()
    assert find_known_ids(second) is None


def test_a_parent_that_is_gone_may_be_a_shipped_model(lineage, monkeypatch, tmp_path):
    first, second, _ = lineage
    first.folder.rename(tmp_path / "moved")
    shipped = {"other": second.folder, "moved": tmp_path / "moved"}
    monkeypatch.setattr("boneage.evaluation.known_ids.shipped_models", lambda: shipped)
    info = read_json(tmp_path / "moved" / "run.json")
    info["manifest"]["path"] = str(tmp_path / "moved" / "manifest.csv")
    write_json(tmp_path / "moved" / "run.json", info)
    assert find_known_ids(second) == KnownIds(frozenset("123"))


def test_a_file_of_an_earlier_version_says_nothing_of_parents(lineage, table):
    first, second, _ = lineage
    for run in (first, second):
        write_known_ids(run.folder, ids_of_table(table))
        values = read_json(run.folder / KNOWN_IDS_NAME)
        del values["parents"], values["complete"]
        write_json(run.folder / KNOWN_IDS_NAME, values)
    assert [find_known_ids(run).complete for run in (first, second)] == [True, False]


@pytest.mark.parametrize(
    "change", [{"data": "!"}, {"data": "QUJD"}, {"bits": 0}, {"hashes": "x"}, {"parents": [{}]}]
)
def test_a_damaged_file_is_refused(table, tmp_path, change):
    assert read_known_ids(tmp_path) is None
    write_known_ids(tmp_path, ids_of_table(table))
    path = tmp_path / KNOWN_IDS_NAME
    write_json(path, read_json(path) | change)
    with pytest.raises(InputError, match=KNOWN_IDS_NAME):
        read_known_ids(tmp_path)


def test_a_filter_without_ids_knows_nothing(table, tmp_path):
    write_known_ids(tmp_path, ids_of_table(table[2:]))
    assert read_known_ids(tmp_path).count(table) == 0
