from __future__ import annotations

from pathlib import Path

import pytest

from boneage.errors import InputError
from boneage.radiographs import dicom_headers
from boneage.radiographs.dicom_headers import (
    find_dicom_header,
    header_findings,
    is_placeholder_id,
    read_dicom_header,
)

DATES = {
    "StudyDate": "20190822",
    "AcquisitionDate": "20190822",
    "PatientBirthDate": "20080317",
    "PatientName": "Zwiebelmeyer^Ottokar",
}
NO_STUDY = {"StudyDate": "", "AcquisitionDate": ""}


@pytest.mark.parametrize(
    ("values", "months"),
    [
        ({}, 137),  # 11 years, 5 months and 5 days
        ({"PatientAge": "011Y"}, 137),
        ({"PatientBirthDate": ""}, None),
        ({"PatientBirthDate": "", "PatientAge": "012Y"}, 144),
        ({"PatientBirthDate": "", "PatientAge": "052W"}, 12),
        ({"PatientBirthDate": "", "PatientAge": "300D"}, 10),
        ({"PatientBirthDate": "", "PatientAge": "eleven"}, None),
        ({"PatientBirthDate": "19000101", "PatientAge": "011Y"}, 132),
        ({"PatientBirthDate": "19000101"}, None),
        ({"PatientBirthDate": "20080399"}, None),
        ({"PatientBirthDate": "2008.03.17"}, 137),
        ({**NO_STUDY, "AcquisitionDate": "20190301"}, 131),
        ({**NO_STUDY, "AcquisitionDateTime": "20190301101500"}, 131),
    ],
)
def test_the_chronological_age(write_dicom, tmp_path: Path, values, months: int | None) -> None:
    header = read_dicom_header(write_dicom(tmp_path / "IM1", **{**DATES, **values}))
    assert header.age.months == months
    is_stated_in_years = months in (144, 132)
    assert (header.age.is_in_years, header.age.is_contradictory) == (is_stated_in_years, False)


def test_an_age_that_contradicts_the_dates_is_not_used(write_dicom, tmp_path: Path) -> None:
    age = read_dicom_header(write_dicom(tmp_path / "IM1", **DATES, PatientAge="003Y")).age
    assert (age.months, age.is_contradictory) == (None, True)
    born = {**DATES, "PatientBirthDate": "20301231", "PatientAge": "011Y"}
    age = read_dicom_header(write_dicom(tmp_path / "IM2", **born)).age
    assert (age.months, age.is_contradictory) == (None, True)


def test_codes_of_the_standard_are_kept_and_others_are_not(write_dicom, tmp_path: Path) -> None:
    values = {"PatientSex": "f", "Modality": "dx", "BodyPartExamined": "LEFT HAND Otto"}
    header = read_dicom_header(write_dicom(tmp_path / "IM1", **values, ImageLaterality="R"))
    assert (header.sex, header.modality, header.laterality) == ("F", "DX", "R")
    assert (header.body_part, header.is_of_hand) == ("another value", True)
    header = read_dicom_header(write_dicom(tmp_path / "IM2", PatientSex="girl", NumberOfFrames="x"))
    assert (header.sex, header.frames, header.body_part) == ("another value", None, "")


@pytest.mark.parametrize("charset", ["punycode", "zlib", "nonsense"])
def test_a_character_set_that_dicom_does_not_know(write_dicom, tmp_path: Path, charset) -> None:
    path = write_dicom(tmp_path / "odd", SpecificCharacterSet="ISO_IR 100", PatientSex="F", **DATES)
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", charset.ljust(10).encode()))
    header = read_dicom_header(path)
    assert (header.age.months, header.sex) == (137, "F")


def test_a_header_that_can_not_be_parsed(write_dicom, tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise UnicodeError("Zwiebelmeyer")

    path = write_dicom(tmp_path / "IM1")
    monkeypatch.setattr(dicom_headers, "_header", fail)
    with pytest.raises(InputError, match="its header can't be read") as caught:
        read_dicom_header(path)
    assert "Zwiebelmeyer" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "0000", "ANONYMOUS", "de-identified", "xxx", "Unknown"])
def test_placeholders_are_no_patients(name: str) -> None:
    assert is_placeholder_id(name)
    assert not is_placeholder_id("1042")


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ({"PatientSex": "F", "Modality": "DX", "BodyPartExamined": "HAND"}, []),
        ({"PatientSex": "", "Modality": "", "BodyPartExamined": ""}, []),
        ({"PatientSex": "O", "Modality": "OT", "BodyPartExamined": "LEFT WRIST"}, []),
        ({"PatientSex": "girl", "BodyPartExamined": "EXTREMITY"}, []),
        ({"PatientSex": "m"}, ["other-sex"]),
        ({"Modality": "US"}, ["other-modality"]),
        ({"BodyPartExamined": "chest"}, ["other-body-part"]),
        (
            {"PatientSex": "M", "Modality": "CT", "BodyPartExamined": "FOOT"},
            ["other-sex", "other-modality", "other-body-part"],
        ),
    ],
)
def test_what_a_header_says_against_a_radiograph(write_dicom, tmp_path: Path, values, codes):
    header = find_dicom_header(write_dicom(tmp_path / "IM1", **values))
    assert header is not None
    assert [finding.code for finding in header_findings(header, "F")] == codes


def test_a_file_that_is_no_dicom_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "IM1").write_bytes(b"\x89PNG")
    assert find_dicom_header(tmp_path / "IM1") is None
