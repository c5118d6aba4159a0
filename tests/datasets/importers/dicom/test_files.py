from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from boneage.datasets.importers.dicom import files
from boneage.errors import Fault, InputError


def save_object(path: Path, storage: str) -> None:
    """Write a DICOM object that holds no image."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(path, enforce_file_format=True)


def test_a_list_of_files(pacs) -> None:
    root = pacs.folder.parent
    listing = root / "list.txt"
    paths = [pacs.path(number).relative_to(root) for number in range(12)]
    listing.write_text("".join(f"{path}\n\n" for path in paths))
    assert len(pacs.import_(*pacs.rows[:12], paths=[], listing=listing)) == 12
    (root / "letter.txt").write_text("Dear colleague")
    listing.write_text("letter.txt\npacs/ZWIEBELMEYER\n")
    (found,) = pacs.faults(paths=[], listing=listing)
    assert found.startswith("list.txt: line 1: the file is not DICOM")
    listing.write_text("letter.txt\nnone\n")
    (found,) = pacs.faults(paths=[], listing=listing)
    assert found.startswith("list.txt: line 2: the file does not exist")
    (found,) = pacs.faults(paths=[pacs.folder / "nowhere"])
    assert found.startswith("pacs/nowhere: the file does not exist")
    (found,) = pacs.faults(listing=root / "missing.txt")
    assert found.startswith("missing.txt: there is no such file")


def test_other_files_are_counted(pacs, note) -> None:
    (pacs.folder / "index.html").write_text("<html>")
    (pacs.folder / "empty").touch()
    (pacs.folder / "noise.dcm").write_bytes(np.random.default_rng(1).bytes(5000))
    (pacs.folder / "link").symlink_to("nowhere")
    save_object(pacs.folder / "report.dcm", "1.2.840.10008.5.1.4.1.1.88.11")
    save_object(pacs.folder / "DICOMDIR", "1.2.840.10008.1.3.10")
    (pacs.folder / "cut").write_bytes(pacs.path(19).read_bytes()[:300])
    manifest = pacs.import_(*pacs.rows[:15])
    assert note(manifest, "Files left out") == (
        "Files left out: 4 not DICOM, 1 DICOMDIR, 1 DICOM without an image (reports, "
        "presentation states), 1 DICOM that can't be read."
    )
    assert "has no row for them: 5 radiographs." in note(manifest, "Left out")


@pytest.mark.parametrize("length", [0, 130, 132, 400, 590])
def test_a_radiograph_cut_short_is_named_by_its_number_in_the_folder(pacs, length: int) -> None:
    path = pacs.path(19)
    path.write_bytes(path.read_bytes()[:length])
    found = pacs.faults()
    assert "ages.csv: row 21: no radiograph has this SOPInstanceUID" in found[0]
    assert len(found) == (2 if length >= 132 else 1)
    for message in found[1:]:
        assert message.startswith("pacs: file 14 of 20: ")


def test_closed_folders_are_counted_and_not_named(pacs, monkeypatch) -> None:
    def closed(path: Path, **_: object) -> list[Path]:
        raise InputError([Fault(str(path / "Zwiebelmeyer"), "closed", "Open it.")])

    monkeypatch.setattr(files, "files_below", closed)
    (found,) = pacs.faults()
    assert found.startswith("pacs: 1 folder below it can't be read. ")


def test_archives_are_counted_and_not_named(pacs) -> None:
    (pacs.folder / "Zwiebelmeyer.zip").write_bytes(b"PK")
    (found,) = pacs.faults("1.2.404,100")
    assert "Unpack the 1 archive (.zip, .7z, .iso) among the files first" in found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_opened(pacs) -> None:
    os.mkfifo(pacs.folder / "pipe.dcm")
    assert len(pacs.import_()) == 20  # below a folder it is left out
    (found,) = pacs.faults(paths=[pacs.folder, pacs.folder / "pipe.dcm"])
    assert "pacs/pipe.dcm: the file is not DICOM" in found
