"""Nothing that identifies a child gets out: every text of a header is planted with a canary."""

from __future__ import annotations

import csv
import io
import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import config
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from boneage.datasets.importers.dicom.files import read_headers
from boneage.datasets.importers.dicom.importer import import_dicom
from boneage.datasets.importers.dicom.labels import LabelTable
from boneage.errors import InputError

# Elements that say what kind of image it is. All others are a superset of PS3.15, table E.1-1.
STRUCTURAL = {"SOPClassUID", "PatientSex", "PatientAge", "NumberOfFrames", "Modality"}
STRUCTURAL |= {"PhotometricInterpretation", "SpecificCharacterSet", "PixelPresentation"}
STRUCTURAL |= {"PresentationLUTShape", "VOILUTFunction", "RescaleType", "PixelDataProviderURL"}
UID, BIRTH, STUDY = "1.2.826.0.1.3680043.10.999", "20080317", "20190822"
SECRETS = ("kanari", "1.2.826.0.1.3680043", BIRTH, STUDY, "2008-03-17", "2019-08-22", "101112.13")
INSTANCE, ACCESSION = tag_for_keyword("SOPInstanceUID"), tag_for_keyword("AccessionNumber")
HEADER = ("SOPInstanceUID", "accession", "name", "bone age", "set")


def planted(number: int) -> Dataset:
    """Return everything that a header can say in words, each with a canary in it."""
    dataset = Dataset()
    for tag, (vr, *_, keyword) in DicomDictionary.items():
        if keyword in STRUCTURAL or not keyword or tag >> 16 in (0, 2, 0x7FE0):
            continue
        name = f"KANARI{tag:08X}N{number}"
        value: object = {
            "PN": f"{name}^Kanari",
            **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC", "UR", "AE", "CS"), name),
            "DA": BIRTH if keyword == "PatientBirthDate" else STUDY,
            "DT": f"{STUDY}101112.13",
            "TM": "101112.13",
            "UI": f"{UID}.{tag}.{number}",
        }.get(vr)
        if value is not None:
            dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)
    block = dataset.private_block(0x0011, "KANARI PRIVATE", create=True)
    block.add_new(0x01, "LO", "KANARI PRIVATE VALUE")
    inner = Dataset()
    inner.PatientName, inner.PatientID = "Kanari^Inside", "KANARI-INSIDE"
    dataset.OtherPatientIDsSequence = DicomSequence([inner])
    return dataset


def rows(count: int) -> list[list[str]]:
    accession = f"KANARI{ACCESSION:08X}N"
    return [
        [f"{UID}.{INSTANCE}.{n}", f"{accession}{n}", f"Kanari, {n}", f"{90 + n}", "train"]
        for n in range(count)
    ]


def table(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path.write_text(text.getvalue())
    return path


def leaks(*texts: str) -> list[str]:
    return [secret for secret in SECRETS for text in texts if secret in text.lower()]


@pytest.fixture(scope="module")
def aviary(write_dicom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs full of canaries, at paths with canaries."""
    folder = tmp_path_factory.mktemp("aviary")
    for number in range(4):
        path = folder / "KANARI" / f"KANARI{number}.dcm"
        write_dicom(
            path, planted(number), PatientSex="M", SOPInstanceUID=f"{UID}.{INSTANCE}.{number}"
        )
    assert set(leaks(path.read_bytes().decode("latin-1"))) >= set(SECRETS[:4])
    return folder


@pytest.fixture
def said(capfd, caplog):
    """Return all that was printed and logged."""
    caplog.set_level(logging.NOTSET)

    def said() -> tuple[str, str, str]:
        return (*capfd.readouterr(), caplog.text)

    return said


def test_no_canary_gets_out(aviary: Path, tmp_path: Path, said) -> None:
    labels = LabelTable(table(tmp_path / "ages.csv", rows(4)), "bone age", "months")
    manifest = import_dicom([aviary], tmp_path / "out" / "manifest.csv", labels=labels)
    assert set(manifest.table["chronological_age_months"]) == {137.0}
    assert set(manifest.table["sex"]) == {"M"}
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 6  # four images, the manifest and the salt
    texts = [path.read_bytes().decode("latin-1") for path in written]
    printed = said()
    assert "Reading headers" in printed[1]
    assert not leaks(*texts, *map(str, written), *manifest.notes, repr(manifest), *printed)


FAILURES: dict[str, dict[str, Any]] = {
    "a sex in words": {"tags": {"PatientSex": "KANARI GIRL"}},
    "frames in words": {"tags": {"NumberOfFrames": "KANARI"}},
    "no uid": {"tags": {"SOPInstanceUID": ""}, "join": "AccessionNumber"},
    "an accession number twice": {
        "tags": {"AccessionNumber": f"KANARI{ACCESSION:08X}N1"},
        "join": "AccessionNumber",
    },
    "an unknown accession number": {"cell": (1, "KANARI-NONE"), "join": "AccessionNumber"},
    "a uid in two rows": {"cell": (0, f"{UID}.{INSTANCE}.1")},
    "different radiographs of a uid": {"tags": {"SOPInstanceUID": f"{UID}.{INSTANCE}.1"}},
    "an unknown file": {"join": "file", "join_column": "name"},
    "an age in words": {"cell": (3, "KANARI")},
    "ages in another column": {"age": "name"},
    "no header": {"header": rows(5)[4]},
    "sex in another column": {"sex": "name"},
    "a patient in two splits": {
        "cell": (4, "test"),
        "split": "set",
        "tags": {"PatientID": "KANARI7", "IssuerOfPatientID": ""},
        "tags of 1": {"PatientID": "KANARI7"},
    },
    "pixels that can't be decoded": {"tags": {"BitsAllocated": 40}},
    "a header cut short": {"cut": 4000},
}


@pytest.mark.parametrize("case", FAILURES)
def test_no_canary_gets_out_when_something_fails(
    case: str, aviary: Path, tmp_path: Path, said
) -> None:
    options = {"age": "bone age", **FAILURES[case]}
    changes = (options.pop("tags", {}), options.pop("tags of 1", {}))
    column, text = options.pop("cell", (0, None))
    paths = [tmp_path / "pacs" / f"KANARI{number}.dcm" for number in (0, 1)]
    paths[0].parent.mkdir()
    for path, values in zip(paths, changes, strict=True):
        dataset = pydicom.dcmread(aviary / "KANARI" / path.name)
        for keyword, value in values.items():
            tag = tag_for_keyword(keyword)
            vr = "LO" if value == "KANARI" else DicomDictionary[tag][0]
            dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)
        dataset.save_as(path)
    if cut := options.pop("cut", None):
        paths[0].write_bytes(paths[0].read_bytes()[:cut])
    cells = rows(2)
    cells[0][column] = cells[0][column] if text is None else text
    ages = table(tmp_path / "ages.csv", cells, options.pop("header", HEADER))
    labels = LabelTable(ages, age_unit="months", **options)
    with pytest.raises(InputError) as caught:
        import_dicom([tmp_path / "pacs"], tmp_path / "out" / "manifest.csv", labels=labels)
    trace = "".join(traceback.format_exception(caught.value))
    assert not leaks(str(caught.value), repr(caught.value.faults), trace, *said())
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_the_repr_of_a_header_shows_nothing(aviary: Path) -> None:
    paths = sorted((aviary / "KANARI").iterdir())
    found = read_headers(dict.fromkeys(paths, "a file"), progress=False)
    assert len(found.headers) == 4
    assert not leaks(repr(found.headers))
