from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from boneage.datasets.importers.rsna import import_rsna
from boneage.datasets.manifest import read_manifest
from boneage.errors import InputError

REAL = Path(os.environ.get("BONEAGE_REAL", Path(__file__).parents[3] / "shared" / "real"))


def kaggle(root: Path, *, count: int = 40, nested: int = 2) -> Path:
    """The tree that Kaggle's archive unpacks to, its images no more than a name."""
    images = root.joinpath(*["boneage-training-dataset"] * nested)
    images.mkdir(parents=True)
    rows = ["id,boneage,male"]
    for i in range(count):
        (images / f"{1377 + i}.png").touch()
        rows.append(f"{1377 + i},{12 + 5 * (i % 40)},{bool(i % 2)}")
    (root / "boneage-training-dataset.csv").write_text("\n".join(rows) + "\n")
    return root


def faults(folder: Path, out: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        import_rsna(folder, out, progress=False)
    assert not out.exists(), "something was written though there are faults"
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("nested", [0, 1, 2])
def test_the_kaggle_layout_is_imported_however_it_is_nested(tmp_path: Path, nested: int) -> None:
    folder = kaggle(tmp_path / "kaggle", nested=nested)
    manifest = import_rsna(folder, tmp_path / "new" / "manifest.csv", progress=False)

    table = manifest.table
    assert len(manifest) == 40
    assert table["split"].value_counts().to_dict() == {"train": 32, "val": 4, "test": 4}
    assert set(table["source"]) == {"rsna-kaggle"}
    first = table.iloc[0]
    assert (first["image_id"], first["age_months"], first["sex"]) == ("1377", 12.0, "F")
    assert table.iloc[1]["sex"] == "M"
    assert not Path(first["image"]).is_absolute()
    assert manifest.image_paths()[0].name == "1377.png"
    assert read_manifest(manifest.path).table.equals(table)


def test_notes_tell_counts_and_that_the_split_is_not_the_official_one(tmp_path: Path) -> None:
    notes = import_rsna(kaggle(tmp_path), tmp_path / "manifest.csv", progress=False).notes
    assert "40 labelled images; the challenge's training set has 12,611." in notes
    assert any("no official validation or test set" in note for note in notes)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = kaggle(tmp_path / "kaggle")
    out = tmp_path / "manifest.csv"
    digests = [import_rsna(folder, out, seed=s, progress=False).digest for s in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_manifest_and_dataset_move_together(tmp_path: Path) -> None:
    folder = kaggle(tmp_path / "old" / "kaggle")
    import_rsna(folder, tmp_path / "old" / "manifest.csv", progress=False)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert len(read_manifest(tmp_path / "new" / "manifest.csv")) == 40


def test_a_manifest_inside_the_dataset_is_not_taken_for_labels(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    for _ in range(2):
        assert len(import_rsna(folder, folder / "manifest.csv", progress=False)) == 40


def test_a_dataset_behind_links_is_followed_once(tmp_path: Path) -> None:
    folder = kaggle(tmp_path / "store")
    (folder / "boneage-training-dataset" / "up").symlink_to(folder, target_is_directory=True)
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    manifest = import_rsna(tmp_path / "link", tmp_path / "out" / "manifest.csv", progress=False)
    assert all(path.is_file() for path in manifest.image_paths())


@pytest.mark.parametrize("header", ["id,boneage,male", "ID,Male,Boneage", "Image ID,Bone Age,MALE"])
@pytest.mark.parametrize("codes", [("True", "False"), ("TRUE", "FALSE"), ("1", "0"), ("M", "F")])
def test_headers_and_codes_in_their_known_variants(
    tmp_path: Path, header: str, codes: tuple[str, str]
) -> None:
    male_last = header.lower().endswith("male")
    rows = [
        f"{name}.png,90,{code}" if male_last else f"{name}.0,{code},90"
        for name, code in zip((1377, 1378), codes, strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    for name in (1377, 1378):
        (tmp_path / f"{name}.png").touch()
    table = import_rsna(tmp_path, tmp_path / "out" / "manifest.csv", progress=False).table
    assert table["image_id"].tolist() == ["1377", "1378"]
    assert table["sex"].tolist() == ["M", "F"]


def test_1_is_refused_where_nothing_says_that_it_means_male(tmp_path: Path) -> None:
    folder = kaggle(tmp_path, count=2)
    (folder / "boneage-training-dataset.csv").write_text("id,boneage,sex\n1377,90,1\n1378,90,F\n")
    found = faults(folder, tmp_path / "manifest.csv")
    assert len(found) == 1
    assert "row 2 (id 1377): sex is '1'; expected M or F" in found[0]


def test_rows_without_an_image_are_a_fault_never_dropped(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    for name in (1380, 1390):
        next(folder.rglob(f"{name}.png")).unlink()
    found = faults(folder, tmp_path / "manifest.csv")
    assert "there is no image 1380.png" in found[0]
    assert "there is no image 1390.png" in found[1]
    assert "row 5 (id 1380)" in found[0]
    assert len(found) == 2


def test_many_missing_images_are_one_fault_that_names_the_archive(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    shutil.rmtree(folder / "boneage-training-dataset")
    (folder / "boneage-training-dataset.zip").touch()
    found = faults(folder, tmp_path / "manifest.csv")
    assert len(found) == 1
    assert "40 rows (2, 3, 4, 5, 6, …) (id 1377, 1378, 1379, 1380, 1381, …)" in found[0]
    assert "Unpack boneage-training-dataset.zip first." in found[0]


def test_images_without_a_row_and_the_unlabelled_test_set_are_told(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    test_images = folder / "boneage-test-dataset" / "boneage-test-dataset"
    test_images.mkdir(parents=True)
    for name in (4360, 4361):
        (test_images / f"{name}.png").touch()
    (folder / "boneage-test-dataset.csv").write_text("Case ID,Sex\n4360,M\n4361,F\n")
    manifest = import_rsna(folder, tmp_path / "manifest.csv", progress=False)
    assert len(manifest) == 40
    assert any("2 images have no row" in n and "4360, 4361" in n for n in manifest.notes)
    assert any("boneage-test-dataset.csv has no ages" in note for note in manifest.notes)


def test_a_table_that_cannot_be_read_beside_the_labels_is_told(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    (folder / "official.csv").write_bytes("id,boneage,male\n1377,90,Müller\n".encode("latin-1"))
    notes = import_rsna(folder, tmp_path / "manifest.csv", progress=False).notes
    assert (
        "official.csv can't be read; the labels are those of boneage-training-dataset.csv." in notes
    )


def test_an_id_with_two_files_that_differ_is_refused(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    (folder / "resized").mkdir()
    (folder / "resized" / "1377.png").write_bytes(b"smaller")
    found = faults(folder, tmp_path / "manifest.csv")
    assert len(found) == 1
    assert "row 2 (id 1377): several files have its name and they differ" in found[0]
    assert "resized/1377.png" in found[0]


def test_copies_that_are_the_same_do_no_harm_and_are_told(tmp_path: Path) -> None:
    folder = kaggle(tmp_path / "kaggle")
    shutil.copytree(folder, folder / "Copy of it")
    manifest = import_rsna(folder, tmp_path / "manifest.csv", progress=False)
    assert len(manifest) == 40
    assert not any("Copy" in image for image in manifest.table["image"])
    text = "\n".join(manifest.notes)
    assert "40 images are there more than once, the same byte for byte" in text
    assert "Copy of it/boneage-training-dataset.csv says the same as boneage-training" in text


def test_litter_of_archivers_is_passed_over(tmp_path: Path) -> None:
    folder = kaggle(tmp_path)
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "1377.png").touch()
    (folder / "._boneage-training-dataset.csv").write_bytes(b"\x00\x05\x16\x07\xff")
    assert len(import_rsna(folder, tmp_path / "manifest.csv", progress=False)) == 40


def test_all_faults_of_the_labels_come_at_once(tmp_path: Path) -> None:
    folder = kaggle(tmp_path, count=4)
    (folder / "boneage-training-dataset.csv").write_text(
        "id,boneage,male\n1377,90,maybe\n1377.png,ninety,True\n1379,500,False\n9999,90,True\n"
    )
    text = "\n".join(faults(folder, tmp_path / "manifest.csv"))
    for part in (
        "male is 'maybe'; expected True (boy) or False (girl)",
        "id 1377.png stands in row 2 already",
        "boneage is 'ninety'",
        "boneage is 500; expected months from 0 to 240",
        "there is no image 9999.png",
    ):
        assert part in text
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no table with an id, a bone age and a sex"),
        ({"a.csv": "id,bonage,male\n1,9,True\n"}, "no column 'boneage'.*Did you mean 'bonage'"),
        ({"a.csv": ""}, "it is empty"),
        ({f"{n}.csv": f"id,boneage,male\n1,{n},True\n" for n in (90, 91)}, "2 tables hold ids"),
    ],
)
def test_a_folder_that_is_no_such_layout(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        import_rsna(tmp_path, tmp_path / "out" / "manifest.csv", progress=False)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no such folder" in faults(tmp_path / "none", tmp_path / "manifest.csv")[0]


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
