from __future__ import annotations

import json

from boneage.errors import Fault
from boneage.prediction import fhir
from boneage.prediction.answers import (
    Answer,
    AppliedCalibration,
    Estimate,
    Interval,
    ModelIdentity,
)
from boneage.prediction.fhir import fhir_observation, write_fhir_answer
from boneage.prediction.sd_score import compare_ages, load_reference
from boneage.radiographs.image_quality import ImageFinding

MODEL = ModelIdentity("my-run", "", "ab" * 32)
CALIBRATION = AppliedCalibration(120, "2026-11-30", "b" * 64, "+5.00 months", 5.0)
PATH = "/secret/Doe.png"
MONTHS = {"unit": "months", "system": "http://unitsofmeasure.org", "code": "mo"}
# The elements of an R4 Observation that an answer may have.
ELEMENTS = {
    *("resourceType", "status", "category", "code", "subject", "valueQuantity", "method"),
    *("dataAbsentReason", "note", "device", "component"),
}


def test_an_answer_is_an_observation_of_the_bone_age(monkeypatch):
    comparison = compare_ages(118.83, "M", 110.0, load_reference(), (105.6, 132.9))
    estimate = Estimate("M", 118.83, Interval(0.9, 105.63, 132.93), comparison, CALIBRATION)
    finding = ImageFinding("turned-hand", "the hand is probably upside down", "Check it.")
    answer = Answer(
        *(PATH, "answered", (estimate,)),
        findings=(finding,), chronological_age_months=110.0, models=(MODEL,),
    )  # fmt: skip
    found = fhir_observation(answer, "Patient/7")
    assert set(found) <= ELEMENTS
    assert (found["resourceType"], found["status"]) == ("Observation", "preliminary")
    (code,) = found["code"]["coding"]
    assert (code["system"], code["code"]) == ("http://loinc.org", "85151-9")
    assert found["valueQuantity"] == {"value": 118.8, **MONTHS}
    assert found["subject"] == {"reference": "Patient/7"}
    assert "subject" not in fhir_observation(answer)
    notes = [note["text"] for note in found["note"]]
    assert notes[0].startswith("Research use only.")
    assert any("upside down" in note for note in notes)
    assert any("The answer is calibrated +5.0 months" in note for note in notes)
    assert MODEL.digest in found["device"]["display"]
    age, interval, score = found["component"]
    assert age["valueQuantity"]["value"] == 110.0
    assert interval["code"]["text"] == "90 % prediction interval, for a boy"
    assert interval["valueRange"]["low"] == {"value": 105.6, **MONTHS}
    assert interval["valueRange"]["high"] == {"value": 132.9, **MONTHS}
    assert score["valueQuantity"]["value"] == 0.97
    assert score["interpretation"] == [{"text": "indeterminate"}]
    assert "method" not in found
    assert "Doe" not in json.dumps(found)
    monkeypatch.setattr(fhir, "is_trained_on_greulich_pyle", lambda models: True)
    assert fhir_observation(answer)["method"]["coding"][0]["code"] == "252956001"


def test_an_unknown_sex_gives_components_and_no_value():
    """R4, obs-7: no value if a component has the code of the observation."""
    estimates = Estimate("F", 118.83), Estimate("M", 108.2)
    found = fhir_observation(Answer(PATH, "answered", estimates, models=(MODEL,)))
    assert set(found) <= ELEMENTS - {"valueQuantity"}
    ages = {each["code"]["text"]: each["valueQuantity"]["value"] for each in found["component"]}
    assert ages == {"Bone age, for a girl": 118.8, "Bone age, for a boy": 108.2}


def test_a_refusal_is_a_cancelled_observation_with_its_reason():
    fault = Fault(PATH, "every pixel is 0", "Check it.")
    found = fhir_observation(Answer(PATH, "refused", fault=fault, models=(MODEL,)))
    assert set(found) <= ELEMENTS - {"valueQuantity", "component"}
    assert found["status"] == "cancelled"
    assert found["dataAbsentReason"]["text"] == "refused: every pixel is 0"
    assert found["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "Doe" not in json.dumps(found)


def test_a_repeated_run_writes_the_same_file(tmp_path):
    hand = tmp_path / f"{'hand' * 50}.png"
    hand.write_bytes(b"pixels")
    answer = Answer(PATH, "answered", (Estimate("F", 118.83),), models=(MODEL,))
    path = write_fhir_answer(hand, answer, tmp_path / "out", "Patient/7")
    found = json.loads(path.read_text())
    assert found["subject"] == {"reference": "Patient/7"}
    (identifier,) = found["identifier"]
    assert path.name.endswith(f"{identifier['value'].removeprefix('urn:uuid:')}.json")
    assert write_fhir_answer(hand, answer, tmp_path / "out", "Patient/7") == path
    hand.write_bytes(b"other pixels")
    assert write_fhir_answer(hand, answer, tmp_path / "out", "Patient/7") != path
    fault = Fault(PATH, "it is damaged", "Check it.")
    unreadable = Answer(PATH, "unreadable", fault=fault, models=(MODEL,))
    assert write_fhir_answer(tmp_path / "absent", unreadable, tmp_path / "out") is None
