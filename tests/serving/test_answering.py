from __future__ import annotations

import base64
import io
import json
from http import HTTPStatus
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

import boneage
from boneage.datasets.phantom.cohort import phantom
from boneage.prediction.predict import Estimator
from boneage.radiographs.file_limits import Upload
from boneage.radiographs.image_quality import highest_level
from boneage.radiographs.reader import read_radiograph
from boneage.serving.answering import answer_upload, describe_models
from boneage.serving.asking import Asked, Kind

HAND = phantom(3, 0, 400).image
IDENTIFIERS = {
    "SOPInstanceUID": "1.2.826.0.1.3680043.10.999.1",
    "StudyInstanceUID": "1.2.826.0.1.3680043.10.999.2",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.10.999.3",
    "PatientSex": "M",
    "PatientAge": "096M",
    "BodyPartExamined": "HAND",
    "Laterality": "L",
}


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return boneage.load("rsna-best", views=1)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()


def ask(estimator: Estimator, content: bytes, kind: Kind = "predict", **asked: Any) -> Any:
    reply = answer_upload(estimator, Asked(kind, "hand.png", **asked), content)
    return reply, json.loads(reply.body)


def picture(text: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_answer_is_that_of_predict(estimator, tmp_path):
    (tmp_path / "hand.png").write_bytes(png(HAND))
    reply, values = ask(estimator, png(HAND), sex="F", chronological_age_months=90.0)
    expected = estimator.predict(tmp_path / "hand.png", "F", 90.0).as_dict()
    assert (reply.status, reply.outcome) == (200, "answered")
    assert values == json.loads(json.dumps({**expected, "image": "hand.png"}))


def test_without_a_sex_there_is_an_answer_and_there_are_atlas_ages_for_each(estimator):
    _, values = ask(estimator, png(HAND), has_pictures=True)
    assert set(values["by_sex"]) == set(values["page"]["atlas_ages"]) == {"F", "M"}


def test_the_page_gets_the_whole_radiograph_and_where_the_framed_part_lies(estimator):
    _, values = ask(estimator, png(HAND), sex="F", has_pictures=True)
    page = values["page"]
    assert (page["radiograph"]["width"], page["radiograph"]["height"]) == HAND.shape[::-1]
    assert np.array_equal(picture(page["radiograph"]["png"]), HAND)
    assert page["header"]["is_dicom"] is False
    framed, size = picture(page["framed"]), estimator.predictor.groups[0].framing.size
    assert framed.shape == (size, size)
    # The corners of the outline lead back to the pixels of the framed image.
    corners = np.float32(page["outline"]) * np.float32(HAND.shape[::-1])
    ends = np.float32([(0, 0), (size, 0), (size, size)])
    there = cv2.warpAffine(HAND, cv2.getAffineTransform(corners[:3], ends), (size, size))
    inside = framed > 0
    assert np.corrcoef(there[inside], framed[inside])[0, 1] > 0.9


def test_an_inverted_radiograph_is_shown_as_it_is_answered(estimator):
    inverted = (highest_level(HAND) - HAND).astype(np.uint8)
    _, values = ask(estimator, png(inverted), sex="F", has_pictures=True)
    assert "inverted" in [finding["code"] for finding in values["findings"]]
    assert np.array_equal(picture(values["page"]["radiograph"]["png"]), HAND)


def test_of_two_hands_the_outline_lies_on_the_half_that_is_answered(estimator):
    two = np.hstack([HAND, HAND[:, ::-1]])
    _, values = ask(estimator, png(two), sex="F", has_pictures=True)
    codes = [finding["code"] for finding in values["findings"]]
    assert values["status"] == "answered"
    assert "two-hands" in codes
    assert np.array(values["page"]["outline"])[:, 0].mean() < 0.5  # the left half
    assert values["page"]["radiograph"]["width"] == 2 * HAND.shape[1]


def test_a_refusal_is_a_result_with_a_code(estimator):
    blank = np.zeros((300, 300), np.uint8)
    reply, values = ask(estimator, png(blank), sex="F", has_pictures=True)
    assert (reply.status, values["status"], values["reason_code"]) == (
        200,
        "refused",
        "blank-image",
    )
    assert values["page"]["framed"] is None
    assert values["page"]["outline"] is None
    reply, values = ask(estimator, png(blank), "explain", sex="F")
    assert (reply.status, reply.media_type) == (422, "application/problem+json")
    assert "every pixel is 0" in values["detail"]


def test_a_file_that_is_no_image_is_a_problem(estimator):
    for content in (b"hello", b"", png(HAND)[:2000]):
        reply, values = ask(estimator, content, sex="F")
        assert (reply.status, reply.outcome, values["status"]) == (422, "unreadable", 422)
        assert "hand.png" not in values["detail"]


@pytest.mark.slow
def test_the_heat_map_has_the_geometry_of_the_framed_image(estimator):
    reply, values = ask(estimator, png(HAND), "explain", sex="F")
    heat, size = picture(values["heat"]), estimator.predictor.groups[0].framing.size
    assert reply.status == 200
    assert heat.shape == (size, size)
    assert heat[0, 0] == 128
    assert np.abs(heat.astype(int) - 128).max() > 20
    assert values["limit_months"] >= 3


def test_dicom_gives_its_header_and_documents(estimator, tmp_path, write_dicom):
    pytest.importorskip("highdicom", reason='needs the extra "dicom"')
    content = write_dicom(tmp_path / "hand.dcm", **IDENTIFIERS).read_bytes()
    _, values = ask(estimator, content, has_pictures=True)
    assert values["sex"] == "M"
    header = {"is_dicom": True, "sex": "M", "chronological_age_months": 96, "laterality": "L"}
    assert values["page"]["header"] == header
    for kind, modality in (("report", "SR"), ("image", "OT")):
        reply = answer_upload(estimator, Asked(kind, "hand.dcm"), content)
        assert reply.media_type == "application/dicom"
        assert pydicom.dcmread(io.BytesIO(reply.body)).Modality == modality
    reply, values = ask(estimator, png(HAND), "report", sex="F")
    assert reply.status == 422
    assert "Upload a DICOM file" in values["detail"]


def test_an_upload_shows_its_name_and_not_its_content():
    upload = Upload("hand.png", png(HAND))
    assert str(upload) == "hand.png"
    assert "PNG" not in repr(upload)
    assert np.array_equal(read_radiograph(upload), HAND)


@pytest.mark.slow
def test_replies_are_as_they_are_described(estimator):
    schemas = pytest.importorskip("boneage.serving.schemas", reason='needs the extra "serve"')
    blank = png(np.zeros((300, 300), np.uint8))
    known = {"sex": "F", "chronological_age_months": 90.0, "has_pictures": True}
    phrase = HTTPStatus(422).phrase  # Python 3.13 has another than 3.12
    for schema, values in (
        (schemas.PredictionObject, ask(estimator, png(HAND), **known)[1]),
        (schemas.PredictionObject, ask(estimator, png(HAND))[1]),
        (schemas.PredictionObject, ask(estimator, blank, **known)[1]),
        (schemas.HeatObject, ask(estimator, png(HAND), "explain", sex="F")[1]),
        (schemas.ProblemObject, ask(estimator, blank, "explain")[1]),
        (schemas.ProblemObject, ask(estimator, b"hello")[1]),
        (schemas.ModelsObject, json.loads(json.dumps(describe_models(estimator)))),
    ):
        schema.model_validate(values, strict=True, extra="forbid")
        assert values.get("title", phrase) == phrase


def test_the_models_are_described(estimator):
    values = describe_models(estimator)
    assert values["models"][0]["name"] == "rsna-best"
    assert (values["views"], values["level"], values["has_intervals"]) == ([1], 0.9, True)
