from __future__ import annotations

import os
from pathlib import Path

import pytest

from boneage.errors import Fault
from boneage.prediction.predict import Request
from boneage.prediction.requests import RadiographFiles, take_shard


def make(folder: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def listed(files: RadiographFiles, folder: Path) -> list[str]:
    return [os.path.relpath(str(found), folder) for found in files]


def test_a_folder_gives_its_radiographs_in_a_stable_order(tmp_path, write_dicom):
    make(tmp_path, "b.png", "B.PNG", "a.jpeg", "z/1.tif", "m/y/2.BMP", "m/n.png")
    make(tmp_path, "notes.txt", "list.csv", "more.csv", "noise", ".hidden.png", "__MACOSX/c.png")
    write_dicom(tmp_path / "z" / "IM0001")
    make(tmp_path, "report.dcm", content=b"x" * 200)
    make(tmp_path, "DICOMDIR", content=b"\0" * 128 + b"DICM 1.2.840.10008.1.3.10\0")
    make(tmp_path, "sr", content=b"\0" * 128 + b"DICM UI 1.2.840.10008.5.1.4.1.1.88.33\0")
    files = RadiographFiles([str(tmp_path)])
    found = listed(files, tmp_path)
    assert found == [
        "B.PNG", "a.jpeg", "b.png", "report.dcm", "m/n.png", "m/y/2.BMP", "z/1.tif", "z/IM0001",
    ]  # fmt: skip
    skipped = {".csv": 2, ".txt": 1, "without a suffix": 1, "hidden": 2}
    assert files.skipped == {**skipped, "DICOM without an image": 2}
    assert files.describe_skipped().startswith("8 files are no radiographs and left out: 2 hidden")
    assert listed(files, tmp_path) == found
    assert files.skipped.total() == 8


def test_named_files_come_as_they_are_and_in_their_order(tmp_path):
    make(tmp_path, "hand.txt", "folder/in.png")
    names = ["http://a.b//c.png", str(tmp_path / "folder"), str(tmp_path / "hand.txt"), "nul\0"]
    found = list(RadiographFiles(names))
    assert found == [names[0], str(tmp_path / "folder" / "in.png"), names[2], names[3]]


def test_a_link_to_a_folder_above_ends(tmp_path):
    make(tmp_path, "in/hand.png")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "absent")
    found = listed(RadiographFiles([str(tmp_path)]), tmp_path)
    assert found == ["in/broken.png", "in/hand.png"]


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may list every folder")
def test_a_closed_folder_is_a_fault(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (fault,) = RadiographFiles([str(tmp_path)])
    assert isinstance(fault, Fault)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_whole_batches_and_together_everything(count):
    requests = [Request(str(number), "F") for number in range(300)]
    parts = [list(take_shard(requests, number, count)) for number in range(1, count + 1)]
    assert sorted((r for part in parts for r in part), key=lambda r: int(r.image)) == requests
    if count > 1:
        assert [request.image for request in parts[1]][:2] == ["64", "65"]
