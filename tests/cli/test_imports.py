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
from typer.testing import CliRunner

from boneage.cli.imports import import_app
from boneage.datasets.importers import entry_points as plugins
from boneage.datasets.manifest import Manifest, read_manifest
from boneage.errors import Fault, InputError

README = Path(__file__).parents[2] / "data" / "README.md"
BROKEN = EntryPoint("broken", "no_such_module:function", plugins.GROUP)
NUMBER = EntryPoint("number", "math:pi", plugins.GROUP)


def example_package(folder: Path) -> Path:
    """The package in data/README.md, as a reader would copy it."""
    text = README.read_text(encoding="utf-8")
    for name, language in (("pyproject.toml", "toml"), ("boneage_clinic.py", "python")):
        block = re.search(rf"```{language}\n# {re.escape(name)}\n(.*?)```", text, re.DOTALL)
        assert block is not None, f"data/README.md has no {name}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(block.group(1))
    return folder


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch):
    """Pretends that installed packages offer these importers."""

    def offering(*points: EntryPoint) -> None:
        monkeypatch.setattr(plugins, "entry_points", lambda group: points)

    return offering


def test_the_example_in_the_documentation_installs_and_runs(cohort: Path, tmp_path: Path) -> None:
    package, site = example_package(tmp_path / "boneage-clinic"), tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *offline, "--target", site, package], check=True)
    radiographs = tmp_path / "films"
    radiographs.mkdir()
    table = read_manifest(cohort).table.head(20)
    for row, path in zip(table.itertuples(), read_manifest(cohort).image_paths(), strict=False):
        shutil.copy(path, radiographs / f"{row.image_id}_{row.sex}_{row.age_months:.0f}.png")
    command = [sys.executable, "-c", "from boneage.cli.main import main; main()", "data", "import"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}

    def boneage(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert "Import the clinic's films" in boneage("--help")
    assert "--seed" in boneage("clinic", "--help")
    assert "20 images" in boneage("clinic", "films", "--seed", "1", "--out", "clinic.csv")
    manifest = read_manifest(tmp_path / "clinic.csv")
    assert manifest.table["image_id"].tolist() == sorted(table["image_id"])
    assert set(manifest.table["source"]) == {"clinic, seeded split"}


def test_a_broken_importer_is_listed_as_such_and_the_others_work(offer) -> None:
    offer(BROKEN)
    listed = CliRunner().invoke(import_app, ["--help"]).output
    assert re.search(r"rsna .*official archives", listed)
    assert re.search(r"broken .*Broken: no_such_module:function can't be loaded", listed)


@pytest.mark.parametrize(
    ("point", "what"),
    [(BROKEN, r"can't be loaded \(ModuleNotFoundError"), (NUMBER, "math:pi is no function")],
)
def test_a_broken_importer_says_whose_it_is(offer, point: EntryPoint, what: str) -> None:
    offer(point)
    result = CliRunner().invoke(import_app, [point.name, "somewhere", "--with", "options"])
    assert isinstance(result.exception, InputError)
    assert re.search(what, str(result.exception))
    assert "an unknown package" in str(result.exception)


class Offered(EntryPoint):
    """An entry point that names a function of this module."""

    def load(self) -> Any:
        return globals()[self.value]


def offered(name: str, package: str = "boneage-clinic") -> EntryPoint:
    point = Offered(name, name, plugins.GROUP)
    vars(point)["dist"] = SimpleNamespace(name=package)
    return point


def test_an_importer_that_makes_no_manifest_is_refused(offer) -> None:
    offer(offered("nothing"))
    result = CliRunner().invoke(import_app, ["nothing", "films"])
    assert "it returned NoneType; expected a Manifest" in str(result.exception)


def nothing(folder: Path, out: Path) -> Manifest | None:
    """Makes nothing."""
    assert isinstance(folder, Path)
    assert out == Path("manifest.csv")


def no_out(folder: Path) -> None: ...
def any_options(folder: Path, out: Path, **options: str) -> None: ...
def any_radiographs(*radiographs: Path, out: Path) -> None: ...
def by_place(folder: Path, /, out: Path) -> None: ...
def unknown_hint(folder: Nowhere, out: Path) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def untold(out: Path, limits=(1, 2)) -> None: ...
def no_option(out: Path, column: int | str) -> None: ...
def two_faults(*radiographs: Path) -> None: ...


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no_out", "no_out has no parameter out"),
        ("any_options", "parameter options stands for any number"),
        ("any_radiographs", "parameter radiographs stands for any number"),
        ("by_place", "parameter folder is positional-only"),
        ("unknown_hint", r"signature of unknown_hint can't be read \(NameError"),
        ("untold", "parameter limits has no type"),
        ("no_option", r"parameters can't be options \("),
        ("two_faults", "(?s)no parameter out.*radiographs stands for any number"),
    ],
)
def test_a_signature_that_no_verb_can_have_breaks_that_importer_alone(
    offer, name: str, what: str
) -> None:
    offer(offered(name), offered("fails"))
    listed = CliRunner().invoke(import_app, ["--help"])
    assert listed.exit_code == 0
    assert re.search(rf"{name} +Broken: ", listed.output)
    assert re.search(r"fails +Falls over", listed.output)
    result = CliRunner().invoke(import_app, [name, "films"])
    assert isinstance(result.exception, InputError)
    assert re.search(what, str(result.exception))
    assert "(from boneage-clinic)" in str(result.exception)


def test_a_module_that_exits_when_it_is_loaded_is_only_broken(offer, monkeypatch) -> None:
    def leave(point: EntryPoint) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(Offered, "load", leave)
    offer(offered("fails"))
    listed = CliRunner().invoke(import_app, ["--help"])
    assert listed.exit_code == 0
    assert re.search(r"fails +Broken: fails can't be loaded \(SystemExit", listed.output)


def fails(folder: Path, out: Path, error: str = "") -> Manifest:
    """Falls over."""
    raise {"stop": KeyboardInterrupt}.get(error, ZeroDivisionError)("by nothing")


def test_what_an_importer_raises_is_told_with_its_name_and_package(offer) -> None:
    offer(offered("fails"))
    result = CliRunner().invoke(import_app, ["fails", "films"])
    assert isinstance(result.exception, InputError)  # main exits with 2
    assert "import fails (from boneage-clinic): it failed (ZeroDivisionError: by nothing)" in str(
        result.exception
    )
    assert isinstance(result.exception.__cause__, ZeroDivisionError)
    stopped = CliRunner().invoke(import_app, ["fails", "films", "--error", "stop"])
    assert stopped.exit_code == 130


def without_hints(
    folder, out, count=3, share=0.5, strict=False, word="a", table=Path("t"), to=None
):
    kinds = " ".join(type(value).__name__ for value in (count, share, strict, word, to))
    assert isinstance(folder, Path)
    assert isinstance(table, Path)
    assert isinstance(out, Path)
    raise InputError(Fault("here", kinds, "Well.", expected="them"))


def test_parameters_without_types_have_those_of_their_defaults(offer) -> None:
    offer(offered("without_hints"))
    options = "--count 4 --share 1 --strict --word b --table u --to v --out m.csv"
    result = CliRunner().invoke(import_app, ["without_hints", "films", *options.split()])
    assert str(result.exception).startswith("here: int float bool str str;")


def test_ours_can_not_be_replaced(offer) -> None:
    offer(EntryPoint("rsna", "no_such_module:function", plugins.GROUP))
    listed = CliRunner().invoke(import_app, ["--help"]).output
    assert listed.count("\n  rsna ") == 1
    assert "Broken" not in listed
    assert "rsna of an unknown package is hidden by boneage's own." in listed


def test_of_two_of_one_name_the_first_package_wins_and_the_other_is_named(offer) -> None:
    offer(offered("fails", "b-films"), offered("fails", "a-films"))
    listed = CliRunner().invoke(import_app, ["--help"]).output
    assert listed.count("Falls over") == 1
    assert "fails of b-films is hidden by that of a-films." in listed
    result = CliRunner().invoke(import_app, ["fails", "films"])
    assert "(from a-films)" in str(result.exception)


def test_there_is_no_importer_of_an_unknown_name(offer) -> None:
    offer()
    result = CliRunner().invoke(import_app, ["nowhere"])
    assert result.exit_code == 2
    assert "No such command 'nowhere'" in result.output


@pytest.mark.parametrize("name", ["rsna", "rhpe", "dha", "table", "dicom"])
def test_every_importer_refuses_what_is_not_there(name: str, tmp_path: Path) -> None:
    columns = ["--age", "age", "--age-unit", "years"]
    options = {
        "dha": ["--readings", str(tmp_path / "readings.csv")],
        "table": ["--image", "file", *columns, "--sex", "sex", "--female", "f", "--male", "m"],
        "dicom": ["--ages", str(tmp_path / "ages.csv"), *columns],
    }
    out = tmp_path / "manifest.csv"
    arguments = [name, str(tmp_path / "nothing"), *options.get(name, []), "--out", str(out)]
    result = CliRunner().invoke(import_app, arguments)
    assert isinstance(result.exception, InputError)
    assert "; expected " in str(result.exception)
    assert not out.exists()
