from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from boneage.datasets.importers.rsna import import_rsna, parse_labels
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.errors import InputError

REAL = Path(os.environ.get("BONEAGE_REAL", Path(__file__).parents[4] / "shared" / "real"))
TRAIN = "train.csv"
VAL = "Bone Age Validation Set/Validation Dataset.csv"
TEST = "Bone Age Test Set/Bone age ground truth.xlsx"
TRAIN_IDS, VAL_IDS, TEST_IDS = range(1400, 1430), range(1386, 1398), range(4360, 4366)


def kaggle(root: Path, *, count: int = 40, nested: int = 2) -> Path:
    """The tree of Kaggle's archive, its images no more than a name."""
    images = root.joinpath(*["boneage-training-dataset"] * nested)
    images.mkdir(parents=True)
    rows = ["id,boneage,male"]
    for i in range(count):
        (images / f"{1377 + i}.png").touch()
        rows.append(f"{1377 + i},{12 + 5 * (i % 40)},{bool(i % 2)}")
    (root / "boneage-training-dataset.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def official(official_tree: Path, tmp_path: Path) -> Path:
    """The official archives unpacked, to be changed by a test."""
    return shutil.copytree(official_tree, tmp_path / "rsna")


def run(folder: Path, labels: Mapping[str, Path] | None = None, seed: int = 0) -> Manifest:
    out = folder.parent / "out" / "manifest.csv"
    return import_rsna(folder, out, labels=labels, seed=seed, progress=False)


def faults(folder: Path, labels: Mapping[str, Path] | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(folder, labels)
    assert not (folder.parent / "out").exists(), "something was written though there are faults"
    return [str(fault) for fault in caught.value.faults]


def counts(manifest: Manifest) -> dict[str, int]:
    return {str(k): int(v) for k, v in manifest.table["split"].value_counts().items()}


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def write_rows(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("nested", [0, 1, 2])
def test_the_kaggle_layout_is_imported_at_any_depth(tmp_path: Path, nested: int) -> None:
    manifest = run(kaggle(tmp_path / "kaggle", nested=nested))
    table = manifest.table
    assert counts(manifest) == {"train": 32, "val": 4, "test": 4}
    assert set(table["source"]) == {"rsna-kaggle"}
    first = table.iloc[0]
    assert (first["image_id"], first["age_months"], first["sex"]) == ("1377", 12.0, "F")
    assert table.iloc[1]["sex"] == "M"
    assert not Path(first["image"]).is_absolute()
    assert all(path.is_file() for path in manifest.image_paths())
    assert read_manifest(manifest.path).table.equals(table)
    assert "40 labelled images; the challenge's training set has 12,611." in manifest.notes
    assert any("no official validation or test set" in note for note in manifest.notes)


def test_the_official_layout_is_imported_as_its_archives_unpack(official: Path) -> None:
    manifest = run(official)
    table = manifest.table.set_index("image_id")
    assert counts(manifest) == {"train": 30, "val": 12, "test": 6}
    assert set(table["source"]) == {"rsna-official"}
    assert [int(name) for name in table.index] == [*TRAIN_IDS, *VAL_IDS, *TEST_IDS]
    for name, split in ((1400, "train"), (1386, "val"), (1397, "val"), (4360, "test")):
        radiograph, row = phantom(0, name, 64), table.loc[str(name)]
        assert (row["split"], row["sex"]) == (split, radiograph.sex)
        assert row["age_months"] == radiograph.age_months + (0.37 if split == "test" else 0)
        assert Path(row["image"]).stem == str(name)
    assert "12 labelled images; the challenge's validation set has 1,425." in manifest.notes
    assert "Training, validation and test are the challenge's own." in manifest.notes


def test_a_manifest_inside_the_dataset_is_not_read_as_labels(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    for _ in range(2):
        assert len(import_rsna(folder, folder / "manifest.csv", progress=False)) == 40


@pytest.mark.parametrize("codes", [("True", "False"), ("TRUE", "FALSE"), ("1", "0"), ("M", "F")])
def test_ids_and_sexes_in_their_known_forms(tmp_path: Path, codes: tuple[str, str]) -> None:
    folder = kaggle(tmp_path / "k", count=2)
    rows = f"ID,Male,Boneage\n1377.png,{codes[0]},90\n1378.0,{codes[1]},90\n"
    (folder / "boneage-training-dataset.csv").write_text(rows)
    table = run(folder).table
    assert table["image_id"].tolist() == ["1377", "1378"]
    assert table["sex"].tolist() == ["M", "F"]


def test_tables_are_found_by_columns_and_images_by_id(official: Path) -> None:
    columns = ["image_id", "age_months", "sex", "split", "source"]
    before = run(official).table[columns]
    (official / "all" / "of it").mkdir(parents=True)
    for path in sorted(official.rglob("*.*")):
        path.rename(official / "all" / "of it" / path.name)
    (official / "all" / "of it" / TRAIN).rename(official / "labels of 2017.csv")
    after = run(official)
    assert after.table[columns].equals(before)
    assert all(path.is_file() for path in after.image_paths())


def test_other_columns_need_the_option_labels(official: Path) -> None:
    rows = read_rows(official / TRAIN)[1:]
    (official / TRAIN).unlink()
    sexes = {"True": "M", "False": "F"}
    mine = [(f"{name}.png", sexes[male], age) for name, age, male in rows]
    write_rows(official / "mine.csv", ("filename", "gender", "bone_age"), *mine)
    text = "\n".join(faults(official))
    assert "its columns don't say which split it labels: filename, gender, bone_age" in text
    assert "--labels train=FILE" in text

    labels = {"train": official / "mine.csv", "val": official / VAL}
    manifest = run(official, labels)
    assert counts(manifest) == {"train": 27, "val": 12, "test": 3}
    assert set(manifest.table["source"]) == {"rsna-own-labels", "rsna-seeded-test"}
    assert any("6 images have no row" in note for note in manifest.notes)
    assert any("named with --labels" in note for note in manifest.notes)


def test_faults_of_named_tables_come_at_once(official: Path) -> None:
    write_rows(official / "val.csv", ("id", "bonage", "male"), (1400, 90, "True"))
    labels = {"train": official / "none.csv", "val": official / "val.csv"}
    text = "\n".join(faults(official, labels))
    assert "none.csv: there is no such file" in text
    assert "Did you mean 'bonage'?" in text


def test_1_means_male_only_in_a_column_called_male(official: Path) -> None:
    write_rows(official / "mine.csv", ("id", "boneage", "sex"), (1400, 90, 1), (1401, 90, "F"))
    [text] = faults(official, {"train": official / "mine.csv"})
    assert "row 2 (id 1400): sex is '1'; expected M or F" in text


def test_the_option_labels_is_parsed() -> None:
    assert parse_labels(["train=a=b.csv", "test=c.xlsx"]) == {
        "train": Path("a=b.csv"),
        "test": Path("c.xlsx"),
    }
    for texts in (["train"], ["train="], ["dev=a.csv"], ["val=a.csv", "val=b.csv"]):
        with pytest.raises(InputError, match="--labels"):
            parse_labels(texts)


def test_ids_of_the_test_set_are_kept_apart(official: Path) -> None:
    (official / TEST).unlink()
    header = ("Case ID", "Sex", "Ground truth bone age (months)")
    write_rows(official / "some.csv", header, (1300, "M", 90.5), (4360, "F", 90.5))
    with (official / TRAIN).open("a") as file:
        file.write("4361,100,True\n")
    text = "\n".join(faults(official))
    assert "train.csv: row 32 (id 4361): id 4361 is in the official test set" in text
    assert "id 1300 is not in the official test set" in text
    [named] = faults(official, {"train": official / TRAIN})
    assert "id 4361 is in the official" in named


def test_splits_of_which_only_some_are_there(official: Path) -> None:
    copy = Path(shutil.copytree(official, official.parent / "copy"))
    (copy / TRAIN).unlink()
    manifest = run(copy)
    assert counts(manifest) == {"val": 12, "test": 6}
    assert any("no training set" in note for note in manifest.notes)
    for path in (VAL, TEST):
        shutil.rmtree(official / Path(path).parent)
    manifest, again, other = run(official), run(official), run(official, seed=1)
    assert counts(manifest) == {"train": 24, "val": 3, "test": 3}
    assert set(manifest.table["source"]) == {"rsna-seeded"}
    assert manifest.digest == again.digest != other.digest


@pytest.mark.parametrize(
    ("absent", "kept", "word"), [("val", "test", "validation"), ("test", "val", "test")]
)
def test_a_tenth_of_the_training_images_replaces_an_absent_split(
    official: Path, absent: str, kept: str, word: str
) -> None:
    shutil.rmtree(official / Path(VAL if absent == "val" else TEST).parent)
    manifest = run(official)
    assert counts(manifest) == {"train": 27, absent: 3, kept: {"val": 12, "test": 6}[kept]}
    table = manifest.table.set_index("split")
    assert {int(name) for name in table.loc[absent, "image_id"]} < set(TRAIN_IDS)
    assert set(table.loc[absent, "source"]) == {f"rsna-seeded-{absent}"}
    assert set(table.loc[["train", kept], "source"]) == {"rsna-official"}
    assert any(f"There is no official {word} set" in note for note in manifest.notes)


def test_kaggles_test_images_are_tested_on_once_their_ages_are_there(official: Path) -> None:
    shutil.rmtree(official / Path(VAL).parent)
    (official / TRAIN).rename(official / "boneage-training-dataset.csv")
    truth = (official / TEST).rename(official / "truth.xlsx")
    rows = [(name, "M") for name in TEST_IDS]
    write_rows(official / "boneage-test-dataset.csv", ("Case ID", "Sex"), *rows)
    assert counts(run(official)) == {"train": 27, "val": 3, "test": 6}
    truth.unlink()
    manifest = run(official)
    assert set(manifest.table["source"]) == {"rsna-kaggle"}
    text = "\n".join(manifest.notes)
    assert "6 images have no row" in text
    assert "4360 to 4559 are the official test set" in text


@pytest.mark.parametrize("path", [VAL, TEST])
def test_a_seeded_split_does_not_replace_a_broken_table(official: Path, path: str) -> None:
    content = (official / path).read_bytes()
    (official / path).write_bytes(content[:30] + b"\xff")
    assert Path(path).name in faults(official)[0]


def test_missing_images_and_copies_are_faults(tmp_path: Path) -> None:
    folder = kaggle(tmp_path / "k")
    (folder / "resized").mkdir()
    (folder / "resized" / "1377.png").touch()
    next(folder.rglob("1380.png")).unlink()
    missing, several = faults(folder)
    assert "row 5 (id 1380): there is no image 1380.png" in missing
    assert "row 2 (id 1377): several files have this id" in several
    assert "resized/1377.png" in several


def test_all_faults_of_all_tables_come_at_once(official: Path) -> None:
    text = (official / TRAIN).read_text().replace("1401,", "1401x,", 1) + "1386,90,True\n"
    (official / TRAIN).write_text(
        text + "1500,90,maybe\n1402.png,90,True\n1501,ninety,True\n1502,500,False\n"
    )
    rows = read_rows(official / VAL)
    write_rows(official / VAL, rows[0], *((n, sex, int(age) / 12) for n, sex, age in rows[1:]))
    next(official.rglob("4362.png")).unlink()
    found = "\n".join(faults(official))
    for part in (
        "male is 'maybe'; expected True (boy) or False (girl)",
        "id 1402.png is already in row 4",
        "boneage is 'ninety'",
        "boneage is 500; expected months from 0 to 240",
        "there is no image 1401x.png",
        "the largest of the column",
        "there is no image 4362.png",
        "(Image ID 1386): id 1386 is in train.csv too",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no table below it has the columns of the challenge"),
        ({"a.csv": "id,bonage,male\n1,9,True\n"}, "no table below it"),
        ({"a.csv": ""}, "it is empty"),
        (
            {f"{n}.csv": f"id,boneage,male\n1,{n},True\n" for n in (90, 91)},
            "several tables",
        ),
    ],
)
def test_a_folder_of_another_layout_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        import_rsna(tmp_path, tmp_path / "out" / "manifest.csv", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("100px", 11_320), ("half", 1_066)])
def test_the_real_radiographs_are_imported_whole(tmp_path: Path, name: str, count: int) -> None:
    folder = REAL / f"rsna-kaggle-{name}"
    if not folder.is_dir():
        pytest.skip("the RSNA radiographs may not be redistributed and are not here")
    manifest = import_rsna(folder, tmp_path / "manifest.csv", progress=False)
    assert len(manifest) == count
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert abs(len(manifest.split(split)) - share * count) < 1.5
        assert abs(manifest.split(split).age_months().mean() - 127.3) < 1.5
