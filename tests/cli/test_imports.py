from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boneage.datasets.importers import entry_points
from boneage.datasets.manifest import Manifest, read_manifest

README = Path(__file__).parents[2] / "data" / "README.md"


def test_the_example_in_the_documentation_installs_and_runs(cohort: Path, tmp_path: Path) -> None:
    package, site = tmp_path / "boneage-clinic", tmp_path / "site"
    package.mkdir()
    for name, language in (("pyproject.toml", "toml"), ("boneage_clinic.py", "python")):
        block = re.search(rf"```{language}\n# {name}\n(.*?)```", README.read_text(), re.DOTALL)
        assert block is not None, f"data/README.md has no {name}"
        (package / name).write_text(block.group(1))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *offline, "--target", site, package], check=True)
    (tmp_path / "scans").mkdir()
    table = read_manifest(cohort).table.head(20)
    for row, path in zip(table.itertuples(), read_manifest(cohort).image_paths(), strict=False):
        shutil.copy(path, tmp_path / "scans" / f"{row.image_id}_{row.sex}_{row.age_months:.0f}.png")
    command = [sys.executable, "-c", "from boneage.cli.main import main; main()", "data", "import"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip

    assert "Import the clinic's radiographs" in run("--help")
    assert "20 images" in run("clinic", "scans", "--out", "clinic.csv")
    manifest = read_manifest(tmp_path / "clinic.csv")
    assert manifest.table["image_id"].tolist() == sorted(table["image_id"])
    assert set(manifest.table["source"]) == {"clinic, seeded split"}


class Offered(EntryPoint):
    """An entry point of a package that is not installed; it names a function of this module."""

    def load(self) -> Any:
        return globals()[self.value]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch):
    """Pretend that installed packages offer these importers: names, or (name, package)."""

    def offer(*names: str | EntryPoint | tuple[str, str]) -> None:
        points = []
        for name in names:
            if isinstance(name, EntryPoint):
                points.append(name)
                continue
            name, package = (name, "boneage-clinic") if isinstance(name, str) else name
            point = Offered(name, name, entry_points.GROUP)
            vars(point)["dist"] = SimpleNamespace(name=package)
            points.append(point)
        monkeypatch.setattr(entry_points, "entry_points", lambda group: points)

    return offer


def fails(source: Path, out: Path) -> Manifest:
    """Divide by nothing."""
    assert out == Path("manifest.csv")
    raise ZeroDivisionError("by nothing")


def stops(source: Path, out: Path) -> Manifest:
    raise KeyboardInterrupt


def returns_nothing(source: Path, out: Path) -> None: ...
def wants_more(source: Path, out: Path, *, column: str) -> None: ...


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fails", r"it failed (ZeroDivisionError: by nothing)"),
        ("returns_nothing", "it returned NoneType instead of a Manifest"),
        ("wants_more", "missing 1 required keyword-only argument: 'column'"),
    ],
)
def test_a_plug_in_that_fails_is_named_with_its_package(
    boneage, refused, offer, name: str, what: str
) -> None:
    offer(name)
    where = f"boneage data import {name} (from boneage-clinic): "
    contract = "An importer is one function (source: Path, out: Path) -> Manifest."
    refused(boneage("data", "import", name, "scans"), where, what, contract)
    offer("stops")
    assert boneage("data", "import", "stops", "scans")[0] == 130  # as after Ctrl-C


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("no_such_module:function", "can't be loaded (ModuleNotFoundError"),
        ("math:pi", "math:pi is not a function"),
    ],
)
def test_a_broken_plug_in_is_listed_as_such_and_the_others_work(
    boneage, refused, offer, value: str, what: str
) -> None:
    offer(EntryPoint("broken", value, entry_points.GROUP), "fails")
    _, listed, _ = boneage("data", "import", "--help")
    assert re.search("broken +Broken: ", listed)
    assert re.search("fails +Divide by nothing", listed)
    assert re.search("rsna +Import the RSNA 2017 challenge set.", listed)
    refused(boneage("data", "import", "broken", "scans"), "(from an unknown package)", what)


def test_a_name_that_is_taken(boneage, refused, offer) -> None:
    offer("rsna", ("fails", "b-scans"), ("fails", "a-scans"))
    _, listed, _ = boneage("data", "import", "--help")
    assert listed.count("\n  rsna ") == 1
    assert "Another package offers rsna, too." in listed
    answer = boneage("data", "import", "fails", "scans")
    refused(answer, "(from a-scans and b-scans)", "several packages offer this name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rsna", "nothing"], "nothing"),
        (["rhpe", "nothing"], "nothing"),
        (["dha", "nothing", "--labels", "x.csv", "--readings-unit", "years"], "nothing"),
        (["dicom", "nothing", "--labels", "x.csv", "--age", "a", "--age-unit", "years"], "x.csv"),
        (["dicom", "folder", "--ages", "x"], "Use --labels."),
        (["dha", "folder", "--readings", "x"], "Use --labels."),
        (["dicom", "folder", "--films", "x"], "images are always written"),
        (["nowhere"], "No such command 'nowhere'"),
    ],
)
def test_what_is_not_there_and_options_of_earlier_versions_are_refused(
    boneage, refused, tmp_path, arguments, message
) -> None:
    refused(boneage("data", "import", *arguments), message)
    assert not list(tmp_path.iterdir())
