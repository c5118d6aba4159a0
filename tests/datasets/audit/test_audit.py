from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.audit.audit import AuditReport, audit
from boneage.datasets.label_rules import COLUMNS
from boneage.datasets.manifest import read_manifest
from boneage.datasets.phantom.cohort import phantom
from boneage.radiographs.image_quality import ImageFinding


def png(path: Path, *, size: tuple[int, int] = (40, 32), dtype: type = np.uint8) -> Path:
    path.parent.mkdir(exist_ok=True)
    radiograph = cv2.resize(phantom(5, path.name.encode()[0], 64).image, size[::-1])
    cv2.imwrite(str(path), radiograph.astype(dtype) * (np.iinfo(dtype).max // 255))
    return path


def manifest(folder: Path, *rows: str, header: str = ",".join(COLUMNS)) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]))
    return path


def codes(report: AuditReport) -> dict[str, tuple[str, ...]]:
    return {fault.code: fault.image_ids for fault in report.faults}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcd":
        png(tmp_path / "films" / f"{name}.png")
    return tmp_path


GOOD = [
    "a,films/a.png,30,F,train",
    "b,films/b.png,90,M,train",
    "c,films/c.png,60,F,val",
    "d,films/d.png,120,M,test",
]


def test_ages_that_may_be_missing_values_or_years_are_notes(folder: Path) -> None:
    zero, years = GOOD[0].replace("30", "0"), GOOD[1].replace("90", "9")
    faults = audit(manifest(folder, zero, years, *GOOD[2:]), progress=False).faults
    assert [(fault.severity, fault.code) for fault in faults] == [("note", "doubtful-age")] * 2
    assert "1 of 4 ages are 0 and may be missing values" in faults[0].message
    assert "1 of 4 ages are at most 9 months, and no other is below 60 months" in faults[1].message


def test_a_sound_manifest_has_no_faults_and_its_counts(folder: Path) -> None:
    png(folder / "films" / "d.png", size=(80, 64), dtype=np.uint16)
    path = manifest(folder, *GOOD)
    report = audit(path, progress=False)
    assert report.faults == ()
    assert not report.has_errors
    assert (report.images, report.decoded) == (4, 4)
    assert report.counts["train"] == {"n": 2, "F": 1, "M": 1}
    assert report.ages["train"] == {
        "n": 2, "mean": 60.0, "sd": 30.0, "minimum": 30.0, "median": 60.0, "maximum": 90.0,
    }  # fmt: skip
    assert report.sizes["width"] == {"minimum": 32.0, "median": 32.0, "maximum": 64.0}
    assert report.sizes["bits"] == {"8": 3, "16": 1}
    text = report.render()
    assert "4 images, 4 read" in text
    assert "0 errors, 0 warnings, 0 notes" in text
    digest = read_manifest(path).split_digest
    assert report.as_dict()["split_digest"] == digest
    assert text.endswith(f"\nsplit digest: {digest} (ids, splits, ages and sexes)")


def test_faults_of_the_table_and_of_the_images_come_together(folder: Path) -> None:
    (folder / "films" / "a.png").write_bytes(b"")
    whole = (folder / "films" / "b.png").read_bytes()
    (folder / "films" / "b.png").write_bytes(whole[: len(whole) // 2])
    (folder / "films" / "c.png").write_bytes(b"<html>404</html>")
    rows = [
        *GOOD,
        "e,films/e.png,30,F,train",
        "d,films/d.png,900,boy,hold-out",
    ]
    report = audit(manifest(folder, *rows), progress=False)
    assert codes(report) == {
        "duplicate-id": ("d",),
        "missing-file": ("e",),
        "impossible-age": ("d",),
        "unknown-sex": ("d",),
        "unknown-split": ("d",),
        "empty-file": ("a",),
        "unreadable-image": ("c",),
        "image-in-two-splits": ("d",),
    }
    broken = [fault for fault in report.faults if fault.code == "unreadable-image"]
    assert [fault.image_ids for fault in broken] == [("b",), ("c",)]
    assert "row 3 (image_id b): image films/b.png: the file is truncated" in broken[0].message
    assert report.has_errors
    assert (report.images, report.decoded) == (6, 2)
    assert report.counts["unknown"]["n"] == 1


def test_missing_columns_do_not_keep_the_images_from_being_read(folder: Path) -> None:
    (folder / "films" / "a.png").write_bytes(b"")
    path = manifest(folder, "films/a.png,F", "films/b.png,M", header="image,gender")
    report = audit(path, progress=False)
    assert [fault.code for fault in report.faults] == ["missing-column"] * 4 + ["empty-file"]
    assert report.decoded == 1
    no_images = audit(manifest(folder, "a,30", header="image_id,age_months"), progress=False)
    assert no_images.decoded == 0
    assert no_images.has_errors
    json.dumps(no_images.as_dict())


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"image_id,image\n"])
def test_what_is_no_table_is_a_fault_of_the_report(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "manifest.csv"
    if content is not None:
        path.write_bytes(content)
    report = audit(path, progress=False)
    assert codes(report) == {"unreadable-table": ()}
    assert report.has_errors
    assert "1 errors" in report.render()


def test_what_a_person_should_check_is_a_warning(folder: Path) -> None:
    report = audit(manifest(folder, *GOOD[:3], "b2,films/b.png,90,M,train"), progress=False)
    assert codes(report) == {"shared-image": ("b2",), "empty-split": ()}
    assert not report.has_errors
    assert "2 warnings" in report.render()


def test_a_blank_image_is_an_error_as_it_is_for_predict_and_prepare(folder: Path) -> None:
    cv2.imwrite(str(folder / "films" / "a.png"), np.full((40, 40), 7, np.uint8))
    report = audit(manifest(folder, *GOOD), progress=False)
    assert codes(report) == {"blank-image": ("a",)}
    assert report.has_errors
    assert "every pixel is 7. Check the image, and export it again. Or remove its row." in str(
        report.render()
    )


def test_an_image_that_a_model_would_refuse_is_a_warning(folder: Path) -> None:
    odd = ImageFinding("unfamiliar", "it is not like a hand", "Check the image.")
    refused = {(48, 32): odd}
    png(folder / "films" / "b.png", size=(48, 32))
    report = audit(
        manifest(folder, *GOOD), progress=False, judge=lambda image: refused.get(image.shape)
    )
    assert codes(report) == {"unfamiliar": ("b",)}
    assert not report.has_errors
    assert "it is not like a hand" in report.render()


def hands(folder: Path, count: int) -> list[str]:
    """Writes phantoms and gives their rows, in the three splits by turns."""
    (folder / "films").mkdir(exist_ok=True)
    rows = []
    for i in range(count):
        radiograph = phantom(5, i, 128)
        cv2.imwrite(str(folder / "films" / f"{i}.png"), radiograph.image)
        split = ("train", "val", "test")[i % 3]
        rows.append(f"{i},films/{i}.png,{radiograph.age_months:g},{radiograph.sex},{split}")
    return rows


def test_what_an_image_shows_is_named_with_ids(tmp_path: Path) -> None:
    rows = hands(tmp_path, 9)
    radiograph = phantom(5, 0, 128).image
    spoilt = {
        "1": phantom(5, 1, 128).image[::-1],
        "2": np.rot90(phantom(5, 2, 128).image),
        "3": np.hstack([radiograph, phantom(5, 3, 128).image[:, ::-1]]),
        "4": 255 - phantom(5, 4, 128).image,
        "5": 100 + phantom(5, 5, 128).image // 64,
        "8": np.where(np.arange(128)[:, None] < 12, phantom(5, 8, 128).image | 128, 0),
        "6": np.where(np.arange(128)[:, None] < 100, 255, phantom(5, 6, 128).image),
    }
    for name, image in spoilt.items():
        cv2.imwrite(str(tmp_path / "films" / f"{name}.png"), image.astype(np.uint8))
    report = audit(manifest(tmp_path, *rows), progress=False)
    found = {(fault.code, *fault.image_ids) for fault in report.faults}
    assert found >= {
        ("turned-hand", "1"), ("turned-hand", "2"), ("two-hands", "3"), ("inverted", "4"),
        ("flat-image", "5"), ("saturated-image", "6"), ("nearly-empty-image", "8"),
    }  # fmt: skip
    assert not {each for each in found if {"0", "7"} & set(each[1:])}
    errors = {fault.code for fault in report.faults if fault.severity == "error"}
    assert errors == {"flat-image", "nearly-empty-image"}
    (upside_down,) = [fault for fault in report.faults if fault.image_ids == ("1",)]
    assert "upside down" in upside_down.message


def test_the_same_radiograph_across_splits_is_an_error_and_within_one_a_warning(
    tmp_path: Path,
) -> None:
    rows = hands(tmp_path, 9)
    for source, copy in (("0", "a"), ("1", "b")):
        image = cv2.imread(str(tmp_path / "films" / f"{source}.png"), 0)
        cv2.imwrite(str(tmp_path / "films" / f"{copy}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 70])
    rows += ["a,films/a.jpg,90,M,train", "b,films/b.jpg,90,M,train"]
    report = audit(manifest(tmp_path, *rows), progress=False)
    assert codes(report) == {"near-duplicate-in-two-splits": ("b",), "near-duplicate": ("a",)}
    assert report.has_errors
    assert (
        "is the same radiograph as films/1.png in row 3 (correlation 0.9"
        in report.faults[0].message
    )


def test_only_the_region_is_inspected_and_a_region_outside_is_an_error(tmp_path: Path) -> None:
    rows = hands(tmp_path, 3)
    both = np.hstack([phantom(5, 0, 128).image, phantom(5, 3, 128).image[:, ::-1]])
    cv2.imwrite(str(tmp_path / "films" / "0.png"), both)
    header = ",".join([*COLUMNS, "region"])
    regions = ["0 0 128 128", "0 0 15 128", "0 0 129 128"]
    rows = [f"{row},{region}" for row, region in zip(rows, regions, strict=True)]
    report = audit(manifest(tmp_path, *rows, header=header), progress=False)
    assert codes(report) == {"region-too-small": ("1",), "region-outside": ("2",)}
    assert "0 0 15 128 has a side of less than 16 pixels" in report.faults[0].message
    assert "beyond the image of 128 x 128 pixels" in report.faults[1].message
    assert report.sizes["width"]["maximum"] == 128


def test_two_parts_of_one_radiograph_are_two_images(tmp_path: Path) -> None:
    radiograph = phantom(5, 0, 128).image
    (tmp_path / "films").mkdir()
    cv2.imwrite(str(tmp_path / "films" / "a.png"), np.hstack([radiograph, radiograph]))
    parts = ["0 0 128 128", "128 0 256 128", "0 0 128 128"]
    rows = [f"{i},films/a.png,90,F,train,{part}" for i, part in enumerate(parts)]
    report = audit(manifest(tmp_path, *rows, header=",".join([*COLUMNS, "region"])), progress=False)
    assert codes(report) == {"shared-image": ("2",), "empty-split": ()}


def test_absurd_ages_and_regions_are_faults_and_no_more(folder: Path) -> None:
    rows = [f"{row}," for row in GOOD[1:]]
    rows += [f"a,films/a.png,1e20,F,train,{'9' * 5000} 0 1 1"]
    header = ",".join([*COLUMNS, "region"])
    report = audit(manifest(folder, *rows, header=header), progress=False)
    assert codes(report) == {"impossible-age": ("a",), "bad-region": ("a",)}
    assert report.ages["train"]["maximum"] == 90
