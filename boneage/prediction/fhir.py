"""Give an answer as a FHIR R4 Observation, one dict to write as JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boneage import __version__
from boneage.prediction.answers import RESEARCH_ONLY, Answer, Estimate
from boneage.prediction.shipped import is_trained_on_greulich_pyle
from boneage.runtime.files import write_json
from boneage.runtime.provenance import file_digest

_LOINC = "http://loinc.org"
_SNOMED = "http://snomed.info/sct"
_UCUM = "http://unitsofmeasure.org"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_BONE_AGE = {"system": _LOINC, "code": "85151-9", "display": "XR Bone age"}
_AGE = {"system": _LOINC, "code": "30525-0", "display": "Age"}
_METHOD = {"system": _SNOMED, "code": "252956001"}
_CHILD = {"F": "girl", "M": "boy"}
_NAMESPACE = uuid.UUID("0b7a4b52-0c1c-5f0e-8a55-3f5f7f3b8e16")
_LONGEST_STEM = 80  # characters of the image's name in that of the file


def write_fhir_answer(
    radiograph: Path, answer: Answer, folder: Path, subject: str | None = None
) -> Path | None:
    """Write an answer as a file with one Observation.

    The observation gets a UUID as its identifier. The UUID follows from the image and the answer,
    so a server can tell a repeated run.

    Args:
        radiograph: The image that was answered.
        answer: The answer.
        folder: Folder for the file, made if it is missing.
        subject: The reference to the patient, such as `Patient/123`. Default: none.

    Returns:
        The file, `NAME-UUID.json` with the name of the image. None if the image was not judged.

    Raises:
        InputError: The image can't be read, or the file can't be written.
    """
    if answer.status not in ("answered", "refused"):
        return None
    observation = fhir_observation(answer, subject)
    text = json.dumps([file_digest(radiograph), observation], sort_keys=True)
    identity = uuid.uuid5(_NAMESPACE, text)
    identifier = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{identity}"}
    path = folder / f"{radiograph.stem[:_LONGEST_STEM]}-{identity}.json"
    write_json(path, {**observation, "identifier": [identifier]})
    return path


def fhir_observation(answer: Answer, subject: str | None = None) -> dict[str, Any]:
    """Return an answer as a FHIR R4 Observation.

    The path of the image and its header are left out, because they may identify the child. If the
    sex is not known, the bone ages of a girl and of a boy are components, and there is no value. An
    answer without an estimate is a cancelled observation with the reason.

    Args:
        answer: The answer.
        subject: The reference to the patient, such as `Patient/123`. Default: none.
    """
    one = answer.estimate
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "preliminary" if answer.estimates else "cancelled",
        "category": [{"coding": [_code("observation-category", "imaging")]}],
        "code": {"coding": [_BONE_AGE], "text": "Bone age"},
    }
    if subject is not None:
        observation["subject"] = {"reference": subject}
    if one is not None:
        observation["valueQuantity"] = _months(one.months)
    if not answer.estimates:
        reason = "" if answer.fault is None else f": {answer.fault.what}"
        observation["dataAbsentReason"] = {
            "coding": [_code("data-absent-reason", "not-performed")],
            "text": f"{answer.status}{reason}",
        }
    observation["note"] = [{"text": text} for text in _notes(answer)]
    if answer.estimates and is_trained_on_greulich_pyle(answer.models):
        observation["method"] = {
            "coding": [_METHOD],
            "text": "A neural network, which learned from readings by Greulich and Pyle",
        }
    models = [
        " ".join(filter(None, (model.name, model.version, f"(SHA-256 {model.digest})")))
        for model in answer.models
    ]
    observation["device"] = {"display": f"boneage {__version__}, model {' + '.join(models)}"}
    if components := list(_components(answer)):
        observation["component"] = components
    return observation


def _notes(answer: Answer) -> Iterator[str]:
    yield RESEARCH_ONLY
    yield from (f"{finding.what}. {finding.fix}" for finding in answer.findings)
    for estimate in answer.estimates:
        if estimate.calibration is not None:
            yield f"The answer is {estimate.calibration}."
        if estimate.comparison is not None:
            yield f"{estimate.comparison}. {estimate.comparison.note}"


def _components(answer: Answer) -> Iterator[dict[str, Any]]:
    if answer.chronological_age_months is not None:
        age = {"coding": [_AGE], "text": "Chronological age"}
        yield {"code": age, "valueQuantity": _months(answer.chronological_age_months)}
    for estimate in answer.estimates:
        child = f"for a {_CHILD[estimate.sex]}"
        if answer.estimate is None:
            code = {"coding": [_BONE_AGE], "text": f"Bone age, {child}"}
            yield {"code": code, "valueQuantity": _months(estimate.months)}
        yield from _details(estimate, child)


def _details(estimate: Estimate, child: str) -> Iterator[dict[str, Any]]:
    interval, comparison = estimate.interval, estimate.comparison
    if interval is not None:
        yield {
            "code": {"text": f"{100 * interval.level:g} % prediction interval, {child}"},
            "valueRange": {"low": _months(interval.low), "high": _months(interval.high)},
        }
    if comparison is not None and comparison.sd_score is not None:
        score = {"value": round(comparison.sd_score, 2), "unit": "SD", "system": _UCUM, "code": "1"}
        yield {
            "code": {"text": f"SD score of the bone age, {child}"},
            "valueQuantity": score,
            "interpretation": [{"text": comparison.assessment}],
        }


def _months(value: float) -> dict[str, Any]:
    return {"value": round(value, 1), "unit": "months", "system": _UCUM, "code": "mo"}


def _code(system: str, code: str) -> dict[str, str]:
    return {"system": f"{_TERMINOLOGY}/{system}", "code": code}
