"""Write an answer as DICOM: a Structured Report and a Secondary Capture, to file with the study.

Both documents form a new series in the study of the radiograph. They copy the identifiers of the
patient and of the study, and nothing else about the child. Their UIDs follow from the radiograph
and from what the document says. So a repeated run gives the same instances, and an archive keeps
one copy. Another model, sex or answer gives other instances.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boneage import __version__
from boneage.errors import Fault, InputError
from boneage.prediction.answers import RESEARCH_ONLY, Answer, Estimate
from boneage.prediction.picture import draw_answer, estimate_lines
from boneage.prediction.shipped import is_trained_on_greulich_pyle
from boneage.radiographs.dicom import dicom_fault, open_dicom, quiet_pydicom
from boneage.radiographs.dicom_transformations import PARSING_ERRORS
from boneage.radiographs.file_limits import Upload
from boneage.radiographs.reader import read_radiograph
from boneage.runtime.extras import describe_missing
from boneage.runtime.files import replacing

if TYPE_CHECKING:
    from highdicom.sr import (
        CodedConcept,
        Measurement,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
    )
    from pydicom import Dataset

MANUFACTURER = "boneage"
PATIENT_AND_STUDY = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate"),
    *("PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber"),
)
"""Copied to both documents. DICOM wants these, equal in all instances of a study."""
OF_IMAGE = (
    *("Laterality", "ImageLaterality", "BodyPartExamined", "PatientOrientation"),
    *("BurnedInAnnotation", "LossyImageCompression", "LossyImageCompressionRatio"),
    "LossyImageCompressionMethod",
)
"""Copied to the Secondary Capture, which shows the same pixels."""

_OWN_CODES = "99BONEAGE"  # DICOM has no codes for a prediction interval
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_NAMESPACE = uuid.UUID("5f2b6a0e-6a0f-5d0c-9d8b-0d6c0f6a8e16")
_SERIES_NUMBERS = {"report": 9001, "image": 9002}
_SERIES_DESCRIPTION = "Bone age estimate. Research use only."
_LEARNED_FROM_READINGS = (
    "The estimate is that of a neural network, which learned from readings by Greulich and Pyle."
)
_LEARNED_FROM_UNKNOWN = (
    "The estimate is that of a neural network. The method of its training labels is not recorded."
)


def write_documents(documents: Mapping[str, Dataset], folder: Path) -> list[Path]:
    """Write documents to a folder. A document that the folder has is not written again.

    Args:
        documents: The documents, as `dicom_documents` returns them.
        folder: The folder, made if it is missing.

    Returns:
        The files: `report-UID.dcm` and `image-UID.dcm`.

    Raises:
        InputError: A file can't be written.
    """
    paths = []
    for kind, document in documents.items():
        path = folder / f"{kind}-{document.SOPInstanceUID}.dcm"
        paths.append(path)
        if not path.exists():
            with replacing(path) as part, quiet_pydicom():
                document.save_as(part, enforce_file_format=True)
    return paths


def dicom_documents(radiograph: Path | Upload, answer: Answer) -> dict[str, Dataset]:
    """Return an answer as a Structured Report and a Secondary Capture.

    Args:
        radiograph: The DICOM file that was answered, or one in memory.
        answer: The answer.

    Returns:
        The documents, `report` and `image`. An answer without an estimate has none, because a
        refusal is no result.

    Raises:
        InputError: The file is not DICOM, its header has no identifiers or is damaged, or highdicom
            is not installed.
    """
    check_can_write_dicom()
    if not answer.estimates:
        return {}
    source = _read_source(radiograph)
    with quiet_pydicom():
        return {
            "report": _structured_report(source, answer),
            "image": _secondary_capture(source, answer, radiograph),
        }


def check_can_write_dicom() -> None:
    """Check that highdicom is installed.

    Raises:
        InputError: It is not. The message names the extra that brings it.
    """
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        fix = describe_missing(error)
        if fix is None:
            raise
        raise InputError(Fault("DICOM output", "a package is missing", fix)) from None


def _read_source(radiograph: Path | Upload) -> Dataset:
    """Return what is copied from a header, and the identifiers of the instance.

    Every element of the patient and of the study is there, if need be empty.

    Raises:
        InputError: The header is damaged, or an identifier is missing.
    """
    from pydicom import Dataset
    from pydicom.uid import UID

    dataset = open_dicom(radiograph, pixels=False)
    source = Dataset()
    try:
        with quiet_pydicom():
            for keyword in PATIENT_AND_STUDY:
                setattr(source, keyword, None)
            for keyword in (*_NEEDED, *PATIENT_AND_STUDY, *OF_IMAGE):
                if keyword in dataset:
                    source.add(dataset[keyword])
            missing = [name for name in _NEEDED if not UID(str(source.get(name, ""))).is_valid]
    except PARSING_ERRORS:
        raise InputError(dicom_fault(Path(str(radiograph)), "its header can't be read")) from None
    if missing:
        what = f"its header has no valid {', '.join(missing)}, so no report can refer to it"
        raise InputError(Fault(str(radiograph), what, "Export it again with its identifiers."))
    for keyword in ("SpecificCharacterSet", "IssuerOfPatientID"):
        if not source.get(keyword):
            delattr(source, keyword)
    return source


def _uid(*parts: str) -> str:
    """Return the UID that belongs to these texts, a UUID as a number (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"


def _identity(kind: str, source: Dataset, answer: Answer, text: str) -> dict[str, Any]:
    """Return UIDs and numbers of a document, and what its equipment is."""
    digests = [model.digest for model in answer.models]
    parts = [kind, str(source.SOPInstanceUID), *digests, text]
    return {
        "sop_instance_uid": _uid("instance", *parts),
        "series_instance_uid": _uid("series", *parts),
        "series_number": _SERIES_NUMBERS[kind],
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": _model_names(answer)[:64],
        "software_versions": __version__,
        "series_description": _SERIES_DESCRIPTION,
        "content_qualification": "RESEARCH",
        "specific_character_set": None,
    }


def _complete(document: Dataset, source: Dataset, keywords: Sequence[str]) -> Dataset:
    """Copy elements as they are; highdicom would refuse unusual names and dates."""
    for keyword in keywords:
        if keyword in source:
            document.add(copy.copy(source[keyword]))
    return document


def _model_names(answer: Answer) -> str:
    return _ascii(" + ".join(model.name for model in answer.models))


def _ascii(text: str) -> str:
    """Return a text that every character set of a header can write."""
    return text.encode("ascii", "replace").decode()


def _secondary_capture(source: Dataset, answer: Answer, radiograph: Path | Upload) -> Dataset:
    from highdicom.sc import SCImage
    from pydicom import Dataset

    lines, pixels = draw_answer(read_radiograph(radiograph), answer)
    document = SCImage(
        pixels,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # replaced below
        study_instance_uid=source.StudyInstanceUID,
        **_identity("image", source, answer, "\n".join(lines)),
    )
    document.PatientOrientation = []
    document.ConversionType = "WSD"
    document.ImageType = ["DERIVED", "SECONDARY"]
    document.DerivationDescription = "Bone age estimate as text above the radiograph"
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    document.SourceImageSequence = [reference]
    return _complete(document, source, (*PATIENT_AND_STUDY, *OF_IMAGE))


def _structured_report(source: Dataset, answer: Answer) -> Dataset:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import ComprehensiveSR
    from pydicom import Dataset

    evidence = Dataset()
    for keyword in (*PATIENT_AND_STUDY, *_NEEDED):
        setattr(evidence, keyword, source[keyword].value if keyword in _NEEDED else None)
    content = _measurement_report(source, answer)
    scheme = CodingSchemeIdentificationItem(_OWN_CODES, name="Codes of boneage")
    document = ComprehensiveSR(
        evidence=[evidence],
        content=content,
        is_complete=True,
        coding_schemes=[scheme],
        performed_procedure_codes=[_loinc("24724-7", "XR Bone age Views")],
        **_identity("report", source, answer, content[0].to_json()),
    )
    return _complete(document, source, PATIENT_AND_STUDY)


def _measurement_report(source: Dataset, answer: Answer) -> MeasurementReport:
    """Return the content of the report (PS3.16, TID 1500)."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("device", __version__, *(model.digest for model in answer.models)),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=_model_names(answer),
    )
    observer = sr.ObserverContext(codes.DCM.Device, attributes)
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_loinc("24724-7", "XR Bone age Views"),
        imaging_measurements=[_group(source, answer, estimate) for estimate in answer.estimates],
    )


def _group(
    source: Dataset, answer: Answer, estimate: Estimate
) -> MeasurementsAndQualitativeEvaluations:
    """Return the measurements for one sex of the child (TID 1501)."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    versions = [model.version or "not released" for model in answer.models]
    parameters = [f"SHA-256 of {model.name}: {model.digest}" for model in answer.models]
    if estimate.calibration is not None:
        parameters.append(f"SHA-256 of the local calibration: {estimate.calibration.digest}")
    is_greulich_pyle = is_trained_on_greulich_pyle(answer.models)
    sexes = {"F": codes.DCM.Female, "M": codes.DCM.Male}
    evaluations = [sr.QualitativeEvaluation(codes.DCM.SubjectSex, sexes[estimate.sex])]
    if is_greulich_pyle:
        method = sr.CodedConcept("252956001", "SCT", "Greulich and Pyle bone age assessment")
        evaluations.append(sr.QualitativeEvaluation(_loinc("85150-1", "Bone age method"), method))
    side = {"L": codes.SCT.Left, "R": codes.SCT.Right}.get(
        source.get("ImageLaterality") or source.get("Laterality") or ""
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=_uid("tracking", str(source.SOPInstanceUID), estimate.sex),
            identifier=f"bone age, sex {estimate.sex}",
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=_model_names(answer),
            version=f"{' + '.join(versions)} (boneage {__version__})",
            parameters=list(map(_ascii, parameters)),
            manufacturer=MANUFACTURER,
        ),
        finding_sites=[sr.FindingSite(codes.SCT.Hand, laterality=side)],
        measurements=list(_measurements(answer, estimate)),
        qualitative_evaluations=evaluations,
        source_images=[
            sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
        ],
    )
    comments = estimate_lines(estimate)
    comments += [f"Check: {finding.what}. {finding.fix}" for finding in answer.findings]
    if estimate.comparison is not None:
        comments.append(f"{estimate.comparison}. {estimate.comparison.note}")
    comments.append(_LEARNED_FROM_READINGS if is_greulich_pyle else _LEARNED_FROM_UNKNOWN)
    if len(answer.estimates) > 1:
        comments.append("The sex of the child is not known: this report has an answer for each.")
    for text in (*comments, RESEARCH_ONLY):
        item = sr.TextContentItem(
            name=codes.DCM.Comment,
            value=_ascii(text),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        group[0].ContentSequence.append(item)
    return group


def _measurements(answer: Answer, estimate: Estimate) -> Iterator[Measurement]:
    """Yield the bone age with its interval and SD score, and the chronological age (TID 300)."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    month, kind = codes.UCUM.Month, sr.RelationshipTypeValues.HAS_PROPERTIES
    comparison, properties = estimate.comparison, None
    if comparison is not None and comparison.sd_score is not None:
        score = sr.NumContentItem(
            name=codes.DCM.ZScoreOfMeasurement,
            value=round(comparison.sd_score, 2),
            unit=codes.UCUM.NoUnits,
            relationship_type=kind,
        )
        properties = sr.MeasurementProperties(
            measurement_statistical_properties=sr.MeasurementStatisticalProperties(
                [score], description=comparison.method, authority=_ascii(comparison.reference)
            )
        )
    bone_age = sr.Measurement(
        name=_loinc("85151-9", "XR Bone age"),
        value=round(estimate.months, 1),
        unit=month,
        properties=properties,
    )
    if estimate.interval is not None:
        level, low, high = estimate.interval.level, estimate.interval.low, estimate.interval.high
        percent = sr.CodedConcept("%", "UCUM", "Percent")
        limits = (
            ("PI-LOW", "Lower limit of the prediction interval", low, month),
            ("PI-HIGH", "Upper limit of the prediction interval", high, month),
            ("PI-LEVEL", "Level of the prediction interval", 100 * level, percent),
        )
        inner = bone_age[0].get("ContentSequence") or sr.ContentSequence()
        for value, meaning, number, unit in limits:
            name = sr.CodedConcept(value, _OWN_CODES, meaning)
            item = sr.NumContentItem(name, round(number, 1), unit, relationship_type=kind)
            inner.append(item)
        bone_age[0].ContentSequence = inner
    yield bone_age
    if answer.chronological_age_months is not None:
        age = round(answer.chronological_age_months, 1)
        yield sr.Measurement(name=codes.DCM.SubjectAge, value=age, unit=month)


def _loinc(value: str, meaning: str) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, "LN", meaning)
