"""What a contributor or a forge reads: citation, issue forms, security."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import boneage

ROOT = Path(__file__).parent.parent
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
FIELDS = {"markdown": {"value"}, "checkboxes": {"label", "options"}, "input": {"label"}}
FIELDS |= {"textarea": {"label"}, "dropdown": {"label", "options"}}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_names_this_version_and_no_address_that_nobody_owns():
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == boneage.__version__
    assert not {"doi", "identifiers", "url", "repository-code", "contact"} & set(citation)
    assert "Halabi" in str(citation["references"])  # as README.md asks


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_for_the_doctor_and_for_no_patient(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert set(part) <= {"type", "id", "attributes", "validations"}
        assert FIELDS[part["type"]] <= set(part["attributes"])
    doctor = next(part for part in form["body"] if part.get("id") == "doctor")
    assert "boneage doctor --json" in doctor["attributes"]["label"]
    first = form["body"][0]["attributes"]["value"]
    assert re.search(r"\*\*Attach no\s+radiograph", first)
    privacy = form["body"][-1]["attributes"]["options"]
    assert all(option["required"] for option in privacy)


def test_there_are_three_forms_and_no_issue_without_one():
    assert [path.stem for path in FORMS] == ["bug", "data", "question"]
    assert read(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml") == {
        "blank_issues_enabled": False
    }


@pytest.mark.parametrize("name", ["CODE_OF_CONDUCT.md", "SECURITY.md"])
def test_a_report_goes_to_the_private_form_and_holds_no_patient(name):
    text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
    assert "private report form of the forge" in text
    assert "data of a patient" in text
    assert not re.search(r"\S@\S+\.\w", text)
    assert "boneage doctor --json" in text or name != "SECURITY.md"


def test_what_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    for path in re.findall(r"`((?:boneage|tests|experiments|data|docs)/[\w./-]*)`", text):
        assert (ROOT / path.replace("NAME", "phantom")).exists(), path
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {"test", "train", "lint", "types", "lock", "help"} <= set(targets)
