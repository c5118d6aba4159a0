"""Answer one uploaded radiograph, in a process that holds the model."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boneage import __version__
from boneage.errors import InputError
from boneage.prediction.answers import RESEARCH_ONLY, SEXES, Answer
from boneage.prediction.atlas_ages import nearest_standards
from boneage.prediction.explanation import explain
from boneage.prediction.explanation_picture import colour_limit
from boneage.prediction.predict import Estimator, Prepared, Request
from boneage.radiographs.dicom_headers import DicomHeader
from boneage.radiographs.file_limits import Upload
from boneage.radiographs.image_quality import invert_levels
from boneage.radiographs.reader import Radiograph
from boneage.runtime.extras import has_package
from boneage.serving.asking import Asked, Reply
from boneage.serving.problems import in_words, problem_reply

LONG_SIDE = 1024
"""Longest side of the radiograph that a page gets, in pixels."""
_CUT_OFF = 0.05, 99.95  # percentiles of a radiograph of 16 bits that become black and white


def answer_upload(estimator: Estimator, asked: Asked, content: bytes) -> Reply:
    """Answer for an uploaded file. Nothing of it is kept.

    Args:
        estimator: The runs.
        asked: What is asked.
        content: The file.

    Returns:
        The reply. A file that can't be read gives a problem with the status 422.

    Raises:
        InputError: A model can't be read.
    """
    upload = Upload(asked.name, content)
    prepared = estimator.prepare(Request(upload, asked.sex, asked.chronological_age_months))
    answer = estimator.answer(prepared)
    words = "" if answer.fault is None else in_words([answer.fault])
    if words and answer.status != "refused":
        return problem_reply(422, words, answer.status)
    if asked.kind == "predict":
        values = answer.as_dict()
        if asked.has_pictures:
            values["page"] = _page(prepared, answer)
        return _json_reply(values, answer.status)
    if not answer.estimates:
        return problem_reply(422, f"The radiograph is refused: {words}", answer.status)
    if asked.kind == "explain":
        return _json_reply(_heat(estimator, prepared, answer), answer.status)
    return _document(asked, upload, prepared.header, answer)


def describe_models(estimator: Estimator) -> dict[str, Any]:
    """Return what answers, as JSON values."""
    groups = estimator.predictor.groups
    return {
        "models": [vars(model) for model in estimator.models],
        "views": [group.views for group in groups],
        "phases": [group.phases for group in groups],
        "level": estimator.level,
        "has_intervals": not estimator.notes,
        "notes": list(estimator.notes),
        "can_write_dicom": has_package("highdicom"),
        "software": f"boneage {__version__}",
        "notice": RESEARCH_ONLY,
    }


def _json_reply(values: dict[str, Any], outcome: str) -> Reply:
    return Reply(200, "application/json", json.dumps(values).encode(), outcome)


def _page(prepared: Prepared, answer: Answer) -> dict[str, Any]:
    """Return what the page shows besides the answer, as JSON values."""
    radiograph, assessed, header = prepared.radiograph, prepared.assessed, prepared.header
    assert radiograph is not None
    assert assessed is not None
    height, width = radiograph.shape
    picture = _eight_bits(invert_levels(radiograph) if assessed.is_inverted else radiograph)
    framed = outline = None
    if assessed.framed:
        framed = _png(assessed.framed[0][0].pixels)
        outline = ((assessed.outline + assessed.box[:2]) / (width, height)).tolist()
    return {
        "header": {
            "is_dicom": header is not None,
            "sex": header.sex if header is not None and header.sex in SEXES else None,
            "chronological_age_months": None if header is None else header.age.months,
            "laterality": "" if header is None else header.laterality,
        },
        "radiograph": {"png": _png(picture), "width": width, "height": height},
        "framed": framed,
        "outline": outline,
        "atlas_ages": {
            each.sex: nearest_standards(each.months, each.sex) for each in answer.estimates
        },
    }


def _eight_bits(radiograph: Radiograph) -> npt.NDArray[np.uint8]:
    """Return a radiograph of at most `LONG_SIDE` pixels, with all of its grey levels in 8 bits."""
    scale = LONG_SIDE / max(radiograph.shape)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in radiograph.shape[::-1]]
        small = cv2.resize(radiograph, size, interpolation=cv2.INTER_AREA)
    else:
        small = radiograph
    if small.dtype == np.uint8:
        return np.asarray(small, np.uint8)
    low, high = np.percentile(small, _CUT_OFF)
    levels = (small - low) * (255 / max(high - low, 1))
    return np.asarray(np.rint(np.clip(levels, 0, 255)), np.uint8)


def _heat(estimator: Estimator, prepared: Prepared, answer: Answer) -> dict[str, Any]:
    """Return the heat map of an answer as JSON values."""
    assert prepared.radiograph is not None
    assert prepared.assessed is not None
    found = prepared.radiograph, prepared.assessed
    explanation = explain(estimator.predictor, *found, answer.sex)
    heat = explanation.framed_heat(estimator.predictor.groups[0].framing.size)
    limit = colour_limit(heat)
    levels = np.rint(128 + np.clip(heat / limit, -1, 1) * 127)
    return {
        "heat": _png(np.asarray(levels, np.uint8)),
        "limit_months": limit,
        "notice": RESEARCH_ONLY,
    }


def _document(asked: Asked, upload: Upload, header: DicomHeader | None, answer: Answer) -> Reply:
    """Return an answer as a DICOM file."""
    from boneage.prediction.dicom_output import dicom_documents
    from boneage.radiographs.dicom import quiet_pydicom

    if header is None:
        detail = "Only a radiograph in DICOM has the identifiers of a study. Upload a DICOM file."
        return problem_reply(422, detail)
    try:
        document = dicom_documents(upload, replace(answer, image="radiograph"))[asked.kind]
    except InputError as error:
        return problem_reply(422, f"The document can't be made: {in_words(error.faults)}")
    buffer = io.BytesIO()
    with quiet_pydicom():
        document.save_as(buffer, enforce_file_format=True)
    return Reply(200, "application/dicom", buffer.getvalue(), answer.status)


def _png(grey: npt.NDArray[np.uint8]) -> str:
    is_encoded, png = cv2.imencode(".png", np.ascontiguousarray(grey))
    assert is_encoded
    return base64.b64encode(png.tobytes()).decode()
