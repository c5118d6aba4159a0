"""The texts of the page, and what its files may hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from boneage.prediction.sd_score import load_reference

PACKAGE = Path(__file__).parents[2] / "boneage"
PAGE = PACKAGE / "serving" / "page"
TEXTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((PAGE / "texts").glob("*.json"))
}
SOURCES = sorted(path for path in PAGE.iterdir() if path.suffix in {".html", ".css", ".js", ".svg"})
CODE = re.compile(r'ImageFinding\(\s*"([a-z-]+)"|^UNFAMILIAR = "([a-z-]+)"', re.MULTILINE)


def codes() -> set[str]:
    """The codes of all findings of the package."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    return {"".join(groups) for text in texts for groups in CODE.findall(text)}


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


@pytest.mark.parametrize("language", TEXTS)
def test_every_language_has_the_same_texts_and_places(language: str) -> None:
    english = {key: places(text) for key, text in TEXTS["en"].items()}
    assert {key: places(text) for key, text in TEXTS[language].items()} == english
    assert all(text.strip() or key == "age.join" for key, text in TEXTS[language].items())


def test_every_language_is_offered() -> None:
    listed = re.search(r"LANGUAGES = \{(.*)\}", (PAGE / "texts.js").read_text(encoding="utf-8"))
    assert listed is not None
    assert sorted(re.findall(r"(\w+):", listed[1])) == sorted(TEXTS)


def test_every_finding_has_a_text() -> None:
    found = codes()
    assert {"inverted", "near-maturity", "other-sex", "rotated", "unfamiliar"} <= found
    assert {code for code in found if f"finding.{code}" not in TEXTS["en"]} == set()


def test_every_text_of_a_finding_is_of_a_code() -> None:
    prefix = re.compile(r"(?:finding|refusal)\.([a-z-]+)")
    named = {match[1] for key in TEXTS["en"] if (match := prefix.match(key))}
    assert named - codes() == {"title", "hint"}


def test_the_reference_has_a_name_in_every_language() -> None:
    name = load_reference().name
    assert all(f"reference.{name}" in texts for texts in TEXTS.values())


def test_every_text_that_the_page_names_exists() -> None:
    named = set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r'data-(?:text|label)="([^"]+)"', text))
        named |= set(re.findall(r'\bt\("([^"]+)"', text))
    assert named - set(TEXTS["en"]) == set()


def test_the_page_is_light() -> None:
    files = [path for path in PAGE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 300_000
    assert max(path.stat().st_size for path in files if path.suffix == ".png") <= 40_000


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_names_no_other_server_and_needs_no_loose_policy(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "//" not in re.sub(r"^\s*//.*$|[;{] // .*$|, // .*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=\"", text)
