"""The headers of DICOM radiographs: sex, age, patient, and what else decides whether a radiograph is used.

What identifies a child is compared here and goes no further: a birth date becomes an age in whole
months, a name becomes the answer whether the path gives it away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from boneage.datasets.importers.path_disclosure import Identity, disclosures
from boneage.datasets.validation import is_file
from boneage.errors import Fault, InputError
from boneage.radiographs.dicom import (
    PARSING_ERRORS,
    dicom_fault,
    is_dicom,
    open_dicom,
    quiet_pydicom,
)
from boneage.radiographs.file_structure import open_regular

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.dataelem import RawDataElement

OTHER = "another value"
"""Stands for a code that is none of the standard's: somebody may have typed a name there."""
PLAIN_RADIOGRAPH = ("CR", "DX", "DR", "RG", "RF")
NO_RADIOGRAPH = ("CT", "MR", "US", "NM", "PT", "BMD", "ECG", "ES", "GM", "IVUS", "OCT", "OP", "SM")
OLDEST_MONTHS = 40 * 12
"""An age beyond this is a placeholder (a birth date of 1900, say), as it is in a manifest."""

_MODALITIES = re.compile("|".join((*PLAIN_RADIOGRAPH, *NO_RADIOGRAPH, "OT|SC|XA|MG|IO|PX|XC|HC")))
_BODY_PARTS = re.compile(
    "ABDOMEN|ANKLE|ARM|BREAST|CHEST|CLAVICLE|CSPINE|ELBOW|EXTREMITY|FEMUR|FINGER|FOOT|FOREARM|HAND|"
    "HEAD|HEEL|HIP|HUMERUS|JAW|KNEE|LEG|LSPINE|NECK|PATELLA|PELVIS|RADIUS|RIB|SHOULDER|SKULL|SPINE|"
    "STERNUM|THIGH|THUMB|TIBIA|TOE|TSPINE|ULNA|UP_EXM|WHOLEBODY|WRIST"
)
_HAND_WORDS = ("HAND", "WRIST", "CARP", "FINGER", "THUMB", "MANUS")
_DAYS_IN_MONTH = 365.2425 / 12
_SEXES = re.compile("F|M|O")
_STATED_AGE = re.compile(r"([0-9]{1,3})([DWMY])")
_NOBODY = re.compile(
    "0*|x*|anon|anonym|anonymous|anonymi[sz]ed|deidentified|na|none|null|removed|test|unknown"
)
_DICOMDIR = "1.2.840.10008.1.3.10"
_START = 132

_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_EXAMINATION_DATES = ("StudyDate", "AcquisitionDate", "AcquisitionDateTime", "SeriesDate")
_READ = (
    *_UIDS,
    *_EXAMINATION_DATES,
    "AccessionNumber",
    "BodyPartExamined",
    "BurnedInAnnotation",
    "ImageLaterality",
    "InstitutionName",
    "IssuerOfPatientID",
    "Laterality",
    "Modality",
    "NumberOfFrames",
    "PatientAge",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "StudyID",
)


@dataclass(frozen=True, slots=True)
class Age:
    """A child's age when filmed.

    Attributes:
        months: Whole months; None when the header leaves it open.
        coarse: It was given in completed years only.
        contradictory: The header's dates and its stated age differ by more than a year.
    """

    months: int | None = None
    coarse: bool = False
    contradictory: bool = False


@dataclass(frozen=True, slots=True)
class DicomRadiograph:
    """One DICOM file with a picture. Its `repr` holds no value that identifies anybody.

    Attributes:
        path: The file.
        instance: SOPInstanceUID.
        accession: AccessionNumber.
        patient: IssuerOfPatientID and PatientID, either empty when the header lacks it.
        sex: PatientSex: "F", "M", "O", "" when empty, or `OTHER`.
        age: When filmed.
        modality: A code of the standard, "" or `OTHER`.
        body_part: Likewise.
        of_hand: BodyPartExamined means hand, wrist or fingers.
        frames: Pictures in it; None when NumberOfFrames is no number.
        laterality: "L", "R" or "".
        burned_in: The header says that the picture itself bears annotations that identify.
        discloses: What the path tells about the child, in words for a message.
    """

    path: Path
    instance: str = field(repr=False)
    accession: str = field(repr=False)
    patient: tuple[str, str] = field(repr=False)
    sex: str
    age: Age
    modality: str
    body_part: str
    of_hand: bool
    frames: int | None
    laterality: str
    burned_in: bool
    discloses: tuple[str, ...]

    def shown(self) -> str:
        """The path for a message, unless it tells who the child is."""
        return "(path not shown)" if self.discloses else str(self.path)


@dataclass
class DicomFiles:
    """What lay where radiographs were looked for.

    Attributes:
        radiographs: DICOM files with a picture, in the order of their paths.
        broken: Why other DICOM files can't be used.
        strangers: Files that are not DICOM.
        directories: DICOMDIR files.
        pictureless: Reports, presentation states and the like.
    """

    radiographs: list[DicomRadiograph] = field(default_factory=list)
    broken: list[Fault] = field(default_factory=list)
    strangers: list[Path] = field(default_factory=list)
    directories: int = 0
    pictureless: int = 0


def read_radiographs(paths: Collection[Path], base: Path, *, progress: bool = True) -> DicomFiles:
    """Reads the headers of those files that are DICOM; pixels are left alone.

    Args:
        paths: Any files.
        base: Folder that the manifest's paths start from (absolute, links resolved).
        progress: Show progress on standard error.
    """
    files = DicomFiles()
    console = Console(stderr=True)
    for path in track(paths, "Reading headers", console=console, disable=not progress):
        try:
            with open_regular(path) as file:
                start = file.read(_START)
        except InputError as error:
            if is_file(path) and path.stat().st_size:
                files.broken.extend(error.faults)  # it may not be read, or is far too large
                continue
            start = b""
        if not is_dicom(start, path):
            files.strangers.append(path)
            continue
        try:
            dataset = open_dicom(path, pixels=False)
        except InputError as error:
            _sort_out(path, error, files)
            continue
        try:
            with quiet_pydicom():
                files.radiographs.append(_radiograph(dataset, path, base))
        except PARSING_ERRORS:  # among them every UnicodeError
            files.broken.append(dicom_fault(path, "its header can't be read"))
    return files


def _sort_out(path: Path, error: InputError, files: DicomFiles) -> None:
    """Tells what was never to hold a picture from what is broken."""
    name, storage = _storage_class(path)
    if storage == _DICOMDIR:
        files.directories += 1
    elif storage != name and name.endswith("Storage") and "Image" not in name:
        files.pictureless += 1
    else:
        files.broken.extend(error.faults)


def _storage_class(path: Path) -> tuple[str, str]:
    """What kind of object a DICOM file says it is: the standard's name and its UID."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import UID

    try:
        with quiet_pydicom():
            uid = UID(str(read_file_meta_info(path).get("MediaStorageSOPClassUID", "")))
            return uid.name, str(uid)
    except (InvalidDicomError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return "", ""


def _radiograph(dataset: Dataset, path: Path, base: Path) -> DicomRadiograph:
    text = {keyword: _text(dataset, keyword) for keyword in _READ}
    born = _date(text["PatientBirthDate"])
    days = [_date(text[keyword]) for keyword in _EXAMINATION_DATES]
    identity = Identity(
        names=[text["PatientName"], _text(dataset, "PatientName", "utf-8")],
        # A StudyID of 1 is in every other path; a long one is often the accession number.
        identifiers=[
            text["PatientID"],
            text["AccessionNumber"],
            text["StudyID"] if len(text["StudyID"]) > 3 else "",
        ],
        uids=[text[keyword] for keyword in _UIDS],
        dates=[day for day in (born, *days) if day is not None],
        institutions=[text["InstitutionName"]],
    )
    body_part = text["BodyPartExamined"].upper()
    frames = text["NumberOfFrames"] or "1"
    taken = next((day for day in days if day is not None), None)
    side = (text["Laterality"] or text["ImageLaterality"]).upper()
    return DicomRadiograph(
        path=path,
        instance=text["SOPInstanceUID"],
        accession=text["AccessionNumber"],
        patient=(text["IssuerOfPatientID"], text["PatientID"]),
        sex=_code(text["PatientSex"], _SEXES),
        age=_age(born, taken, text["PatientAge"]),
        modality=_code(text["Modality"], _MODALITIES),
        body_part=_code(body_part, _BODY_PARTS),
        of_hand=any(word in body_part for word in _HAND_WORDS),
        frames=int(frames) if re.fullmatch("[0-9]{1,9}", frames) else None,
        laterality=side if side in ("L", "R") else "",
        burned_in=text["BurnedInAnnotation"].upper() == "YES",
        discloses=disclosures(os.path.relpath(path, base), identity),
    )


def _text(dataset: Dataset, keyword: str, encoding: str | None = None) -> str:
    """An element as text, from its bytes: pydicom's own conversion stumbles over odd values."""
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
    encodings = [encoding or ""] if encoding else declared
    encodings = [encodings] if isinstance(encodings, str) else list(encodings)
    # Whatever codec of Python's the header names, pydicom would take (punycode loses the text).
    known = {"utf-8", *python_encoding.values()}
    encodings = [name if name in known else "latin_1" for name in encodings]
    return decode_bytes(element.value or b"", encodings, PN_DELIMS).strip(" \0\t\r\n")


def _code(text: str, known: re.Pattern[str]) -> str:
    text = text.upper()
    return text if known.fullmatch(text) or not text else OTHER


def _date(text: str) -> date | None:
    digits = text.replace(".", "").replace("-", "")[:8]  # the old standard wrote 2004.08.26
    try:
        return datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return None


def _age(born: date | None, taken: date | None, stated: str) -> Age:
    """The age in whole months, from the dates where they are there, else as it is stated.

    A stated `012Y` is anything up to 12 years and 11 months; dates are exact, but so exact that
    with the day of the radiograph they would give the birthday back, were they not rounded.
    """
    dated = None if born is None or taken is None else (taken - born).days / _DAYS_IN_MONTH
    if dated is not None and not 0 <= dated <= OLDEST_MONTHS:
        dated = None
    match = _STATED_AGE.fullmatch(stated.upper())
    months = None
    if match:
        in_months = {"D": 1 / _DAYS_IN_MONTH, "W": 7 / _DAYS_IN_MONTH, "M": 1, "Y": 12}
        months = int(match[1]) * in_months[match[2]]
        months = months if months <= OLDEST_MONTHS else None
    if dated is None:
        if months is None:
            return Age()
        return Age(round(months), coarse=match is not None and match[2] == "Y")
    if months is not None and abs(dated - months) > 13:  # a completed year, and a birthday's slack
        return Age(contradictory=True)
    return Age(round(dated))


def patients_of(radiographs: Sequence[DicomRadiograph]) -> list[tuple[str, str]]:
    """Issuer and id of each radiograph's patient; ("", "") where the header names none.

    An id that some of its radiographs come with an issuer for and others without is taken to be one
    patient: two children held for one stay in the same split, one held for two would not.
    """
    bare = {radiograph.patient[1] for radiograph in radiographs if not radiograph.patient[0]}
    named = []
    for radiograph in radiographs:
        issuer, identifier = radiograph.patient
        if _NOBODY.fullmatch(re.sub(r"[\W_]+", "", identifier).lower()):
            named.append(("", ""))
        else:
            named.append(("" if identifier in bare else issuer, identifier))
    return named
