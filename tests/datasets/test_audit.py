from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from boneage.datasets.audit import AuditReport, audit
from boneage.datasets.manifest import COLUMNS


def png(path: Path, *, size: tuple[int, int] = (40, 32), dtype: type = np.uint8) -> Path:
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    cv2.imwrite(str(path), rng.integers(0, 255, size).astype(dtype))
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


def test_a_sound_manifest_has_no_faults_and_its_counts(folder: Path) -> None:
    png(folder / "films" / "d.png", size=(80, 64), dtype=np.uint16)
    report = audit(manifest(folder, *GOOD), progress=False)
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
    assert "0 errors, 0 warnings" in text


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


def test_what_a_person_should_look_at_is_a_warning(folder: Path) -> None:
    cv2.imwrite(str(folder / "films" / "a.png"), np.full((40, 40), 7, np.uint8))
    report = audit(manifest(folder, *GOOD[:3], "b2,films/b.png,90,M,train"), progress=False)
    assert codes(report) == {"blank-image": ("a",), "shared-image": ("b2",), "empty-split": ()}
    assert not report.has_errors
    assert "3 warnings" in report.render()


def test_many_broken_images_are_grouped_but_all_named(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"{i}.png").touch()
    rows = [f"{i},{i}.png,{30 + i},F,train" for i in range(50)]
    report = audit(manifest(tmp_path, *rows), progress=False)
    empty = [fault for fault in report.faults if fault.code == "empty-file"]
    assert len(empty) == 1
    assert empty[0].image_ids == tuple(str(i) for i in range(50))
    assert "50 rows (2, 3, 4, 5, 6, …)" in empty[0].message


def test_the_report_is_json(folder: Path) -> None:
    report = audit(manifest(folder, *GOOD, "e,films/e.png,30,F,train"), progress=False)
    values = json.loads(json.dumps(report.as_dict()))
    assert values["errors"] == 1
    assert values["has_errors"] is True
    assert values["images"] == 5
    assert values["faults"][0]["code"] == "missing-file"
    assert values["faults"][0]["severity"] == "error"
    assert values["faults"][0]["image_ids"] == ["e"]
    assert values["manifest"].endswith("manifest.csv")
