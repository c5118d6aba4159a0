from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from boneage.datasets.audit.audit import audit
from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError

TRAIN = "train.csv"
VAL = "Bone Age Validation Set/Validation Dataset.csv"
TEST = "Bone Age Test Set/Bone age ground truth.xlsx"
VAL_IMAGES = "Bone Age Validation Set/boneage-validation-dataset-"
TRAIN_IDS, VAL_IDS, TEST_IDS = range(1400, 1430), range(1386, 1398), range(4360, 4366)


@pytest.fixture
def official(official_tree: Path, tmp_path: Path) -> Path:
    """The same tree, to be spoilt."""
    return shutil.copytree(official_tree, tmp_path / "rsna")


def write_csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def faults(folder: Path) -> str:
    out = folder.parent / "manifest.csv"
    with pytest.raises(InputError) as caught:
        import_rsna(folder, out, progress=False)
    assert not out.exists(), "something was written though there are faults"
    return "\n".join(str(fault) for fault in caught.value.faults)


def counts(folder: Path) -> dict[str, int]:
    manifest = import_rsna(folder, folder.parent / "manifest.csv", progress=False)
    return {str(k): int(v) for k, v in manifest.table["split"].value_counts().items()}


def test_the_official_archives_are_imported_as_they_unpack(official_tree: Path) -> None:
    out = official_tree.parent / "manifest.csv"
    manifest = import_rsna(official_tree, out, progress=False)
    table = manifest.table.set_index("image_id")

    assert table["split"].value_counts().to_dict() == {"train": 30, "val": 12, "test": 6}
    assert set(table["source"]) == {"rsna-official"}
    assert [int(name) for name in table.index] == [*TRAIN_IDS, *VAL_IDS, *TEST_IDS]
    for name, split in ((1400, "train"), (1386, "val"), (1397, "val"), (4360, "test")):
        radiograph = phantom(0, name, 64)
        row = table.loc[str(name)]
        shift = 0.37 if split == "test" else 0
        assert row["split"] == split
        assert row["sex"] == radiograph.sex
        assert row["age_months"] == pytest.approx(radiograph.age_months + shift)
        assert Path(row["image"]).stem == str(name)
    assert not audit(out, progress=False).has_errors


def test_counts_are_set_beside_the_challenges(official_tree: Path) -> None:
    out = official_tree.parent / "counts.csv"
    notes = import_rsna(official_tree, out, progress=False).notes
    assert "30 labelled images; the challenge's training set has 12,611." in notes
    assert "12 labelled images; the challenge's validation set has 1,425." in notes
    assert "6 labelled images; the challenge's test set has 200." in notes
    assert "Training, validation and test are the challenge's own." in notes


def rename_all(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "boneage-training-dataset").rename(root / "a" / "films")
    (root / TRAIN).rename(root / "a" / "b" / "labels of 2017.csv")
    (root / "Bone Age Validation Set").rename(root / "a" / "Neuer Ordner (2)")
    (root / "Bone Age Test Set").rename(root / "test")
    (root / "test" / "Bone age ground truth.xlsx").rename(root / "b.xlsx")


def merge_all(root: Path) -> None:
    (root / "all").mkdir()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            path.rename(root / "all" / path.name)


def nest_all(root: Path) -> None:
    shutil.move(root, root.parent / "moved")
    shutil.move(root.parent / "moved", root / "download" / "rsna" / "rsna")


def without_folders_of_the_archives(root: Path) -> None:
    for name in ("Bone+Age+Training+Set", "Bone+Age+Validation+Set"):
        (root / name).mkdir()
    (root / "boneage-training-dataset").rename(
        root / "Bone+Age+Training+Set" / "boneage-training-dataset"
    )
    shutil.move(root / "Bone Age Validation Set", root / "Bone+Age+Validation+Set")


@pytest.mark.parametrize(
    "rearrange", [rename_all, merge_all, nest_all, without_folders_of_the_archives]
)
def test_renamed_merged_and_nested_trees_give_the_same_rows(
    official: Path, official_tree: Path, rearrange: Callable[[Path], None]
) -> None:
    columns = ["image_id", "age_months", "sex", "split", "source"]
    out = official.parent / "manifest.csv"
    before = import_rsna(official_tree, out, progress=False).table[columns]
    rearrange(official)
    after = import_rsna(official, out, progress=False)
    assert after.table[columns].equals(before)
    assert all(path.is_file() for path in after.image_paths())


def test_tables_saved_anew_are_told_by_their_ids_and_by_what_is_left_of_the_names(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "boneage.datasets.importers.rsna_labels.COUNTS", {"train": 30, "val": 12, "test": 6}
    )
    header = "id,boneage,male"
    val = read_rows(official / VAL)[1:]
    write_csv(official / "validate.csv", header, [(n, age, male) for n, male, age in val])
    test = [(n, 90.5, "True") for n in TEST_IDS]
    write_csv(official / "some.csv", header, [*test])
    (official / VAL).unlink()
    (official / TEST).unlink()
    manifest = import_rsna(official, official.parent / "manifest.csv", progress=False)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 30, "val": 12, "test": 6}
    assert set(manifest.table["source"]) == {"rsna-official"}
    text = "\n".join(manifest.notes)
    assert "validate.csv is taken for the validation set by its number of rows" in text
    assert "some.csv is taken for the test set by its ids" in text
    assert "All 12 validation images of the challenge." in text


def test_a_split_of_ones_own_is_not_taken_for_the_official_one(official: Path) -> None:
    rows = read_rows(official / TRAIN)
    write_csv(official / "my_val.csv", "id,boneage,male", [tuple(row) for row in rows[1:6]])
    (official / VAL).unlink()
    assert (
        "my_val.csv: it can't be told which split it labels: it is called my_val.csv and has "
        "5 ids, not the 1,425 official ones; expected one of id,boneage,male (train); Image ID"
    ) in faults(official)


def test_training_labels_that_hold_test_images_are_refused(official: Path) -> None:
    with (official / TRAIN).open("a") as file:
        file.write("4361,100,True\n")
    assert "train.csv: 1 of its ids are those of official test images" in faults(official)


def test_a_test_table_with_other_ids_is_refused(official: Path) -> None:
    book = openpyxl.load_workbook(official / TEST)
    book.active.append([1400, "M", 90.5])
    book.save(official / TEST)
    assert (
        "its columns are the test set's, and 1 of its 7 ids are not; expected the ids 4360 to 4559"
        in faults(official)
    )


def test_an_id_in_two_splits_is_refused(official: Path) -> None:
    with (official / VAL).open("a") as file:
        file.write("1400,TRUE,100\n")
    text = faults(official)
    assert "row 14 (Image ID 1400): id 1400 stands in train.csv too" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("absent", "kept", "word"), [("val", "test", "validation"), ("test", "val", "test")]
)
def test_for_one_absent_split_a_tenth_of_the_training_images_stands_in(
    official: Path, absent: str, kept: str, word: str
) -> None:
    place = {"val": "Bone Age Validation Set", "test": "Bone Age Test Set"}[absent]
    shutil.rmtree(official / place)
    manifest = import_rsna(official, official.parent / "manifest.csv", progress=False)
    table = manifest.table.set_index("split")
    assert len(table.loc["train"]) == 27
    assert len(table.loc[absent]) == 3
    assert {int(name) for name in table.loc[absent, "image_id"]} < set(TRAIN_IDS)
    assert set(table.loc[absent, "source"]) == {f"rsna-seeded-{absent}"}
    assert set(table.loc[["train", kept], "source"]) == {"rsna-official"}
    assert len(table.loc[kept]) == {"val": 12, "test": 6}[kept]
    assert any(
        f"There is no official {word} set here" in n and "(seed 0)" in n for n in manifest.notes
    )


def test_official_training_images_alone_get_a_seeded_split(official: Path) -> None:
    for place in ("Bone Age Validation Set", "Bone Age Test Set"):
        shutil.rmtree(official / place)
    manifest = import_rsna(official, official.parent / "manifest.csv", progress=False)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 24, "val": 3, "test": 3}
    assert set(manifest.table["source"]) == {"rsna-seeded"}
    assert any("no official validation or test set" in note for note in manifest.notes)


def test_validation_and_test_alone_are_good_for_evaluating(official: Path) -> None:
    shutil.rmtree(official / "boneage-training-dataset")
    (official / TRAIN).unlink()
    manifest = import_rsna(official, official.parent / "manifest.csv", progress=False)
    assert manifest.table["split"].value_counts().to_dict() == {"val": 12, "test": 6}
    assert any("no training set" in note for note in manifest.notes)


def test_kaggles_test_images_become_the_official_test_set_with_its_ground_truth(
    official: Path,
) -> None:
    shutil.rmtree(official / "Bone Age Validation Set")
    (official / TRAIN).rename(official / "boneage-training-dataset.csv")
    truth = (official / TEST).rename(official / "truth.xlsx")
    write_csv(official / "boneage-test-dataset.csv", "Case ID,Sex", [(n, "M") for n in TEST_IDS])
    assert counts(official) == {"train": 27, "val": 3, "test": 6}
    truth.unlink()
    manifest = import_rsna(official, official.parent / "manifest.csv", progress=False)
    assert set(manifest.table["source"]) == {"rsna-kaggle"}
    assert any("4360 to 4559 are the official test set" in note for note in manifest.notes)


def test_the_release_of_baar_is_read_too(official: Path) -> None:
    for place in ("Bone Age Validation Set", "Bone Age Test Set"):
        shutil.rmtree(official / place)
    tables = official / "RSNA_Annotations" / "BONEAGE"
    rows = [(n, male, age) for n, age, male in read_rows(official / TRAIN)[1:]]
    write_csv(tables / "boneage_train.csv", "ID,Male,Boneage", rows)
    write_csv(tables / "gender_test.csv", "ID,Male", [(n, "True") for n in TEST_IDS])
    (official / TRAIN).unlink()
    (official / "RSNA_train").mkdir()
    (official / "boneage-training-dataset").rename(official / "RSNA_train" / "images")
    manifest = import_rsna(official, official.parent / "manifest.csv", progress=False)
    assert len(manifest) == 30
    assert set(manifest.table["source"]) == {"rsna-seeded"}
    assert any("BONEAGE/gender_test.csv has no ages" in note for note in manifest.notes)


def pack(folder: Path) -> Path:
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)
    return archive


def test_archives_that_are_still_packed_are_named(official: Path) -> None:
    with zipfile.ZipFile(official / "something else.zip", "w") as file:
        file.writestr("readme.txt", "")
    for number in "12":
        pack(official / (VAL_IMAGES + number))
    text = faults(official)
    assert "there is no image 1386.png" in text
    assert text.count(f"Unpack {VAL_IMAGES}1.zip, {VAL_IMAGES}2.zip first.") == 12


@pytest.mark.parametrize("place", ["Bone Age Validation Set", "Bone Age Test Set"])
def test_a_packed_split_is_not_made_up_for_unsaid(official: Path, place: str) -> None:
    pack(official / place)
    text = faults(official)
    assert "is still packed in it" in text
    assert f"{place}.zip" in text
    assert "Unpack it first" in text


def test_archives_left_beside_what_they_unpacked_to_do_no_harm(official: Path) -> None:
    copy = shutil.copytree(official / "Bone Age Test Set", official / "copy" / "Bone Age Test Set")
    pack(copy)
    assert counts(official) == {"train": 30, "val": 12, "test": 6}


def test_a_ground_truth_that_cannot_be_read_is_not_made_up_for(official: Path) -> None:
    (official / TEST).write_bytes((official / TEST).read_bytes()[:3000])
    assert "Bone age ground truth.xlsx" in faults(official)


def test_faults_of_all_tables_come_at_once(official: Path) -> None:
    for path, old, new in ((TRAIN, "1401,", "1401x,"), (VAL, "TRUE", "perhaps")):
        text = (official / path).read_text()
        (official / path).write_text(text.replace(old, new, 1))
    next(official.rglob("4362.png")).unlink()
    text = faults(official)
    for part in ("there is no image 1401x.png", "male is 'perhaps'", "there is no image 4362.png"):
        assert part in text


def test_months_that_look_like_years_are_refused_in_each_table(official: Path) -> None:
    rows = read_rows(official / VAL)
    write_csv(official / VAL, ",".join(rows[0]), [(n, s, int(a) / 12) for n, s, a in rows[1:]])
    assert "the largest of all; expected months" in faults(official)
