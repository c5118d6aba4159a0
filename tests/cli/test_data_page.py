"""Every verb, option and link of data/README.md exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from boneage.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "data" / "README.md").read_text(encoding="utf-8")


def verbs(command: Any) -> Iterator[Any]:
    if not hasattr(command, "commands"):
        yield command
    for inner in getattr(command, "commands", {}).values():
        yield from verbs(inner)


def test_every_verb_and_option_of_the_page_exists() -> None:
    root: Any = typer.main.get_command(app)
    known = {text for verb in verbs(root) for parameter in verb.params for text in parameter.opts}
    assert not set(re.findall(r"--[a-z][a-z0-9-]*", PAGE)) - known
    imports = root.commands["data"].commands["import"].commands
    assert set(re.findall(r"data import ([a-z]+)", PAGE)) == set(imports)


def test_every_link_of_the_page_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^):]+)\)", PAGE):
        file, _, heading = target.partition("#")
        path = ROOT / "data" / file if file else ROOT / "data" / "README.md"
        headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        slugs = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert not heading or heading in slugs, target
