"""What the header of one DICOM radiograph says about the child and the image.

A birth date leaves this module only as an age in whole months. Names, institutions and comments
are never read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from boneage.errors import InputError
from boneage.radiographs.chronological_age import DAYS_IN_MONTH, OLDEST_MONTHS, months_between
from boneage.radiographs.dicom import (
    SNIFFED_BYTES,
    dicom_fault,
    is_dicom,
    open_dicom,
    quiet_pydicom,
)
from boneage.radiographs.dicom_transformations import PARSING_ERRORS
from boneage.radiographs.file_limits import Upload, open_radiograph
from boneage.radiographs.image_quality import ImageFinding

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.dataelem import RawDataElement

UNKNOWN_CODE = "another value"
"""Replaces a code that the standard does not define: it could be a name that somebody typed."""
RADIOGRAPH_MODALITIES = ("CR", "DX", "DR", "RG", "RF")
OTHER_MODALITIES = (
    *("CT", "MR", "US", "NM", "PT", "BMD", "ECG", "ES", "GM", "IVUS", "OCT", "OP", "SM"),
)
"""Modalities that are certainly no radiographs."""

_MODALITIES = re.compile(
    "|".join((*RADIOGRAPH_MODALITIES, *OTHER_MODALITIES, "OT|SC|XA|MG|IO|PX|XC|HC"))
)
_BODY_PARTS = re.compile(
    "ABDOMEN|ANKLE|ARM|BREAST|CHEST|CLAVICLE|CSPINE|ELBOW|EXTREMITY|FEMUR|FINGER|FOOT|FOREARM|HAND|"
    "HEAD|HEEL|HIP|HUMERUS|JAW|KNEE|LEG|LSPINE|NECK|PATELLA|PELVIS|RADIUS|RIB|SHOULDER|SKULL|SPINE|"
    "STERNUM|THIGH|THUMB|TIBIA|TOE|TSPINE|ULNA|UP_EXM|WHOLEBODY|WRIST"
)
_HAND_WORDS = ("HAND", "WRIST", "CARP", "FINGER", "THUMB", "MANUS")
_MAY_SHOW_A_HAND = ("", UNKNOWN_CODE, "ARM", "EXTREMITY", "FOREARM", "RADIUS", "ULNA", "UP_EXM")
_SEXES = re.compile("F|M|O")
_STATED_AGE = re.compile(r"([0-9]{1,3})([DWMY])")
_PLACEHOLDER_ID = re.compile(
    "0*|x*|anon|anonym|anonymous|anonymi[sz]ed|deidentified|na|none|null|removed|test|unknown"
)
_MONTHS_IN = {"D": 1 / DAYS_IN_MONTH, "W": 7 / DAYS_IN_MONTH, "M": 1, "Y": 12}
_CONTRADICTION_MONTHS = 13  # a stated age is in completed years; one more month is slack
_EXAMINATION_DATES = ("StudyDate", "AcquisitionDate", "AcquisitionDateTime", "SeriesDate")


@dataclass(frozen=True, slots=True)
class AgeAtExamination:
    """A child's chronological age on the day of the radiograph.

    Attributes:
        months: Whole months; None when the header does not give an age.
        is_in_years: The header gives completed years only, so up to 11 months may be missing.
        is_contradictory: The dates and the stated age differ by more than 13 months, or the birth
            is after the examination.
    """

    months: int | None = None
    is_in_years: bool = False
    is_contradictory: bool = False


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """The header of one DICOM radiograph. Its `repr` shows nothing that identifies anybody.

    Attributes:
        path: The file.
        instance_uid: SOPInstanceUID.
        accession_number: AccessionNumber.
        patient: IssuerOfPatientID and PatientID; each is empty when the header has none.
        sex: PatientSex: "F", "M", "O", "" when empty, or `UNKNOWN_CODE`.
        age: Chronological age.
        modality: A code of the standard, "" or `UNKNOWN_CODE`.
        body_part: BodyPartExamined, likewise.
        is_of_hand: BodyPartExamined names a hand, a wrist or fingers.
        frames: Number of images; None when NumberOfFrames is not a number.
        laterality: "L", "R" or "".
        has_burned_in_text: BurnedInAnnotation is YES: the pixels may show a name.
    """

    path: Path = field(repr=False)
    instance_uid: str = field(repr=False)
    accession_number: str = field(repr=False)
    patient: tuple[str, str] = field(repr=False)
    sex: str
    age: AgeAtExamination
    modality: str
    body_part: str
    is_of_hand: bool
    frames: int | None
    laterality: str
    has_burned_in_text: bool


def read_dicom_header(path: Path | Upload) -> DicomHeader:
    """Read the header of a DICOM radiograph; the pixels are not decoded.

    Raises:
        InputError: The file can't be read, is damaged or holds no image. The message quotes no
            value of the header.
    """
    dataset = open_dicom(path, pixels=False)
    try:
        with quiet_pydicom():
            return _header(dataset, Path(str(path)))
    except PARSING_ERRORS:  # includes every UnicodeError
        raise InputError(dicom_fault(Path(str(path)), "its header can't be read")) from None


def find_dicom_header(path: Path | Upload) -> DicomHeader | None:
    """Read the header of a radiograph if it is a DICOM file; return None for other files.

    Raises:
        InputError: As `read_dicom_header`.
    """
    with open_radiograph(path) as file:
        start = file.read(SNIFFED_BYTES)
    return read_dicom_header(path) if is_dicom(start, Path(str(path))) else None


def header_findings(header: DicomHeader, sex: str | None) -> list[ImageFinding]:
    """Return what a header says against a radiograph of a hand, or against its sex.

    Args:
        header: The header. Only codes of the standard are quoted.
        sex: `F` or `M`, the sex that somebody gives for the child; None if nobody does.
    """
    is_radiograph = "Is it a radiograph of one hand?"
    findings = []
    if sex is not None and header.sex in ("F", "M") and header.sex != sex:
        what = f"the PatientSex of its header is {header.sex}, not {sex}"
        findings.append(ImageFinding("other-sex", what, "Check the sex. Is it the right child?"))
    if header.modality in OTHER_MODALITIES:
        what = f"the Modality of its header is {header.modality}"
        findings.append(ImageFinding("other-modality", what, is_radiograph))
    if not header.is_of_hand and header.body_part not in _MAY_SHOW_A_HAND:
        what = f"the BodyPartExamined of its header is {header.body_part}"
        findings.append(ImageFinding("other-body-part", what, is_radiograph))
    return findings


def age_findings(age: AgeAtExamination, given: float | None) -> list[ImageFinding]:
    """Return what is doubtful about a chronological age that a header has, or contradicts.

    Args:
        age: The age in the header.
        given: Months that somebody gives for the child; None if the header's age is used.
    """
    fix = "Check the age, or give the chronological age in months."
    if given is not None:
        if age.months is None or abs(age.months - given) <= _CONTRADICTION_MONTHS:
            return []
        what = f"the chronological age in its header is {age.months} months, not {given:g}"
        return [ImageFinding("other-age", what, "Check the age. Is it the right child?")]
    if age.is_contradictory:
        what = "its header has a birth after the radiograph, or an age that contradicts the dates"
        return [ImageFinding("contradictory-age", what, fix)]
    if age.is_in_years:
        what = "the age in its header is in whole years, so that up to 11 months may be missing"
        return [ImageFinding("age-in-years", what, fix)]
    return []


def is_placeholder_id(patient_id: str) -> bool:
    """Return whether a PatientID stands for nobody: it is empty, `ANONYMOUS`, `0000` or similar."""
    return _PLACEHOLDER_ID.fullmatch(re.sub(r"[\W_]+", "", patient_id).lower()) is not None


def _header(dataset: Dataset, path: Path) -> DicomHeader:
    def text(keyword: str) -> str:
        return _text(dataset, keyword)

    body_part = text("BodyPartExamined").upper()
    frames = text("NumberOfFrames") or "1"
    days = [_date(text(keyword)) for keyword in _EXAMINATION_DATES]
    examined = next((day for day in days if day is not None), None)
    side = (text("Laterality") or text("ImageLaterality")).upper()
    return DicomHeader(
        path=path,
        instance_uid=text("SOPInstanceUID"),
        accession_number=text("AccessionNumber"),
        patient=(text("IssuerOfPatientID"), text("PatientID")),
        sex=_code(text("PatientSex"), _SEXES),
        age=_age(_date(text("PatientBirthDate")), examined, text("PatientAge")),
        modality=_code(text("Modality"), _MODALITIES),
        body_part=_code(body_part, _BODY_PARTS),
        is_of_hand=any(word in body_part for word in _HAND_WORDS),
        frames=int(frames) if re.fullmatch("[0-9]{1,9}", frames) else None,
        laterality=side if side in ("L", "R") else "",
        has_burned_in_text=text("BurnedInAnnotation").upper() == "YES",
    )


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text, from its bytes: pydicom's conversion fails on unusual values."""
    from pydicom.charset import decode_bytes, python_encoding
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.valuerep import PN_DELIMS

    tag = tag_for_keyword(keyword)
    if tag is None or tag not in dataset:
        return ""
    element: DataElement | RawDataElement = dataset.get_item(tag)
    if not isinstance(element, RawDataElement):
        return str(element.value or "").strip()
    declared = dataset.original_character_set or "iso8859"
    encodings = [declared] if isinstance(declared, str) else list(declared)
    # pydicom would accept any codec of Python that a header names, such as zlib.
    known = {"utf-8", *python_encoding.values()}
    encodings = [name if name in known else "latin_1" for name in encodings]
    return decode_bytes(element.value or b"", encodings, PN_DELIMS).strip(" \0\t\r\n")


def _code(text: str, known: re.Pattern[str]) -> str:
    text = text.upper()
    return text if known.fullmatch(text) or not text else UNKNOWN_CODE


def _date(text: str) -> date | None:
    digits = text.replace(".", "").replace("-", "")[:8]  # the old standard wrote 2004.08.26
    if not re.fullmatch("[0-9]{8}", digits):
        return None  # strptime would guess where the month of 2004111 ends
    try:
        return datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return None


def _age(born: date | None, examined: date | None, stated: str) -> AgeAtExamination:
    """Return the age in whole months: from the dates if the header has them, else as stated.

    A stated `012Y` can be anything up to 12 years and 11 months. An age from dates is exact. It
    is rounded, because with the day of the radiograph an exact age gives the birthday away.
    """
    dated = None if born is None or examined is None else months_between(born, examined)
    if dated is not None and dated < 0:
        return AgeAtExamination(is_contradictory=True)
    if dated is not None and dated > OLDEST_MONTHS:
        dated = None
    match = _STATED_AGE.fullmatch(stated.upper())
    months = None if match is None else int(match[1]) * _MONTHS_IN[match[2]]
    if months is not None and months > OLDEST_MONTHS:
        months = None
    if dated is None:
        is_in_years = months is not None and match is not None and match[2] == "Y"
        return AgeAtExamination(None if months is None else round(months), is_in_years)
    if months is not None and abs(dated - months) > _CONTRADICTION_MONTHS:
        return AgeAtExamination(is_contradictory=True)
    return AgeAtExamination(round(dated))
