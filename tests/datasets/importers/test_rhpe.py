from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.importers.rhpe import import_rhpe
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.datasets.phantom.cohort import draw_hand
from boneage.errors import InputError
from boneage.radiographs.reader import read_radiograph

HAND = 128
HEIGHT, WIDTH = 160, 320  # two hands side by side, with room around them
TOP, LEFT, RIGHT = 16, 16, 176  # where each hand's square begins
COUNTS = {"train": 8, "val": 4, "test": 3}


@cache
def hand(split: str, number: int, side: str) -> npt.NDArray[np.uint8]:
    """A phantom; the right one is another child's, so that it can't be taken for the left."""
    rng = np.random.default_rng([len(split), number, side == "right"])
    picture = draw_hand(40.0 + 15 * number, "F" if number % 2 else "M", rng=rng, size=HAND)
    return picture if side == "left" else np.ascontiguousarray(picture[:, ::-1])


def radiograph(split: str, number: int) -> npt.NDArray[np.uint8]:
    """Both hands on one radiograph, as RHPE has them: the left one on the left."""
    picture = np.full((HEIGHT, WIDTH), 4, np.uint8)
    picture[TOP : TOP + HAND, LEFT : LEFT + HAND] = hand(split, number, "left")
    picture[TOP : TOP + HAND, RIGHT : RIGHT + HAND] = hand(split, number, "right")
    return picture


def annotation(image_id: object, **changes: object) -> dict[str, Any]:
    """The left hand's box and its seventeen points, as COCO writes them."""
    points = [(LEFT + 20 + 5 * i, TOP + 10 + 6 * i, 2) for i in range(17)]
    entry: dict[str, Any] = {
        "id": 1,
        "category_id": 1,
        "image_id": image_id,
        "bbox": [LEFT, TOP, HAND, HAND],
        "keypoints": [value for point in points for value in point],
        "num_keypoints": 17,
    }
    return entry | changes


def coco(split: str, **changes: object) -> dict[str, Any]:
    numbers = range(1, COUNTS[split] + 1)
    return {
        "images": [{"id": 70 + n, "file_name": f"{n:05d}.png"} for n in numbers],
        "annotations": [annotation(70 + n) for n in numbers],
        "categories": [{"id": 1, "name": "hand"}],
    } | changes


def rhpe(root: Path, *, rois: bool = True) -> Path:
    """The release in miniature; train, val and test share their numbers here."""
    tables = root / "RHPE_Annotations"
    tables.mkdir(parents=True)
    for split, count in COUNTS.items():
        images = root / f"RHPE_{split}"
        images.mkdir()
        rows = []
        for n in range(1, count + 1):
            assert cv2.imwrite(str(images / f"{n:05d}.png"), radiograph(split, n))
            age = 40 + 15 * n
            rows.append(f"{n},{n % 2 == 0},{age},{age + 3}")
        if split == "test":
            rows = [f"{n},True,100" for n in range(1, count + 1)]
            name, header = "RHPE_Gender_Chronological_test.csv", "ID,Male,Chronological"
        else:
            name, header = f"RHPE_Boneage_{split}.csv", "ID,Male,Boneage,Chronological"
        (tables / name).write_text("\n".join([header, *rows]) + "\n")
        if rois:
            write_rois(root, split, coco(split))
    (tables / "Readme.txt").write_text("Some radiographs were removed.\n")
    return root


def write_rois(root: Path, split: str, content: object) -> None:
    path = root / "RHPE_Annotations" / f"RHPE_anatomical_ROIs_{split}.json"
    path.write_text(json.dumps(content))


def run(folder: Path) -> Manifest:
    return import_rhpe(folder, folder.parent / "out" / "manifest.csv", progress=False)


def faults(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(folder)
    assert not (folder.parent / "out" / "manifest.csv").exists()
    return [str(fault) for fault in caught.value.faults]


def cut_out(manifest: Manifest, row: int) -> npt.NDArray[np.generic]:
    region = manifest.regions()[row]
    assert region is not None
    left, top, right, bottom = region
    picture = read_radiograph(manifest.image_paths()[row])
    assert right <= picture.shape[1]
    assert bottom <= picture.shape[0]
    return picture[top:bottom, left:right]


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: a test that spoils it copies it first."""
    return rhpe(tmp_path_factory.mktemp("release") / "RHPE")


@pytest.fixture
def spoilt(release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "RHPE"))


def test_the_release_is_imported_with_its_official_splits(release: Path) -> None:
    manifest = run(release)
    table = manifest.table
    assert table["split"].value_counts().to_dict() == {"train": 8, "val": 4}
    assert table["image_id"].is_unique
    first = table.iloc[0]
    assert first["image_id"] == "rhpe-train-00001"
    assert (first["age_months"], first["sex"], first["chronological_age_months"]) == (55, "F", 58)
    assert table.iloc[1]["sex"] == "M"
    assert set(table["source"]) == {"rhpe"}
    assert manifest.image_paths()[8] == release.resolve() / "RHPE_val" / "00001.png"
    assert read_manifest(manifest.path).table.equals(table)


def test_notes_tell_counts_and_that_the_labels_of_the_test_set_are_hidden(release: Path) -> None:
    notes = " ".join(run(release).notes)
    assert "train: 8 labelled radiographs; the release has about 5,496." in notes
    assert "val: 4 labelled radiographs; the release has about 716." in notes
    assert "RHPE_Gender_Chronological_test.csv has 3 rows without bone ages" in notes
    assert "challenge 2297" in notes
    assert "3 test radiographs have no labels (those of the test set are hidden)" in notes
    assert "train: 8 left hands are cut out by their annotations." in notes


def test_the_annotated_region_is_the_left_phantom_with_a_margin(release: Path) -> None:
    manifest = run(release)
    radiographs = [(split, n) for split in ("train", "val") for n in range(1, COUNTS[split] + 1)]
    for row, (split, number) in enumerate(radiographs):
        cut = cut_out(manifest, row)
        margin = 7  # a twentieth of 128, rounded up
        assert cut.shape == (HAND + 2 * margin, HAND + 2 * margin)
        inner = cut[margin : margin + HAND, margin : margin + HAND]
        assert np.array_equal(inner, hand(split, number, "left"))


def test_without_annotations_the_left_half_of_the_width_is_taken(tmp_path: Path) -> None:
    manifest = run(rhpe(tmp_path / "RHPE", rois=False))
    assert set(manifest.table["region"]) == {f"0 0 {WIDTH // 2} {HEIGHT}"}
    half = cut_out(manifest, 0)
    assert np.array_equal(half[TOP : TOP + HAND, LEFT : LEFT + HAND], hand("train", 1, "left"))
    assert "because there is no annotation file for them" in " ".join(manifest.notes)


def test_folders_and_files_may_be_renamed_as_long_as_a_name_says_the_split(spoilt: Path) -> None:
    (spoilt / "RHPE_train").rename(spoilt / "Training")
    (spoilt / "deep" / "er").mkdir(parents=True)
    (spoilt / "RHPE_val").rename(spoilt / "deep" / "er" / "images-VAL")
    annotations = spoilt / "RHPE_Annotations"
    (annotations / "RHPE_Boneage_val.csv").rename(spoilt / "deep" / "Validation.csv")
    (annotations / "RHPE_Boneage_train.csv").rename(spoilt / "Training" / "ages.csv")
    (annotations / "RHPE_anatomical_ROIs_val.json").rename(spoilt / "deep" / "er" / "val.json")
    manifest = run(spoilt)
    assert manifest.table["split"].value_counts().to_dict() == {"train": 8, "val": 4}
    assert np.array_equal(cut_out(manifest, 8)[7:-7, 7:-7], hand("val", 1, "left"))


def test_radiographs_of_all_splits_in_one_folder_are_told_apart_by_number(tmp_path: Path) -> None:
    folder = rhpe(tmp_path / "RHPE")
    (folder / "images").mkdir()
    for n in range(1, 9):
        (folder / "RHPE_train" / f"{n:05d}.png").rename(folder / "images" / f"{n:05d}.png")
    for n in range(1, 5):
        (folder / "RHPE_val" / f"{n:05d}.png").rename(folder / "images" / f"{100 + n:05d}.png")
    path = folder / "RHPE_Annotations" / "RHPE_Boneage_val.csv"
    path.write_text(
        "ID,Male,Boneage,Chronological\n" + "".join(f"{100 + n},True,90,90\n" for n in range(1, 5))
    )
    manifest = run(folder)
    assert manifest.image_paths()[8].name == "00101.png"
    assert manifest.table["image_id"].tolist()[8] == "rhpe-val-00101"


def test_one_radiograph_labelled_in_two_splits_is_refused(spoilt: Path) -> None:
    shutil.rmtree(spoilt / "RHPE_val")
    (spoilt / "RHPE_train").rename(spoilt / "images")
    found = faults(spoilt)
    assert len(found) == 4
    assert "RHPE_Boneage_val.csv: row 2 (ID 1): radiograph 00001.png is labelled in" in found[0]


def test_a_radiograph_of_another_split_is_never_taken(spoilt: Path) -> None:
    (spoilt / "RHPE_val" / "00002.png").unlink()
    found = faults(spoilt)
    assert len(found) == 1
    assert (
        "RHPE_Boneage_val.csv: row 3 (ID 2): there is no radiograph 00002.png of val, only"
        in found[0]
    )


def test_many_missing_radiographs_name_the_archive(spoilt: Path) -> None:
    shutil.rmtree(spoilt / "RHPE_train")
    (spoilt / "RHPE_train.zip").touch()
    assert all("Unpack RHPE_train.zip first." in text for text in faults(spoilt))


def test_several_files_of_one_number_are_refused(spoilt: Path) -> None:
    shutil.copy(spoilt / "RHPE_val" / "00001.png", spoilt / "RHPE_val" / "1.png")
    found = faults(spoilt)
    assert len(found) == 1
    assert "several files have its number: RHPE_val/00001.png, RHPE_val/1.png" in found[0]


def test_a_table_whose_name_says_no_split_is_refused(spoilt: Path) -> None:
    path = spoilt / "RHPE_Annotations" / "RHPE_Boneage_train.csv"
    path.rename(path.with_name("ages.csv"))
    found = faults(spoilt)
    assert "ages.csv: neither its name nor its folders say which split it is" in found[0]


def test_a_training_table_without_ages_is_refused_not_taken_for_the_test_table(
    spoilt: Path,
) -> None:
    path = spoilt / "RHPE_Annotations" / "RHPE_Boneage_train.csv"
    path.write_text(path.read_text().replace("Boneage", "Bonage"))
    found = faults(spoilt)
    assert len(found) == 1
    assert "RHPE_Boneage_train.csv: there is no column 'Boneage'" in found[0]
    assert "Did you mean 'Bonage'?" in found[0]


def test_rsna_re_released_beside_it_is_not_cut_in_halves(spoilt: Path) -> None:
    (spoilt / "RHPE_Annotations" / "RHPE_Boneage_val.csv").write_text(
        "ID,Male,Boneage\n1,True,90\n2,False,80\n"
    )
    found = faults(spoilt)
    assert "there is no column 'Chronological'" in found[0]
    assert "Is it RSNA's table, which has no such column? Then use data import rsna." in found[0]


def test_radiographs_taller_than_wide_are_named_when_they_are_cut_in_halves(tmp_path: Path) -> None:
    folder = rhpe(tmp_path / "RHPE", rois=False)
    tall = np.ascontiguousarray(radiograph("val", 1)[:, :100])
    assert cv2.imwrite(str(folder / "RHPE_val" / "00001.png"), tall)
    notes = run(folder).notes
    assert any("1 radiographs are cut in halves though taller than wide" in note for note in notes)


def test_annotations_of_no_split_are_refused_because_splits_may_share_numbers(
    spoilt: Path,
) -> None:
    path = spoilt / "RHPE_Annotations" / "RHPE_anatomical_ROIs_train.json"
    path.rename(path.with_name("rois.json"))
    assert "rois.json: neither its name nor its folders say which split" in faults(spoilt)[0]
    path.with_name("rois.json").rename(path.with_name("rois_val_too.json"))
    assert "holds annotations of val too" in faults(spoilt)[0]


def test_two_tables_of_one_split_are_refused(spoilt: Path) -> None:
    path = spoilt / "RHPE_Annotations" / "RHPE_Boneage_train.csv"
    shutil.copy(path, path.with_name("RHPE_Boneage_train_old.csv"))
    assert "2 tables hold the bone ages of train" in faults(spoilt)[0]


def test_a_labelled_test_table_is_taken(spoilt: Path) -> None:
    (spoilt / "RHPE_Annotations" / "RHPE_Boneage_test.csv").write_text(
        "ID,Male,Boneage,Chronological\n1,True,90,91\n2,False,100,\n"
    )
    manifest = run(spoilt)
    assert len(manifest.split("test")) == 2
    notes = " ".join(manifest.notes)
    assert "test: 1 radiographs have no chronological age." in notes
    assert (
        "1 test radiographs have no row in a table and are left out (RHPE_test/00003.png)." in notes
    )


def test_wrong_codings_come_at_once_and_are_never_mapped(spoilt: Path) -> None:
    (spoilt / "RHPE_Annotations" / "RHPE_Boneage_train.csv").write_text(
        "ID,Male,Boneage,Chronological\n"
        "1,maybe,90,90\n2,True,ninety,90\n00003.png,False,300,90\n3,False,90,90\n"
        "4,True,90,-1\n5,True,90,soon\n6,,90,90\n99,True,90,90\n"
    )
    text = "\n".join(faults(spoilt))
    for part in (
        "row 2 (ID 1): Male is 'maybe'; expected True (boy) or False (girl)",
        "row 3 (ID 2): Boneage is 'ninety'",
        "row 4 (ID 00003.png): Boneage is 300; expected months from 0 to 240",
        "row 5 (ID 3): ID 3 stands in row 4 already",
        "row 6 (ID 4): Chronological is '-1'",
        "row 7 (ID 5): Chronological is 'soon'",
        "row 8 (ID 6): Male is empty",
        "row 9 (ID 99): there is no radiograph 00099.png of train",
    ):
        assert part in text
    assert len(text.splitlines()) == 8


def test_years_are_not_taken_for_months(spoilt: Path) -> None:
    path = spoilt / "RHPE_Annotations" / "RHPE_Boneage_val.csv"
    path.write_text("ID,Male,Boneage,Chronological\n1,True,90,7.5\n2,True,100,8\n")
    text = "\n".join(faults(spoilt))
    assert "Chronological is 8, the largest of all; expected months" in text
    path.write_text("ID,Male,Boneage,Chronological\n1,True,7.5,90\n2,True,8.25,90\n")
    assert "RHPE's are in months" in faults(spoilt)[0]


@pytest.mark.parametrize(
    ("codes", "header"),
    [(("TRUE", "FALSE"), "Male"), (("1", "0"), "male"), (("M", "F"), "Sex")],
)
def test_codes_and_headers_in_their_known_variants(
    spoilt: Path, codes: tuple[str, str], header: str
) -> None:
    (spoilt / "RHPE_Annotations" / "RHPE_Boneage_val.csv").write_text(
        f"id,{header},Bone age (months),Chronological age\n"
        f"00001,{codes[0]},90,90\n2.0,{codes[1]},100,100\n"
    )
    rows = run(spoilt).table.query("split == 'val'")
    assert rows["sex"].tolist() == ["M", "F"]
    assert rows["image_id"].tolist() == ["rhpe-val-00001", "rhpe-val-00002"]


def change(place: int, **changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][place].update(changes)


HIDDEN = [0] * 51
HALF = f"0 0 {WIDTH // 2} {HEIGHT}"


@pytest.mark.parametrize(
    ("spoil", "region", "note"),
    [
        (lambda c: c["annotations"].pop(0), HALF, "they have no annotation (1)"),
        (change(0, bbox=[0, 0, 0, 0], keypoints=HIDDEN), HALF, "annotation is blank (1)"),
        (change(0, bbox=None, keypoints=None), HALF, "annotation is blank (1)"),
        (change(0, bbox=["a", 1, 2, 3], keypoints=[1, 2]), HALF, "annotation is blank (1)"),
        (change(0, bbox=[float("nan"), 0, 9, 9], keypoints=[]), HALF, "annotation is blank (1)"),
        (change(0, bbox=[600, 10, 90, 90], keypoints=HIDDEN), HALF, "not within the picture"),
        (change(0, bbox=[-900, 10, 1000, 90], keypoints=HIDDEN), HALF, "not within the picture"),
        (change(0, bbox=[20, 20, 3, 3], keypoints=HIDDEN), HALF, "not the shape of a hand"),
        (change(0, bbox=[0, 20, 320, 5], keypoints=HIDDEN), HALF, "not the shape of a hand"),
        (
            lambda c: c["annotations"].append(annotation(71, bbox=[180, 20, 90, 90])),
            HALF,
            "several different annotations",
        ),
        (lambda c: c["annotations"].append(annotation(71, id=9)), "9 9 151 151", "8 left hands"),
        (change(0, keypoints=HIDDEN), "9 9 151 151", "have no labelled keypoints"),
        (change(0, bbox=[0, 0, 0, 0]), "21 11 131 137", "have no box"),
        (change(0, bbox=[2, 16, 310, 130]), f"0 0 {WIDTH} {HEIGHT}", "whether both hands"),
        (change(0, bbox=[-3, 16, 147, 128]), "0 8 152 152", "8 left hands"),
    ],
)  # fmt: skip
def test_annotations_that_do_not_serve_fall_back_and_are_told(
    spoilt: Path, spoil: Callable[[dict[str, Any]], None], region: str, note: str
) -> None:
    content = coco("train")
    spoil(content)
    write_rois(spoilt, "train", content)
    manifest = run(spoilt)
    assert manifest.table["region"].tolist()[:2] == [region, "9 9 151 151"]
    assert any(note in text for text in manifest.notes if text.startswith("train: ")), (
        manifest.notes
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco("train", annotations=[annotation(999), annotation(71)]), "1 annotations are of imag"),
        (coco("train", annotations=["x", {}]), r"2 annotations are of .* \(entry 0, entry 1\)"),
        (coco("train", images=[{"id": 71}]), "1 images have no id or file_name"),
        (coco("train", images=3), "1 images have no id or file_name"),
        (coco("train", images=[{"id": 1, "file_name": "1.png"}] * 2), r"listed twice \(id 1, film"),
    ],
)
def test_annotation_files_that_contradict_themselves_are_refused(
    spoilt: Path, content: dict[str, Any], message: str
) -> None:
    write_rois(spoilt, "train", content)
    with pytest.raises(InputError, match=message):
        run(spoilt)


def test_a_truncated_annotation_file_is_a_fault_and_other_json_is_none(spoilt: Path) -> None:
    (spoilt / "settings.json").write_text("[1, 2]")
    assert len(run(spoilt)) == 12
    path = spoilt / "RHPE_Annotations" / "RHPE_anatomical_ROIs_val.json"
    path.write_text(path.read_text()[:-40])
    (spoilt.parent / "out" / "manifest.csv").unlink()
    found = faults(spoilt)
    assert len(found) == 1
    assert "ROIs_val.json: it can't be read as JSON" in found[0]


def test_annotations_of_other_pictures_are_refused(spoilt: Path) -> None:
    for n in range(1, 9):  # somebody shrank the radiographs
        small = cv2.resize(radiograph("train", n), (WIDTH // 2, HEIGHT // 2))
        assert cv2.imwrite(str(spoilt / "RHPE_train" / f"{n:05d}.png"), small)
    far = coco("train")
    for entry in far["annotations"]:
        entry["bbox"] = [100, 60, 200, 90]
    write_rois(spoilt, "train", far)
    found = faults(spoilt)
    assert len(found) == 1
    assert "8 of 8 annotations don't fit their radiographs (1, 2, 3, 4, 5, …)" in found[0]
    assert "Were the radiographs resized?" in found[0]


def test_annotations_that_say_their_size_are_scaled_to_the_radiograph(spoilt: Path) -> None:
    content = coco("train")
    for image in content["images"]:
        image |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    for entry in content["annotations"]:
        entry["bbox"] = [2 * value for value in entry["bbox"]]
        entry["keypoints"] = [v if i % 3 == 2 else 2 * v for i, v in enumerate(entry["keypoints"])]
    content["images"][7]["height"] = 2 * HEIGHT + 90
    write_rois(spoilt, "train", content)
    manifest = run(spoilt)
    assert manifest.table["region"].tolist()[:8] == ["9 9 151 151"] * 7 + [HALF]
    assert any(
        "7 radiographs are not of the size they were annotated at" in n for n in manifest.notes
    )


def test_radiographs_that_are_no_pictures_are_named_all_at_once(spoilt: Path) -> None:
    (spoilt / "RHPE_train" / "00001.png").write_bytes(b"")
    (spoilt / "RHPE_val" / "00002.png").write_text("Page not found")
    found = faults(spoilt)
    assert len(found) == 2
    assert "RHPE_train/00001.png" in found[0]
    assert "RHPE_val/00002.png" in found[1]


def test_only_one_split_there_is_told(spoilt: Path) -> None:
    (spoilt / "RHPE_Annotations" / "RHPE_Boneage_train.csv").unlink()
    manifest = run(spoilt)
    assert len(manifest) == 4
    assert any("There is no table of train" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no table with an ID, a bone age and a sex"),
        (
            {"RHPE_Boneage_train.csv": "ID,Male,Bonage,Chronological\n1,True,9,9\n"},
            "no column 'Boneage'.*'Bonage'",
        ),
        ({"train.csv": ""}, "it is empty"),
    ],
)
def test_a_folder_that_is_no_such_layout(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    (tmp_path / "RHPE").mkdir()
    for name, content in files.items():
        (tmp_path / "RHPE" / name).write_text(content)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "RHPE")


def test_a_manifest_inside_the_release_is_not_taken_for_labels(spoilt: Path) -> None:
    for _ in range(2):
        manifest = import_rhpe(spoilt, spoilt / "train.csv", progress=False)
        assert len(manifest) == 12
        assert not any("train.csv has" in note for note in manifest.notes)
