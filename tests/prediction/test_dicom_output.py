from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from boneage.errors import Fault, InputError
from boneage.prediction import dicom_output
from boneage.prediction.answers import (
    Answer,
    AppliedCalibration,
    Estimate,
    Interval,
    ModelIdentity,
)
from boneage.prediction.dicom_output import dicom_documents, write_documents
from boneage.prediction.picture import LONG_SIDE, draw_answer
from boneage.prediction.sd_score import compare_ages, load_reference
from boneage.radiographs.image_quality import ImageFinding

pytest.importorskip("highdicom", reason='needs the extra "dicom"')

MODEL = ModelIdentity("my-run", "", "ab" * 32)
FINDING = ImageFinding("turned-hand", "the hand is probably upside down", "Check the image.")
IDENTIFIERS = {
    "SOPInstanceUID": "1.2.826.0.1.3680043.10.999.1",
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.999.2",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.10.999.3",
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller^Jürgen",
    "PatientID": "4711",
    "IssuerOfPatientID": "clinic",
    "PatientBirthDate": "20160401",
    "PatientSex": "M",
    "StudyDate": "20260301",
    "StudyTime": "101500",
    "AccessionNumber": "A-1",
    "StudyID": "S-1",
    "ReferringPhysicianName": "Doe^Jane",
    "Laterality": "L",
    "PatientOrientation": ["L", "F"],
    "BodyPartExamined": "HAND",
}
NOT_NEEDED = {
    **dict.fromkeys(("InstitutionName", "StationName", "OperatorsName"), "SECRET"),
    **dict.fromkeys(("PatientComments", "EthnicGroup", "AdditionalPatientHistory"), "SECRET"),
    **dict.fromkeys(("OtherPatientNames", "PatientAddress", "StudyDescription"), "SECRET"),
    **dict.fromkeys(("SeriesDescription", "ImageComments", "ProtocolName"), "SECRET"),
    **dict.fromkeys(("RequestingPhysician", "DeviceSerialNumber", "Manufacturer"), "SECRET"),
    "PatientAge": "SECR",
}


def answer(sexes: str = "M", months: float = 118.83, age: float | None = 110.0) -> Answer:
    interval = Interval(0.9, months - 13.2, months + 14.1)
    estimates = []
    for sex in sexes:
        comparison = None
        if age is not None:
            limits = interval.low, interval.high
            comparison = compare_ages(months, sex, age, load_reference(), limits)
        estimates.append(Estimate(sex, months, interval, comparison))
    return Answer(
        "/secret/Doe.dcm",
        "answered",
        tuple(estimates),
        findings=(FINDING,),
        chronological_age_months=age,
        models=(MODEL,),
    )


@pytest.fixture
def source(write_dicom, tmp_path) -> Path:
    """A radiograph of a drawn hand whose header says more than a report needs."""
    return write_dicom(tmp_path / "source.dcm", **IDENTIFIERS, **NOT_NEEDED)


def write(source: Path, given: Answer, folder: str = "out") -> tuple[Path, Path]:
    report, image = write_documents(dicom_documents(source, given), source.parent / folder)
    return report, image


def written(source: Path, given: Answer, folder: str = "out") -> tuple[Dataset, Dataset]:
    report, image = write(source, given, folder)
    return pydicom.dcmread(report), pydicom.dcmread(image)


def content(item: Dataset) -> list[tuple[str, object]]:
    """The items of a report, as (code, value), from the top down."""
    found = []
    for inner in item.get("ContentSequence", ()):
        name = inner.ConceptNameCodeSequence[0].CodeValue
        value: object = inner.get("TextValue") or inner.get("UID")
        if "MeasuredValueSequence" in inner:
            measured = inner.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            value = float(measured.NumericValue), unit
        elif "ConceptCodeSequence" in inner:
            value = inner.ConceptCodeSequence[0].CodeValue
        found += [(name, value), *content(inner)]
    return found


def test_report_and_picture_say_that_the_answer_is_calibrated(source):
    applied = AppliedCalibration(120, "2026-11-30", "b" * 64, "+5.00 months", 5.0)
    plain = answer()
    (estimate,) = plain.estimates
    calibrated = replace(plain, estimates=(replace(estimate, calibration=applied),))
    report, image = written(source, calibrated)
    comments = [str(value) for name, value in content(report) if name == "121106"]
    assert any("The answer is calibrated +5.0 months (+5.00" in comment for comment in comments)
    assert ("111002", f"SHA-256 of the local calibration: {'b' * 64}") in content(report)
    assert image.PixelData != written(source, plain, "plain")[1].PixelData


def test_the_report_says_what_the_answer_says(source):
    report, _ = written(source, answer())
    found = content(report)
    values = dict(found)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert values["85151-9"] == (118.8, "mo")
    assert (values["PI-LOW"], values["PI-HIGH"]) == ((105.6, "mo"), (132.9, "mo"))
    assert values["PI-LEVEL"] == (90.0, "%")
    assert values["121416"] == (0.97, "1")
    assert "Brush Foundation" in str(values["121406"])
    assert values["121033"] == (110.0, "mo")
    assert values["121032"] == "M"
    assert (values["111001"], values["111003"]) == ("my-run", "not released (boneage 0.1.0)")
    assert values["111002"] == f"SHA-256 of my-run: {MODEL.digest}"
    comments = [str(value) for name, value in found if name == "121106"]
    assert comments[0] == "Bone age 9 years 11 months (boy, 118.8 months)"
    assert any("upside down" in comment for comment in comments)
    assert any("does not fit every ethnic group" in comment for comment in comments)
    assert comments[-1].startswith("Research use only.")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == IDENTIFIERS["StudyInstanceUID"]
    assert series.SeriesInstanceUID == IDENTIFIERS["SeriesInstanceUID"]
    (instance,) = series.ReferencedSOPSequence
    assert instance.ReferencedSOPInstanceUID == IDENTIFIERS["SOPInstanceUID"]
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"


def test_the_method_is_named_for_models_that_learned_from_it(source, monkeypatch):
    report, _ = written(source, answer())
    assert "85150-1" not in dict(content(report))
    monkeypatch.setattr(dicom_output, "is_trained_on_greulich_pyle", lambda models: True)
    report, _ = written(source, answer())
    assert dict(content(report))["85150-1"] == "252956001"


def test_an_unknown_sex_gives_two_groups(source):
    report, _ = written(source, answer("FM", age=None))
    found = content(report)
    assert [value for name, value in found if name == "121032"] == ["F", "M"]
    assert [value for name, value in found if name == "85151-9"] == [(118.8, "mo")] * 2
    assert not {"121416", "121033"} & {name for name, _ in found}
    assert sum("The sex of the child is not known" in str(value) for _, value in found) == 2


def test_only_the_identifiers_of_patient_and_study_are_copied(source):
    copied = {*dicom_output.PATIENT_AND_STUDY}
    for document in written(source, answer()):
        for keyword in copied:
            assert document[keyword].value == IDENTIFIERS[keyword]
        assert document.SeriesInstanceUID != IDENTIFIERS["SeriesInstanceUID"]
        assert document.SOPInstanceUID != IDENTIFIERS["SOPInstanceUID"]
        ours = {
            *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "InstanceCreationDate"),
            *("InstanceCreationTime", "ContentDate", "ContentTime", "ContentQualification"),
            *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
            *("Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
            "ContributingEquipmentSequence",  # highdicom's name and version
        }
        of_report = {
            *("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent", "ContentSequence"),
            *("ContentTemplateSequence", "CompletionFlag", "VerificationFlag", "PreliminaryFlag"),
            *("PerformedProcedureCodeSequence", "ReferencedPerformedProcedureStepSequence"),
            *("CurrentRequestedProcedureEvidenceSequence", "CodingSchemeIdentificationSequence"),
        }
        of_image = {
            *("ImageType", "ConversionType", "DerivationDescription", "SourceImageSequence"),
            *("DateOfSecondaryCapture", "TimeOfSecondaryCapture", "Rows", "Columns", "PixelData"),
            *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"),
            *("HighBit", "PixelRepresentation"),
            *("Laterality", "PatientOrientation", "BodyPartExamined"),
        }
        found = {element.keyword for element in document}
        assert found == copied | ours | (of_report if document.Modality == "SR" else of_image)
    for path in (source.parent / "out").iterdir():
        data = path.read_bytes()
        assert b"SECR" not in data
        assert b"secret" not in data


def test_a_repeated_run_gives_the_same_instances(source):
    first = written(source, answer())
    files = {path: path.stat().st_mtime_ns for path in (source.parent / "out").iterdir()}
    write(source, answer())
    again = {path: path.stat().st_mtime_ns for path in (source.parent / "out").iterdir()}
    assert again == files
    others = (
        answer("F"),
        answer(months=119.83),
        replace(answer(), models=(replace(MODEL, digest="cd" * 32),)),
    )
    names = ("SOPInstanceUID", "SeriesInstanceUID")
    uids = {document[name].value for document in first for name in names}
    for other in others:
        found = {document[name].value for document in written(source, other) for name in names}
        assert not uids & found
        uids |= found
    assert all(len(uid) <= 64 for uid in uids)
    report, image = written(source, answer(), "elsewhere")
    assert (report.SOPInstanceUID, image.SOPInstanceUID) == (
        first[0].SOPInstanceUID,
        first[1].SOPInstanceUID,
    )


def test_an_answer_without_an_estimate_gives_no_document(source):
    refused = Answer("x", "refused", fault=Fault("x", "every pixel is 0", "Check it."))
    assert dicom_documents(source, refused) == {}


def test_a_header_with_unusual_values_is_copied_as_it_is(write_dicom, tmp_path):
    """Empty and missing elements, a name without a family name, an old date, no orientation."""
    needed = {name: IDENTIFIERS[name] for name in list(IDENTIFIERS)[:3]}
    values = {"PatientName": "X", "PatientBirthDate": "2016.04.01", "PatientSex": "?"}
    file = write_dicom(tmp_path / "odd.dcm", **needed, **values)
    for document in written(file, answer()):
        for keyword, value in values.items():
            assert document[keyword].value == value
        assert document.PatientID == document.AccessionNumber == ""
        assert "SpecificCharacterSet" not in document
    assert document.PatientOrientation == ""


def test_the_image_shows_the_radiograph_below_the_text(source):
    _, image = written(source, answer())
    pixels = image.pixel_array
    text, radiograph = pixels[: -LONG_SIDE[0]], pixels[-LONG_SIDE[0] :]
    assert text.shape[0] > 150
    assert text.max() == 255
    assert text.mean() < 60
    assert radiograph.max() == 255


def test_the_text_of_the_image():
    hand = np.tile(np.arange(4000, dtype=np.uint16), (3000, 1))
    lines, picture = draw_answer(hand, answer())
    assert lines[:4] == [
        "Bone age 9 years 11 months (boy, 118.8 months)",
        "90 % interval: 8 years 10 months to 11 years 1 month",
        "Chronological age 9 years 2 months: +0.97 SD [-0.48, +2.51], indeterminate "
        "(the interval crosses 2 SD), by Brush Foundation (Greulich and Pyle 1959). "
        "The standard of Greulich and Pyle does not fit every ethnic group.",
        "Check: the hand is probably upside down.",
    ]
    assert lines[4].startswith("RESEARCH USE ONLY.")
    assert "my-run" in lines[5]
    assert picture.shape[1] == LONG_SIDE[1]
    lines, _ = draw_answer(hand, answer("FM", age=None))
    assert lines[0] == "Sex not known. Two estimates:"
    assert [line[:20] for line in lines if "Bone age" in line] == ["Bone age 9 years 11 "] * 2
    many = replace(answer(), findings=(FINDING,) * 5)
    assert "Check: 2 more findings." in draw_answer(hand, many)[0]


@pytest.mark.parametrize("shape", [(64, 64), (900, 100), (100, 900), (1, 1), (3000, 2000)])
def test_every_shape_of_image_gets_a_picture(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    _, picture = draw_answer(image, answer())
    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 600


def test_faults_are_reported(write_dicom, source, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no valid StudyInstanceUID, SeriesInstanceUID, so"):
        write(write_dicom(tmp_path / "a.dcm", SOPInstanceUID="1.2.3"), answer())
    with pytest.raises(InputError, match="no valid StudyInstanceUID, so"):
        write(write_dicom(tmp_path / "a.dcm", **{**IDENTIFIERS, "StudyInstanceUID": "x"}), answer())
    (tmp_path / "b.png").write_bytes(b"x" * 999)
    with pytest.raises(InputError, match="not DICOM"):
        write(tmp_path / "b.png", answer())
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"highdicom is not installed.*boneage\[dicom\]"):
        write(source, answer())


@pytest.mark.parametrize("sexes", ["M", "FM"])
def test_other_tools_find_no_error(source, sexes):
    tools = ("dciodvfy", "dsrdump")
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"needs {' and '.join(missing)} (Debian packages dicom3tools, dcmtk)")
    report, image = write(source, answer(sexes))
    for path in (report, image):
        checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        lines = checked.stderr.splitlines()
        assert lines[0] == ("SCImage" if path == image else "ComprehensiveSR")
        # The interval has no code in a public scheme.
        assert {line for line in lines[1:] if "<99BONEAGE>" not in line} == set()
    shown = subprocess.run(["dsrdump", report], capture_output=True, encoding="latin-1", check=True)
    assert not shown.stderr
    assert shown.stdout.count('NUM:(,,"XR Bone age")="118.8" (mo,UCUM,"month")') == len(sexes)
