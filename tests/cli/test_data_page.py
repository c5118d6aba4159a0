"""Every command of data/README.md runs, on small data, and every option in it exists."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from boneage.cli.app import app
from boneage.datasets.manifest import read_manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
LINES = "".join(text for language, text in BLOCKS if not language).replace("\\\n", "").splitlines()
# The imports first, and that of the table last: the other verbs read its manifest.
COMMANDS = sorted(LINES, key=lambda line: (" import " not in line, " table " in line))


def verbs(command: Any) -> Iterator[Any]:
    if not hasattr(command, "commands"):
        yield command
    for inner in getattr(command, "commands", {}).values():
        yield from verbs(inner)


@pytest.fixture
def data(cohort: Path, write_dicom, tmp_path: Path) -> None:
    """The files of a reader of the page: radiographs, a PACS export, tables of ages."""
    manifest = read_manifest(cohort)
    shutil.copy(manifest.image_paths()[0], tmp_path / "hand.png")
    table = pd.DataFrame(
        {
            "file": [str(path) for path in manifest.image_paths()],
            "bone age": manifest.table["age_months"] / 12,
            "sex": manifest.table["sex"].str.lower(),
        }
    )
    table.to_csv(tmp_path / "ages.csv", index=False)
    uids = [f"1.2.3.{number}" for number in range(20)]
    for uid in uids:
        write_dicom(tmp_path / "export" / uid, SOPInstanceUID=uid, PatientSex="F")
    months = pd.DataFrame({"SOPInstanceUID": uids, "bone age": range(60, 80)})
    months.to_excel(tmp_path / "ages.xlsx", index=False)


@pytest.mark.usefixtures("data")
def test_the_commands_of_the_page_run(boneage) -> None:
    assert len(COMMANDS) == 7
    for line in COMMANDS:
        code, out, err = boneage(*shlex.split(line, comments=True)[1:])
        assert code == 0, f"{line}\n{out}\n{err}"


def test_every_verb_and_option_of_the_page_exists() -> None:
    root: Any = typer.main.get_command(app)
    known = {text for verb in verbs(root) for parameter in verb.params for text in parameter.opts}
    assert not set(re.findall(r"--[a-z][a-z0-9-]*", PAGE)) - known
    imports = root.commands["data"].commands["import"].commands
    assert set(re.findall(r"data import ([a-z]+)", PAGE)) == {*imports, "clinic"}


def test_every_link_of_the_page_leads_somewhere() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    anchors = {f"#{heading.lower().replace(' ', '-')}" for heading in headings}
    for target in re.findall(r"\]\(([^):]+)\)", PAGE):
        file = target.partition("#")[0]
        assert target in anchors or (file and (ROOT / "data" / file).exists()), target
