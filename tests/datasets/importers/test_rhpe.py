from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from boneage.datasets.importers.rhpe import Hand, cut, import_rhpe
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import InputError
from boneage.radiographs.reader import read_radiograph

HAND = 128
HEIGHT, WIDTH = 160, 320  # two hands side by side, with room around them
TOP, LEFT, RIGHT = 16, 16, 176  # where each hand's square begins
COUNTS = {"train": 8, "val": 4, "test": 3}
HALF = f"0 0 {WIDTH // 2} {HEIGHT}"
ANNOTATED = "9 9 151 151"
HEADER = "ID,Male,Boneage,Chronological"


def hand(split: str, number: int, side: str) -> npt.NDArray[np.uint8]:
    """Noise of its own for every hand, so that a wrong region can't pass for the right one."""
    rng = np.random.default_rng([len(split), number, side == "right"])
    return rng.integers(0, 256, (HAND, HAND), np.uint8)


def radiograph(split: str, number: int) -> npt.NDArray[np.uint8]:
    """Both hands on one radiograph, the left one on the left."""
    picture = np.full((HEIGHT, WIDTH), 4, np.uint8)
    for left, side in ((LEFT, "left"), (RIGHT, "right")):
        picture[TOP : TOP + HAND, left : left + HAND] = hand(split, number, side)
    return picture


def annotation(image_id: object, **changes: object) -> dict[str, Any]:
    """The left hand's box, as COCO writes it."""
    return {"image_id": image_id, "bbox": [LEFT, TOP, HAND, HAND]} | changes


def coco(split: str, **changes: object) -> dict[str, Any]:
    numbers = range(1, COUNTS[split] + 1)
    return {
        "images": [{"id": 70 + n, "file_name": f"{n:05d}.png"} for n in numbers],
        "annotations": [annotation(70 + n) for n in numbers],
    } | changes


def write_rois(root: Path, split: str, content: object) -> None:
    path = root / "RHPE_Annotations" / f"RHPE_anatomical_ROIs_{split}.json"
    path.write_text(json.dumps(content))


def write_table(root: Path, split: str, *rows: str, header: str = HEADER) -> None:
    path = root / "RHPE_Annotations" / f"RHPE_Boneage_{split}.csv"
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release in miniature; its splits share their numbers."""
    root = tmp_path_factory.mktemp("release") / "RHPE"
    tables = root / "RHPE_Annotations"
    tables.mkdir(parents=True)
    for split, count in COUNTS.items():
        (root / f"RHPE_{split}").mkdir()
        for n in range(1, count + 1):
            path = root / f"RHPE_{split}" / f"{n:05d}.png"
            assert cv2.imwrite(str(path), radiograph(split, n))
        write_rois(root, split, coco(split))
        ages = [(n, 40 + 15 * n) for n in range(1, count + 1)]
        if split != "test":
            write_table(root, split, *(f"{n},{n % 2 == 0},{age},{age + 3}" for n, age in ages))
    (tables / "RHPE_Gender_Chronological_test.csv").write_text("ID,Male,Chronological\n1,True,9\n")
    (tables / "Readme.txt").write_text("Some radiographs were removed.\n")
    return root


@pytest.fixture
def release(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "RHPE"))


def run(folder: Path) -> Manifest:
    return import_rhpe(folder, folder.parent / "out" / "manifest.csv", progress=False)


def faults(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(folder)
    assert not (folder.parent / "out").exists()
    return [str(fault) for fault in caught.value.faults]


def cut_out(manifest: Manifest, row: int) -> npt.NDArray[np.generic]:
    region = manifest.regions()[row]
    assert region is not None
    left, top, right, bottom = region
    return read_radiograph(manifest.image_paths()[row])[top:bottom, left:right]


def test_the_release_is_imported_with_its_official_splits(release: Path) -> None:
    manifest = run(release)
    table = manifest.table
    assert table["split"].value_counts().to_dict() == {"train": 8, "val": 4}
    first = table.iloc[0]
    assert first["image_id"] == "rhpe-train-00001"
    assert (first["age_months"], first["sex"], first["chronological_age_months"]) == (55, "F", 58)
    assert table.iloc[1]["sex"] == "M"
    assert set(table["source"]) == {"rhpe"}
    assert manifest.image_paths()[8] == release.resolve() / "RHPE_val" / "00001.png"
    assert read_manifest(manifest.path).table.equals(table)
    notes = " ".join(manifest.notes)
    assert "train: 8 labelled radiographs; the release has about 5,496." in notes
    assert "3 test radiographs are left out: their labels are hidden." in notes
    assert "train: 8 left hands are cut out by annotations." in notes


def test_the_region_is_the_annotated_left_hand_with_a_margin(release: Path) -> None:
    manifest = run(release)
    for row, (split, number) in enumerate((("train", 1), ("train", 2))):
        region, margin = cut_out(manifest, row), 7  # a twentieth of 128, rounded up
        assert region.shape == (HAND + 2 * margin, HAND + 2 * margin)
        assert np.array_equal(region[margin:-margin, margin:-margin], hand(split, number, "left"))


def test_without_annotations_the_left_half_of_the_width_is_used(release: Path) -> None:
    for path in (release / "RHPE_Annotations").glob("*.json"):
        path.unlink()
    tall = np.ascontiguousarray(radiograph("val", 1)[:, :100])
    assert cv2.imwrite(str(release / "RHPE_val" / "00001.png"), tall)
    manifest = run(release)
    regions = manifest.table["region"].tolist()
    assert regions == [HALF] * 8 + [f"0 0 50 {HEIGHT}"] + [HALF] * 3
    half = cut_out(manifest, 0)
    assert np.array_equal(half[TOP : TOP + HAND, LEFT : LEFT + HAND], hand("train", 1, "left"))
    notes = " ".join(manifest.notes)
    assert "there is no annotation file" in notes
    assert "val: 1 radiographs are cut in halves though taller than wide" in notes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("RHPE_Annotations", "tables", "but no table RHPE_Annotations/RHPE_Boneage_val.csv"),
        ("RHPE_train", "Training", "there is no radiograph RHPE_train/00001.png"),
        (
            "RHPE_Annotations/RHPE_Boneage_train.csv",
            "ages.csv",
            "a folder RHPE_train, but no table",
        ),
    ],
)
def test_another_layout_is_refused_with_the_names_that_were_expected(
    release: Path, old: str, new: str, message: str
) -> None:
    (release / old).rename(release / new)
    with pytest.raises(InputError, match=message):
        run(release)


def test_one_split_alone_and_a_labelled_test_table_are_used(release: Path) -> None:
    (release / "RHPE_Annotations" / "RHPE_Boneage_train.csv").unlink()
    shutil.rmtree(release / "RHPE_train")
    write_table(release, "test", "1,True,90,91", "2,False,100,")
    manifest = run(release)
    assert manifest.table["split"].value_counts().to_dict() == {"val": 4, "test": 2}
    notes = " ".join(manifest.notes)
    assert "There is no train set" in notes
    assert "test: 1 radiographs have no chronological age." in notes
    assert "1 test radiographs have no row in a table and are left out (3)." in notes


def test_images_that_are_missing_doubled_or_broken_come_at_once(release: Path) -> None:
    shutil.copy(release / "RHPE_val" / "00001.png", release / "RHPE_val" / "1.png")
    (release / "RHPE_val" / "00002.png").unlink()
    (release / "RHPE_val" / "00003.png").write_text("Page not found")
    (release / "RHPE_train" / "00001.png").write_bytes(b"")
    text = "\n".join(faults(release))
    for part in (
        "row 2 (ID 1): several files have its number: RHPE_val/00001.png, RHPE_val/1.png",
        "row 3 (ID 2): there is no radiograph RHPE_val/00002.png",
        "RHPE_val/00003.png",
        "RHPE_train/00001.png",
    ):
        assert part in text


def test_wrong_values_come_at_once_and_are_never_mapped(release: Path) -> None:
    write_table(
        release, "train", "1,maybe,90,90", "2,True,ninety,90", "00003.png,False,300,90",
        "3,False,90,90", "4,True,90,-1", "5,True,90,soon", "6,,90,90", "99,True,90,90",
    )  # fmt: skip
    write_table(release, "val", "1,True,7.5,7.5", "2,True,8.25,8")
    text = "\n".join(faults(release))
    for part in (
        "row 2 (ID 1): Male is 'maybe'; expected True (boy) or False (girl)",
        "row 3 (ID 2): Boneage is 'ninety'",
        "row 4 (ID 00003.png): Boneage is 300; expected months from 0 to 240",
        "row 5 (ID 3): ID 3 is already in row 4",
        "row 6 (ID 4): Chronological is '-1'",
        "row 7 (ID 5): Chronological is 'soon'",
        "row 8 (ID 6): Male is empty",
        "row 9 (ID 99): there is no radiograph RHPE_train/00099.png",
        "Boneage is 8.25, the largest of the column",
        "Chronological is 8, the largest of the column",
    ):
        assert part in text
    assert len(text.splitlines()) == 10


@pytest.mark.parametrize("codes", [("TRUE", "FALSE"), ("1", "0"), ("M", "F")])
def test_sexes_and_ids_in_their_known_forms(release: Path, codes: tuple[str, str]) -> None:
    rows = (f"00001,{codes[0]},90,90", f"2.0,{codes[1]},100,100")
    write_table(release, "val", *rows, header="id,male,BONEAGE,chronological")
    rows_of_val = run(release).table.query("split == 'val'")
    assert rows_of_val["sex"].tolist() == ["M", "F"]
    assert rows_of_val["image_id"].tolist() == ["rhpe-val-00001", "rhpe-val-00002"]


def test_other_columns_are_refused(release: Path) -> None:
    write_table(release, "train", "1,True,90,90", header="ID,Male,Bonage,Chronological")
    write_table(release, "val", "1,True,90", "2,False,80", header="ID,Male,Boneage")
    first, second = faults(release)
    assert "no column 'Boneage' among" in first
    assert "Did you mean 'Bonage'?" in first
    assert "no column 'Chronological' among" in second


def change(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][0].update(changes)


@pytest.mark.parametrize(
    ("spoil", "region", "note"),
    [
        (lambda c: c["annotations"].pop(0), HALF, "no annotation, or several (1)"),
        (lambda c: c["annotations"].append(annotation(71)), HALF, "no annotation, or several (1)"),
        (change(bbox=[0, 0, 0, 0]), HALF, "no annotation, or several (1)"),
        (change(bbox=[2, 16, 310, 130]), f"0 0 {WIDTH} {HEIGHT}", "check that it holds one hand"),
        (change(bbox=[-3, 16, 147, 128]), "0 8 152 152", "8 left hands"),
    ],
)
def test_an_unusable_annotation_is_replaced_by_the_left_half_and_noted(
    release: Path, spoil: Callable[[dict[str, Any]], object], region: str, note: str
) -> None:
    content = coco("train")
    spoil(content)
    write_rois(release, "train", content)
    manifest = run(release)
    assert manifest.table["region"].tolist()[:2] == [region, ANNOTATED]
    assert any(note in text for text in manifest.notes if text.startswith("train: "))


@pytest.mark.parametrize(
    "bbox", [[250, 60, 200, 90], [20, 20, 3, 3], [0, 20, 320, 5], [float("nan"), 0, 90, 90]]
)
def test_boxes_that_are_no_hand_are_refused_when_there_are_many(
    release: Path, bbox: list[float]
) -> None:
    far = [annotation(70 + n, bbox=bbox) for n in range(1, 9)]
    write_rois(release, "train", coco("train", annotations=far))
    [text] = faults(release)
    assert "8 of 8 annotations don't fit their radiographs (1, 2, 3, 4, 5, …)" in text


def test_annotations_of_images_of_another_size_are_refused(release: Path) -> None:
    content = coco("train")
    for image in content["images"]:
        image |= {"width": WIDTH, "height": HEIGHT}
    write_rois(release, "train", content)
    assert run(release).table["region"].tolist()[:8] == [ANNOTATED] * 8
    shutil.rmtree(release.parent / "out")
    content["images"][7]["height"] = 2 * HEIGHT
    write_rois(release, "train", content)
    assert "Were the radiographs resized?" in faults(release)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco("train", annotations=[annotation(999)]), "not a COCO file"),
        (coco("train", annotations=[annotation(71, bbox=None)]), "not a COCO file"),
        (coco("train", annotations=[annotation(71, bbox=["a", 1, 2, 3])]), "not a COCO file"),
        (coco("train", images=3), "not a COCO file"),
        ("[", "can't be read as JSON"),
        ("[" * 100_000, "can't be read as JSON"),
    ],
)
def test_a_broken_annotation_file_is_refused(release: Path, content: Any, message: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (release / "RHPE_Annotations" / "RHPE_anatomical_ROIs_train.json").write_text(text)
    assert message in "\n".join(faults(release))


def test_the_margin_is_a_share_of_the_longer_side_and_the_image_limits_it() -> None:
    # 50 to 500 by 100 to 900, and a twentieth of 800 on every side
    assert cut([Hand((50, 100, 500, 900))], (2000, 1500)) == ((10, 60, 540, 940), [])
    assert cut([Hand((-5, 2, 400, 702))], (1000, 700)) == ((0, 0, 435, 700), [])
