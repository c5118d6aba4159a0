"""Plain English: no words of a private language, short lines, short sentences."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in ROOT.glob("*.md")) + sorted(
    path
    for folder in ("boneage", "data", "docs", "experiments")
    for path in (ROOT / folder).rglob("*.md")
    if folder != "data" or path.parent == ROOT / "data"  # a checkout's own data lies there too
)
MODULES = sorted((ROOT / "boneage").rglob("*.py"))
FORBIDDEN = re.compile(
    r"\b(films?|told|anew|unsaid|whoever|gainsay|twofold|begun|looks?|lacks?|lacking|mends?|mended"
    r"|beside|taken for|goes on|go on|can't be done)\b",
    re.IGNORECASE,
)
MOST_WORDS = 30


def page_lines(path: Path) -> Iterator[str]:
    """The lines of a page that are prose: no code, no tables."""
    code = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            code = not code
            yield ""
        elif not code:
            yield "" if line.startswith("|") else line


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, without code spans and addresses."""
    text = re.sub(r"`[^`]*`", "`", text)
    text = re.sub(r"\]\([^)]*\)|<?https?://\S+", "]", text)
    for part in re.split(r"\n\s*\n|\n\s*(?:[-*#]|\d+\.)\s|(?<=[.:!?])\s+", text):
        yield " ".join(part.split())


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """What a module says: strings with blanks in them, and the first lines of docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
                yield first.lineno, str(first.value.value).splitlines()[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or node in docstrings:
            continue
        if isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_in_plain_english(path: Path) -> None:
    lines = list(page_lines(path))
    long = [line for line in lines if len(line) > 100 and "](" not in line and "http" not in line]
    parts = list(sentences("\n".join(lines)))
    assert not long
    assert not [part for part in parts if FORBIDDEN.search(part)]
    assert not [part for part in parts if len(part.split()) > MOST_WORDS]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_module_says_is_in_plain_english(path: Path) -> None:
    said = [(line, part) for line, text in strings(path) for part in sentences(text)]
    assert not [(line, part) for line, part in said if FORBIDDEN.search(part)]
    assert not [(line, part) for line, part in said if len(part.split()) > MOST_WORDS]


def test_the_notebook_is_in_plain_english() -> None:
    path = ROOT / "experiments" / "notebook" / "boneage.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert not [line for line in text.splitlines() if len(line) > 100]
    assert not [part for part in sentences(text) if FORBIDDEN.search(part)]
    assert not [part for part in sentences(text) if len(part.split()) > MOST_WORDS]
